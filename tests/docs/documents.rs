// SPDX-License-Identifier: Apache-2.0
//! The files of the workspace, and the form of the pages that are written from the code.

use std::path::{Path, PathBuf};

/// The folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A file of the workspace.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files with this extension below a folder of the workspace, in order.
pub(crate) fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![workspace().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|has| has == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The documents for users and developers: path from the workspace, and text.
pub(crate) fn documents() -> Vec<(String, String)> {
    let at_the_top = ["README.md", "CONTRIBUTING.md", "RELEASE.md", "examples/README.md"];
    let below = files("docs", "md")
        .into_iter()
        .map(|path| path.strip_prefix(workspace()).unwrap().to_str().unwrap().to_owned());
    let paths = at_the_top.into_iter().map(str::to_owned).chain(below);
    paths.map(|path| (path.clone(), read(&path))).collect()
}

/// The first lines of a page that is written from the code.
pub(crate) fn head(title: &str, what: &str) -> String {
    format!(
        "<!-- SPDX-License-Identifier: Apache-2.0 -->\n# {title}\n\n{what}\n\n\
         This page is written from the code. `LLB_BLESS=1 cargo test -p llb-tests --test docs` writes it again.\n"
    )
}

/// A text as one cell of a table.
pub(crate) fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
