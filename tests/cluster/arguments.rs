// SPDX-License-Identifier: Apache-2.0
//! The arguments of libtest that are of use here.

use anyhow::{Result, bail};

/// What the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    /// `--list`
    pub(crate) list: bool,
    /// `--ignored` or `--include-ignored`
    pub(crate) run_ignored: bool,
    exact: bool,
    names: Vec<String>,
    skip: Vec<String>,
}

impl Arguments {
    /// Parses the words of the command line, without the program's name.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => arguments.list = true,
                "--ignored" | "--include-ignored" => arguments.run_ignored = true,
                "--exact" => arguments.exact = true,
                "--skip" => arguments.skip.extend(words.next()),
                // Output is never captured, and all cases run on one thread anyway.
                "--nocapture" | "--no-capture" | "--show-output" | "-q" | "--quiet" => {}
                "--test-threads" | "--color" | "--format" => drop(words.next()),
                _ if word.starts_with("--test-threads=") || word.starts_with("--color=") => {}
                _ if word.starts_with('-') => bail!("unknown argument {word}"),
                _ => arguments.names.push(word),
            }
        }
        Ok(arguments)
    }

    /// Whether the command line selects the case with this name.
    pub(crate) fn selects(&self, name: &str) -> bool {
        let matches = |part: &String| if self.exact { name == part } else { name.contains(part.as_str()) };
        (self.names.is_empty() || self.names.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}
