// SPDX-License-Identifier: Apache-2.0
//! The files that tidy reads, and what a rule says about one of them. Knows no rule.

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result};

use crate::shell;

/// The kinds of file that are written by hand and can hold comments. The golden cases are left out: their text is
/// the test.
const KINDS: [&str; 8] = ["*.rs", "*.md", "*.toml", "*.yaml", "*.sh", "*.go", "*.mod", ".ci/run"];

/// One text file.
pub(super) struct Source {
    /// From the workspace's folder, with slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    /// Number (from 1) and text of each line, without comments. The rest of a string that contains `//` is lost
    /// too; no rule looks there.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or(line)))
    }

    pub(super) fn complaint(&self, line: usize, text: impl Into<String>) -> Complaint {
        Complaint { path: self.path.clone(), line, text: text.into() }
    }
}

/// One breach of a rule.
pub(super) struct Complaint {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// An entry of a rule's own table that no file needs.
pub(super) fn unused(rule: &str, entry: &str) -> Complaint {
    let text = format!("nothing needs the entry `{entry}`; remove it");
    Complaint { path: format!("xtask/src/tidy/{rule}.rs"), line: 1, text }
}

/// Reads all files of those kinds that git knows or would add.
pub(super) fn all() -> Result<Vec<Source>> {
    let mut git = shell::command("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]);
    let files = shell::output(git.arg("--").args(KINDS))?;
    files
        .lines()
        .map(|path| (path, shell::workspace().join(path)))
        // git still lists a file whose removal is not committed yet.
        .filter(|(_, file)| file.is_file())
        .map(|(path, file)| {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {path}"))?;
            Ok(Source { path: path.to_owned(), text })
        })
        .collect()
}

#[cfg(test)]
pub(super) fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::source;

    #[test]
    fn code_has_no_comments() {
        let file = source("llb-agent/src/plan/mod.rs", "one // two\n// three\n");
        assert_eq!(file.code().collect::<Vec<_>>(), [(1, "one "), (2, "")]);
    }
}
