// SPDX-License-Identifier: Apache-2.0
//! Every local file that a document names exists.
//!
//! Why: a map that leads nowhere is worse than none.

use super::source::{Complaint, Source};

/// A name in backticks counts as a file of ours if it starts with one of these.
const TOP_FOLDERS: [&str; 7] =
    ["llb-agent/", "llb-common/", "llb-ebpf/", "tests/", "xtask/", "docs/", ".ci/"];

/// `exists` gets a path from the workspace's folder.
pub(super) fn check(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<Complaint> {
    let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut complaints = Vec::new();
    let mut in_code_block = false;
    for (index, line) in source.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code_block = !in_code_block;
        }
        if in_code_block {
            continue;
        }
        let linked = links(line).map(|target| format!("{folder}/{target}"));
        for path in linked.chain(backticked(line).map(str::to_owned)) {
            let path = path.trim_start_matches('/');
            if !exists(path) {
                complaints.push(source.complaint(index + 1, format!("there is no {path}")));
            }
        }
    }
    complaints
}

/// The targets of `[text](target)` that are files, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#', ' ']).next())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
}

/// Each `path` in backticks, if it names one file: without placeholder, pattern or alternative.
fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| TOP_FOLDERS.iter().any(|folder| text.starts_with(folder)))
        .filter(|text| !text.contains(['*', '<', '{', ' ', '$', '…']))
        .map(|text| text.split([':', '#']).next().unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::super::source::source;
    use super::check;

    #[test]
    fn names_of_files_that_do_not_exist_are_found() {
        let text = "See [a](docs/a.md#top), [b](docs/b.md), [web](https://llb.dev/x).\n\
                    `xtask/src/main.rs`, `xtask/src/gone.rs`, `tests/*/case.rs`, `kube/client`.\n\
                    ```\n[c](docs/c.md)\n```\n";
        let exists = |path: &str| ["docs/a.md", "xtask/src/main.rs"].contains(&path);
        let complaints: Vec<String> =
            check(&source("README.md", text), exists).iter().map(ToString::to_string).collect();
        assert_eq!(
            complaints,
            ["README.md:1: there is no docs/b.md", "README.md:2: there is no xtask/src/gone.rs"]
        );
    }

    #[test]
    fn links_start_in_the_folder_of_the_document() {
        let exists = |path: &str| path == "docs/a.md";
        assert_eq!(check(&source("docs/b.md", "[a](a.md)"), exists).len(), 0);
        assert_eq!(check(&source("README.md", "[a](a.md)"), exists).len(), 1);
    }
}
