// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a configuration file: all of it, one line for each mistake.

use std::fmt;
use std::sync::Arc;

/// The most mistakes that are told at once.
pub(super) const MOST: usize = 20;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1 on.
    pub line: usize,
    /// `None`: the file is no TOML there.
    pub key: Option<String>,
    /// What is wrong, and what would be right.
    pub text: String,
}

/// All mistakes of one file, in the order of their lines. At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    /// The path of the file, or the name of a ConfigMap.
    pub name: Arc<str>,
    /// In the order of the lines.
    pub all: Vec<Mistake>,
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Mistake { line, key, text }) in self.all.iter().take(MOST).enumerate() {
            let start = if position == 0 { "" } else { "\n" };
            write!(f, "{start}{}:{line}: ", self.name)?;
            if let Some(key) = key {
                write!(f, "{key}: ")?;
            }
            f.write_str(text)?;
        }
        match self.all.len().checked_sub(MOST).filter(|more| *more > 0) {
            Some(more) => write!(f, "\n{}: {more} more mistakes", self.name),
            None => Ok(()),
        }
    }
}
