// SPDX-License-Identifier: Apache-2.0
//! One word per thing: what the glossary's column "not this" lists is not said in code or documents.
//!
//! Why: a search for a word then finds all of the thing.

use super::source::{Complaint, Source};

pub(super) const GLOSSARY: &str = "docs/glossary.md";

/// This file's tests say what is banned.
const OWN: &str = "xtask/src/tidy/vocabulary.rs";

/// The banned words of the glossary.
#[derive(Default)]
struct Glossary {
    banned: Vec<Banned>,
    exceptions: Vec<Exception>,
}

struct Banned {
    word: String,
    /// What we say.
    term: String,
}

/// A place that may say a banned word, because Kubernetes calls its own field so.
struct Exception {
    word: String,
    place: String,
    /// In the glossary.
    line: usize,
}

pub(super) fn check(sources: &[Source]) -> Vec<Complaint> {
    let Some(file) = sources.iter().find(|source| source.path == GLOSSARY) else {
        let text = "missing; tidy reads the vocabulary from it".to_owned();
        return vec![Complaint { path: GLOSSARY.to_owned(), line: 1, text }];
    };
    let glossary = Glossary::read(&file.text);
    let mut complaints = Vec::new();
    let mut used = vec![false; glossary.exceptions.len()];
    let is_checked =
        |path: &str| (path.ends_with(".rs") || path.ends_with(".md")) && ![GLOSSARY, OWN].contains(&path);
    for source in sources.iter().filter(|source| is_checked(&source.path)) {
        for (index, line) in source.text.lines().enumerate() {
            let line = line.to_lowercase();
            for Banned { word, term } in glossary.banned.iter().filter(|banned| line.contains(&banned.word)) {
                let allows = |rule: &Exception| rule.word == *word && source.path.starts_with(&rule.place);
                match glossary.exceptions.iter().position(allows) {
                    Some(exception) => used[exception] = true,
                    None => complaints.push(
                        source.complaint(index + 1, format!("not \"{word}\"; we say {term} ({GLOSSARY})")),
                    ),
                }
            }
        }
    }
    let dead = glossary.exceptions.iter().zip(used).filter(|(_, used)| !used);
    complaints.extend(dead.map(|(rule, _)| {
        file.complaint(rule.line, format!("{} does not say \"{}\"", rule.place, rule.word))
    }));
    complaints
}

impl Glossary {
    /// Rows of three cells are terms, with banned words separated by commas; rows of two are exceptions, with places
    /// in backticks.
    fn read(text: &str) -> Self {
        let mut glossary = Self::default();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| is_row(line)) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            match cells[..] {
                [term, _, not_this] => {
                    let words = not_this.split(',').map(str::trim).filter(|word| !word.is_empty());
                    let term = term.replace(['*', '`'], "");
                    let banned = |word: &str| Banned { word: word.to_lowercase(), term: term.clone() };
                    glossary.banned.extend(words.map(banned));
                }
                [name, places] => {
                    let word = name.replace('`', "").to_lowercase();
                    let places = places.split('`').skip(1).step_by(2);
                    let exception = |place: &str| Exception {
                        word: word.clone(),
                        place: place.to_owned(),
                        line: index + 1,
                    };
                    glossary.exceptions.extend(places.map(exception));
                }
                _ => {}
            }
        }
        glossary
    }
}

/// A row of a table, but not its head.
fn is_row(line: &str) -> bool {
    ["| **", "| `"].iter().any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::super::source::source;
    use super::{GLOSSARY, check};

    const TEXT: &str = "| term | definition | not this |\n|---|---|---|\n\
                        | **backend** | What receives. | upstream, real server |\n\
                        | **VIP** | An address, not an external IP. | external_ip |\n\
                        | **flow** | One way. | |\n\n\
                        | name | allowed in |\n|---|---|\n| `external_ip` | `llb-agent/src/source/` |\n";

    fn complaints(path: &str, text: &str) -> Vec<String> {
        let found = check(&[source(GLOSSARY, TEXT), source(path, text)]);
        found.iter().filter(|complaint| complaint.path == path).map(ToString::to_string).collect()
    }

    #[test]
    fn a_banned_word_is_found_with_ours() {
        let expected = ["tests/a.rs:2: not \"upstream\"; we say backend (docs/glossary.md)"];
        assert_eq!(complaints("tests/a.rs", "//! A.\n// The Upstream answers.\n"), expected);
        assert_eq!(complaints("README.md", "two Real servers").len(), 1);
        assert_eq!(complaints("tests/a.rs", "the backend and its term\n").len(), 0);
    }

    #[test]
    fn kubernetes_may_call_its_fields_as_it_does() {
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "let external_ips = 1;\n").len(), 1);
        assert_eq!(complaints("llb-agent/src/source/convert.rs", "spec.external_ips;\n").len(), 0);
    }

    #[test]
    fn an_exception_that_nothing_needs_is_named() {
        let found = check(&[source(GLOSSARY, TEXT)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 9);
        assert_eq!(check(&[]).len(), 1);
    }
}
