// SPDX-License-Identifier: Apache-2.0
//! Gathers the pages of the site, and the files that they link to, in a folder of their own. They keep their places
//! in the repository, so that links between them stay as they are. Only README.md is called index.md there, because
//! that is the page that a browser opens in a folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::links;

const SUMMARY: &str = "docs/SUMMARY.md";

/// Fills `stage` from the workspace `root`. Pages that are linked but not listed come last.
///
/// # Errors
/// A page or a linked file is missing.
pub(super) fn gather(root: &Path, stage: &Path) -> Result<()> {
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("can't read {path}"));
    let mut summary = read(SUMMARY)?;
    let mut pages: Vec<String> = targets(&summary)
        .map(|target| resolve(SUMMARY, target))
        .collect::<Option<_>>()
        .context("a link leads out")?;
    summary = from_the_root(&summary);
    let (listed, mut next) = (pages.len(), 0);
    let mut others = BTreeSet::new();
    while let Some(page) = pages.get(next).cloned() {
        let text = read(&page)?;
        for target in targets(&text) {
            let path = resolve(&page, target)
                .with_context(|| format!("{page}: {target} leads out of the repository"))?;
            if !path.ends_with(".md") {
                others.insert((path, page.clone()));
            } else if !pages.contains(&path) {
                pages.push(path);
            }
        }
        if next >= listed {
            summary.push_str(if next == listed { "\n# More\n\n" } else { "" });
            let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or(&page);
            summary.push_str(&format!("- [{title}]({})\n", index_of(&page)));
        }
        write(stage, &index_of(&page), &with_indices(&text))?;
        next += 1;
    }
    write(stage, "SUMMARY.md", &summary)?;
    for (path, page) in others {
        let (from, to) = (root.join(&path), stage.join(&path));
        fs::create_dir_all(to.parent().unwrap_or(stage))?;
        fs::copy(&from, &to).with_context(|| format!("{page} links to {path}, which is no file"))?;
    }
    Ok(())
}

fn write(stage: &Path, path: &str, text: &str) -> Result<()> {
    let file = stage.join(path);
    fs::create_dir_all(file.parent().unwrap_or(stage))?;
    Ok(fs::write(file, text)?)
}

/// The local files that a text links to, without anchors.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    let prose = text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    prose
        .flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next()))
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
}

/// The path from the workspace of a link in `page`; `None` if it leads out.
fn resolve(page: &str, target: &str) -> Option<String> {
    links::resolve(Path::new(page), target)?.to_str().map(str::to_owned)
}

/// The list with paths from the workspace: it lies in docs/, but mdBook wants it at the top.
fn from_the_root(summary: &str) -> String {
    let mut parts = summary.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (target, rest) = part.split_once(')').unwrap_or((part, ""));
        let path = resolve(SUMMARY, target).unwrap_or_default();
        text.push_str(&format!("]({}){rest}", index_of(&path)));
    }
    text
}

fn index_of(path: &str) -> String {
    match path.strip_suffix("README.md") {
        Some(folder) => format!("{folder}index.md"),
        None => path.to_owned(),
    }
}

fn with_indices(text: &str) -> String {
    text.replace("README.md)", "index.md)").replace("README.md#", "index.md#")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_paths_from_the_workspace() {
        let text =
            "[a](../README.md#x) [b](design/b.md), [web](https://llb.dev)\n```\n[c](c.md)\n```\n[d](#here)";
        assert_eq!(targets(text).collect::<Vec<_>>(), ["../README.md", "design/b.md"]);
        assert_eq!(resolve("docs/a.md", "../README.md").as_deref(), Some("README.md"));
        assert_eq!(resolve("docs/howto/a.md", "../b.md").as_deref(), Some("docs/b.md"));
        assert_eq!(resolve("README.md", "../b.md"), None);
    }

    #[test]
    fn the_list_names_paths_from_the_workspace() {
        let list = "[llb](../README.md)\n- [a](a.md)\n  - [b](../examples/README.md)\n";
        assert_eq!(from_the_root(list), "[llb](index.md)\n- [a](docs/a.md)\n  - [b](examples/index.md)\n");
    }

    #[test]
    fn pages_and_files_that_are_linked_are_gathered() {
        let folder = tempfile::tempdir().unwrap();
        let (root, stage) = (folder.path().join("root"), folder.path().join("stage"));
        write(&root, SUMMARY, "- [a](a.md)\n").unwrap();
        write(&root, "docs/a.md", "[the rights](rights.yaml)\n").unwrap();
        write(&root, "docs/rights.yaml", "x").unwrap();
        gather(&root, &stage).unwrap();
        assert!(stage.join("docs/rights.yaml").is_file() && stage.join("docs/a.md").is_file());
        write(&root, "docs/a.md", "[b](b/README.md)\n").unwrap();
        write(&root, "docs/b/README.md", "<!-- b -->\n# The other\n[a](../a.md) [c](c.txt)\n").unwrap();
        let error = gather(&root, &stage).unwrap_err().to_string();
        assert_eq!(error, "docs/b/README.md links to docs/b/c.txt, which is no file");
        let summary = fs::read_to_string(stage.join("SUMMARY.md")).unwrap();
        assert_eq!(summary, "- [a](docs/a.md)\n\n# More\n\n- [The other](docs/b/index.md)\n");
        assert_eq!(fs::read_to_string(stage.join("docs/a.md")).unwrap(), "[b](b/index.md)\n");
    }
}
