// SPDX-License-Identifier: Apache-2.0
//! The house rules that a program can check, by reading files and nothing
//! else. What the compiler, rustfmt or clippy can check is left to them.

mod crates;
mod floors;
mod links;
mod spdx;
mod text;

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Checks every file that git knows, or would take.
///
/// # Errors
/// Something is untidy; all of it is printed, with file and line.
pub(crate) fn run() -> Result<()> {
    let sources = sources()?;
    let complaints: Vec<Complaint> = sources.iter().flat_map(check).collect();
    for complaint in &complaints {
        println!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!("tidy: {} complaints; the why of each rule is in xtask/src/tidy", complaints.len());
    }
    println!("tidy: {} files", sources.len());
    Ok(())
}

/// One text file.
struct Source {
    /// From the workspace's folder, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn is(&self, ending: &str) -> bool {
        self.path.ends_with(ending)
    }

    /// Number (from 1) and text of each line, without comments. What follows
    /// `//` inside of a string is lost too: no rule looks there.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or(line)))
    }

    /// The same, up to the tests at the end of the file.
    fn product_code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test_file = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let tests_start = match self.text.find("#[cfg(test)]\nmod ") {
            _ if is_test_file => 0,
            Some(offset) => self.text[..offset].lines().count(),
            None => usize::MAX,
        };
        self.code().take_while(move |(line, _)| *line <= tests_start)
    }

    fn complaint(&self, line: usize, text: impl Into<String>) -> Complaint {
        Complaint { path: self.path.clone(), line, text: text.into() }
    }
}

/// Something untidy.
struct Complaint {
    path: String,
    line: usize,
    text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

fn check(source: &Source) -> Vec<Complaint> {
    let mut complaints = spdx::check(source);
    if source.is(".rs") {
        complaints.extend(text::check(source));
        complaints.extend(floors::check(source));
        complaints.extend(crates::check(source));
    } else if source.is(".md") {
        complaints.extend(links::check(source, |path| shell::workspace().join(path).exists()));
    }
    complaints
}

/// Whatever is written by hand and can have comments, but the golden cases: their text is the test.
const FILES: [&str; 8] = ["*.rs", "*.md", "*.toml", "*.yaml", "*.sh", "*.go", "*.mod", ".ci/run"];

/// All files of those kinds, those not yet committed included.
fn sources() -> Result<Vec<Source>> {
    let mut git = shell::command("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]);
    let files = shell::output(git.arg("--").args(FILES))?;
    files
        .lines()
        .map(|path| (path, shell::workspace().join(path)))
        // A file that was removed but not yet committed is still listed.
        .filter(|(_, file)| file.is_file())
        .map(|(path, file)| {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {path}"))?;
            Ok(Source { path: path.to_owned(), text })
        })
        .collect()
}

/// Whether `word` stands in `line` by itself, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].chars().next_back().is_some_and(is_part)
            && !line[start + word.len()..].chars().next().is_some_and(is_part)
    })
}

#[cfg(test)]
fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{has_word, source};

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe { x }", "unsafe"));
        assert!(!has_word("#[expect(unsafe_code)]", "unsafe"));
    }

    #[test]
    fn product_code_ends_where_the_tests_begin() {
        let file = source("llb-agent/src/plan/mod.rs", "one // two\n#[cfg(test)]\nmod tests {\nthree\n");
        assert_eq!(file.product_code().collect::<Vec<_>>(), [(1, "one ")]);
        assert_eq!(source("llb-agent/src/plan/tests.rs", "one\n").product_code().count(), 0);
        assert_eq!(file.code().count(), 4);
    }
}
