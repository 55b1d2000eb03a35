// SPDX-License-Identifier: Apache-2.0
//! The module tree of each crate, and the arrows in it: which file uses an item of which other file. An item that a
//! file re-exports belongs to the file that defines it. Files that only tests compile have no place in the tree.

use std::collections::BTreeMap;

use super::imports::{Imports, NamedPath, Use};
use super::source::{Complaint, Source};

/// A name may lead to a re-export of a re-export; more than this many is a loop.
const MAX_REEXPORTS: usize = 8;

/// All files of all crates.
pub(super) struct Modules<'a> {
    pub(super) files: Vec<Module<'a>>,
}

/// A place in [`Modules::files`].
pub(super) type Index = usize;

/// A module that has a file of its own.
pub(super) struct Module<'a> {
    pub(super) source: &'a Source,
    pub(super) imports: Imports,
    root: Index,
    parent: Option<Index>,
    children: BTreeMap<String, Index>,
}

/// One file uses an item of another.
pub(super) struct Arrow {
    pub(super) from: Index,
    pub(super) to: Index,
    pub(super) item: String,
    /// In the file that it comes from.
    pub(super) line: usize,
}

/// What a path leads to.
struct Target {
    file: Index,
    /// `None`: the module itself.
    item: Option<String>,
}

impl<'a> Modules<'a> {
    /// Starts at each `lib.rs` and `main.rs` and follows `mod name;`.
    pub(super) fn read(sources: &'a [Source]) -> (Self, Vec<Complaint>) {
        let by_path: BTreeMap<&str, &Source> = sources.iter().map(|source| (&*source.path, source)).collect();
        let mut modules = Self { files: Vec::new() };
        let mut complaints = Vec::new();
        for source in sources {
            if is_root(&source.path) {
                modules.add(source, None, &by_path, &mut complaints);
            }
        }
        (modules, complaints)
    }

    fn add(
        &mut self,
        source: &'a Source,
        parent: Option<Index>,
        by_path: &BTreeMap<&str, &'a Source>,
        complaints: &mut Vec<Complaint>,
    ) -> Index {
        let imports = Imports::read(&source.text).unwrap_or_else(|error| {
            complaints.push(source.complaint(error.span().start().line, format!("not Rust: {error}")));
            Imports::default()
        });
        let index = self.files.len();
        let root = parent.map_or(index, |parent| self.files[parent].root);
        let names = imports.modules.clone();
        self.files.push(Module { source, imports, root, parent, children: BTreeMap::new() });
        let folder = folder_of_children(&source.path);
        for name in names {
            let child = [format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")]
                .iter()
                .find_map(|path| by_path.get(path.as_str()).copied());
            if let Some(child) = child {
                let child = self.add(child, Some(index), by_path, complaints);
                self.files[index].children.insert(name, child);
            }
        }
        index
    }

    pub(super) fn path(&self, file: Index) -> &str {
        &self.files[file].source.path
    }

    /// In the order of files and, inside of a file, of `use` items and then of paths.
    pub(super) fn arrows(&self) -> Vec<Arrow> {
        (0..self.files.len()).flat_map(|from| self.arrows_from(from)).collect()
    }

    fn arrows_from(&self, from: Index) -> Vec<Arrow> {
        let imports = &self.files[from].imports;
        // To re-export a name is not yet to use it, nor is it to import a module.
        let is_used =
            |found: &&Use| !found.is_reexport || imports.first_segments.contains(found.name.as_str());
        let by_use = imports.uses.iter().filter(is_used).filter_map(|found| {
            let target = self.resolve(from, &found.path.segments, MAX_REEXPORTS)?;
            Some((target.file, target.item?, &found.path))
        });
        let by_path = imports.paths.iter().filter_map(|path| {
            let target = self.resolve(from, &path.segments, MAX_REEXPORTS)?;
            // A path to a module is one to an item of the same name that the parent re-exports.
            let item = target.item.or_else(|| path.segments.last().cloned())?;
            Some((target.file, item, path))
        });
        let arrow = |(to, item, path): (Index, String, &NamedPath)| Arrow { from, to, item, line: path.line };
        by_use.chain(by_path).filter(|(to, _, _)| *to != from).map(arrow).collect()
    }

    /// `None`: an item of another crate, or one whose `use` item is an arrow already.
    fn resolve(&self, from: Index, segments: &[String], depth: usize) -> Option<Target> {
        let depth = depth.checked_sub(1)?;
        let (first, mut rest) = segments.split_first()?;
        let mut module = match first.as_str() {
            "crate" => self.files[from].root,
            "self" => from,
            "super" => {
                let levels = segments.iter().take_while(|name| *name == "super").count();
                rest = &segments[levels..];
                let mut module = from;
                for _ in 0..levels {
                    module = self.files[module].parent?;
                }
                module
            }
            name => match (self.files[from].children.get(name), self.imported(from, name)) {
                (Some(child), _) => *child,
                (None, Some(found)) => match self.resolve(from, &found.path.segments, depth)? {
                    Target { file, item: None } => file,
                    Target { item: Some(_), .. } => return None,
                },
                (None, None) => return None,
            },
        };
        for name in rest {
            if let Some(child) = self.files[module].children.get(name) {
                module = *child;
            } else if let Some(found) = self.imported(module, name) {
                match self.resolve(module, &found.path.segments, depth)? {
                    Target { file, item: None } => module = file,
                    item => return Some(item),
                }
            } else if self.files[module].imports.borrowed_modules.contains(name) {
                return None;
            } else {
                return Some(Target { file: module, item: Some(name.clone()) });
            }
        }
        Some(Target { file: module, item: None })
    }

    fn imported(&self, module: Index, name: &str) -> Option<&Use> {
        self.files[module].imports.uses.iter().find(|found| found.name == name && name != "*")
    }
}

/// The first file of a crate.
pub(super) fn is_root(path: &str) -> bool {
    ["lib.rs", "main.rs"].contains(&path.rsplit('/').next().unwrap_or(path))
}

/// Ends with a slash.
fn folder_of_children(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let own = if is_root(path) || name == "mod.rs" { "" } else { name.trim_end_matches(".rs") };
    let parts = [folder, own].into_iter().filter(|part| !part.is_empty());
    parts.map(|part| format!("{part}/")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::source::{Source, source};
    use super::Modules;

    /// A made-up crate.
    pub(in super::super) fn tree(files: &[(&str, &str)]) -> Vec<Source> {
        files.iter().map(|(path, text)| source(path, text)).collect()
    }

    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let sources = tree(files);
        let (modules, complaints) = Modules::read(&sources);
        assert!(complaints.is_empty());
        let shown = modules.arrows().into_iter().map(|arrow| {
            let (from, to) = (modules.path(arrow.from), modules.path(arrow.to));
            format!("{from}:{} {to} {}", arrow.line, arrow.item)
        });
        shown.collect()
    }

    #[test]
    fn a_reexport_leads_to_the_file_that_defines_the_item() {
        let files = [
            ("src/lib.rs", "mod room; mod user;"),
            ("src/room/mod.rs", "mod a; mod deep;\npub use a::A;\npub use deep::D;\npub struct Own;"),
            ("src/room/a.rs", "pub struct A;"),
            ("src/room/deep/mod.rs", "mod inner; pub use inner::D;"),
            ("src/room/deep/inner.rs", "pub struct D;"),
            ("src/user.rs", "use crate::room::{A, D, Own};\nuse crate::room;\nfn f() -> room::A {}"),
        ];
        let expected = [
            "src/user.rs:1 src/room/a.rs A",
            "src/user.rs:1 src/room/deep/inner.rs D",
            "src/user.rs:1 src/room/mod.rs Own",
            "src/user.rs:3 src/room/a.rs A",
        ];
        assert_eq!(arrows(&files), expected);
    }

    #[test]
    fn super_of_super_and_paths_without_use() {
        let files = [
            ("src/lib.rs", "mod a; mod b; pub const C: u8 = 1;"),
            ("src/a/mod.rs", "mod inner;"),
            (
                "src/a/inner.rs",
                "use super::super::C;\nfn f() { super::super::b::g(); println!(\"{}\", crate::b::H) }",
            ),
            ("src/b.rs", "pub fn g() {}\npub const H: u8 = 1;"),
        ];
        let expected =
            ["src/a/inner.rs:1 src/lib.rs C", "src/a/inner.rs:2 src/b.rs g", "src/a/inner.rs:2 src/b.rs H"];
        assert_eq!(arrows(&files), expected);
    }

    #[test]
    fn a_door_uses_a_child_only_when_its_own_code_does() {
        let door = |code: &str| {
            let text = format!("mod child; mod other;\npub use child::Thing;\n{code}");
            arrows(&[("src/main.rs", &text), ("src/child.rs", ""), ("src/other.rs", "")])
        };
        assert_eq!(door(""), [""; 0]);
        assert_eq!(door("use other::x;"), ["src/main.rs:3 src/other.rs x"]);
        assert_eq!(door("fn f() -> Thing {}"), ["src/main.rs:2 src/child.rs Thing"]);
        assert_eq!(door("fn f() { child::g() }"), ["src/main.rs:3 src/child.rs g"]);
    }

    #[test]
    fn crates_do_not_mix() {
        let files = [
            ("a/src/lib.rs", "pub mod x;"),
            ("a/src/x.rs", "use serde::Serialize; use tokio::sync;"),
            ("b/src/main.rs", "mod x; use a::x::X;\n#[path = \"../../a/src/x.rs\"]\nmod borrowed;"),
            ("b/src/x.rs", "use crate::borrowed::X;"),
        ];
        assert_eq!(arrows(&files), [""; 0]);
    }
}
