// SPDX-License-Identifier: Apache-2.0
//! Every link of a finished site that is not to another host leads to a file of the site, and its anchor to an element.
//! Reads HTML as text: enough for pages that one program writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

/// The page for addresses that do not exist. Its links are relative to the site's address, which nobody knows.
const NOT_FOUND: &str = "404.html";

/// All files of a site.
pub(super) struct Site {
    files: BTreeSet<PathBuf>,
    pages: BTreeMap<PathBuf, String>,
}

impl Site {
    /// Reads the folder.
    ///
    /// # Errors
    /// A file can't be read.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut site = Self { files: BTreeSet::new(), pages: BTreeMap::new() };
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(root)?.to_owned();
                if path.extension().is_some_and(|extension| extension == "html")
                    && name != Path::new(NOT_FOUND)
                {
                    site.pages.insert(name.clone(), fs::read_to_string(&path)?);
                }
                site.files.insert(name);
            }
        }
        Ok(site)
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// One line for each link that leads nowhere.
    pub(super) fn complaints(&self) -> Vec<String> {
        let links = self.pages.iter().flat_map(|(page, text)| {
            let targets = ["href", "src"].into_iter().flat_map(|name| attributes(text, name));
            targets.map(move |target| (page, target))
        });
        let wrong = links.filter_map(|(page, target)| {
            let why = self.why_not(page, target)?;
            Some(format!("{}: {target}: {why}", page.display()))
        });
        wrong.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn why_not(&self, page: &Path, target: &str) -> Option<&'static str> {
        let is_elsewhere = target.contains("://")
            || ["mailto:", "data:", "javascript:"].iter().any(|s| target.starts_with(s));
        if is_elsewhere {
            return None;
        }
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path = path.split('?').next().unwrap_or_default();
        let file = match path {
            "" => page.to_owned(),
            _ => match resolve(page, path) {
                Some(file) => file,
                None => return Some("leads out of the site"),
            },
        };
        if !self.files.contains(&file) {
            return Some("there is no such file");
        }
        let has_anchor = |text: &String| attributes(text, "id").any(|id| id == anchor);
        if !anchor.is_empty() && !self.pages.get(&file).is_some_and(has_anchor) {
            return Some("the page has no such anchor");
        }
        None
    }
}

/// The values of all attributes of this name.
fn attributes<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!(" {name}=\"");
    let starts: Vec<usize> = text.match_indices(&begin).map(|(place, _)| place + begin.len()).collect();
    starts.into_iter().filter_map(|start| text[start..].split('"').next())
}

/// Where a relative link in `page` leads; `None` if it leads out.
pub(super) fn resolve(page: &Path, target: &str) -> Option<PathBuf> {
    let mut path = page.parent()?.to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir if !path.pop() => return None,
            Component::ParentDir | Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = folder.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write(
            "index.html",
            "<a href=\"docs/a.html#top\">a</a> <a href=\"https://llb.dev/x\">x</a> <img src=\"b.svg\">",
        );
        write("b.svg", "");
        write("404.html", "<a href=\"nowhere.html\">");
        write(
            "docs/a.html",
            "<h1 id=\"top\">A</h1> <a href=\"../index.html\"> <a href=\"#top\"> <a href=\"#end\"> <a href=\"c.html\"> <a href=\"../../d\">",
        );
        let site = Site::read(folder.path()).unwrap();
        let expected = [
            "docs/a.html: #end: the page has no such anchor",
            "docs/a.html: ../../d: leads out of the site",
            "docs/a.html: c.html: there is no such file",
        ];
        assert_eq!((site.pages(), site.complaints()), (2, expected.map(str::to_owned).to_vec()));
    }
}
