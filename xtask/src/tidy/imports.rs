// SPDX-License-Identifier: Apache-2.0
//! What one Rust file names: its child modules, its `use` items and its paths. Code that only tests compile is left
//! out. Does not know which file a name leads to: that is `modules.rs`.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, File, ImplItem, Item, ItemMod, ItemUse, Macro, Meta, Path, UseTree, Visibility};

/// All that one file names.
#[derive(Default)]
pub(super) struct Imports {
    /// The names of `mod name;`.
    pub(super) modules: Vec<String>,
    /// The names of `mod name;` with `#[path]`: files of other crates, which are checked there.
    pub(super) borrowed_modules: BTreeSet<String>,
    pub(super) uses: Vec<Use>,
    /// Paths of two segments or more outside of `use`.
    pub(super) paths: Vec<NamedPath>,
    /// The first segments of all paths outside of `use`.
    pub(super) first_segments: BTreeSet<String>,
}

/// One name that a `use` item brings in.
pub(super) struct Use {
    /// The name here, behind an `as` too; `*` for all names.
    pub(super) name: String,
    pub(super) path: NamedPath,
    /// It has a visibility, like `pub use`.
    pub(super) is_reexport: bool,
}

/// A path as it is written, like `super::frame::Frame`.
pub(super) struct NamedPath {
    pub(super) segments: Vec<String>,
    /// Counted from 1.
    pub(super) line: usize,
}

impl Imports {
    /// # Errors
    /// The text is not Rust.
    pub(super) fn read(text: &str) -> syn::Result<Self> {
        let mut reader = Reader { found: Self::default(), inline_modules: 0 };
        reader.visit_file(&syn::parse_file(text)?);
        Ok(reader.found)
    }
}

struct Reader {
    found: Imports,
    /// How many `mod name { }` are open.
    inline_modules: usize,
}

impl Reader {
    fn named(&self, mut segments: Vec<String>, line: usize) -> NamedPath {
        // Inside of `mod name { }`, `super` is this same file.
        let own = segments.iter().take(self.inline_modules).take_while(|segment| *segment == "super").count();
        if own > 0 {
            segments.splice(..own, ["self".to_owned()]);
        }
        if segments.len() > 1 && segments[0] == "self" && segments[1] == "super" {
            segments.remove(0);
        }
        NamedPath { segments, line }
    }

    fn add_path(&mut self, segments: Vec<String>, line: usize) {
        let Some(first) = segments.first() else { return };
        self.found.first_segments.insert(first.clone());
        if segments.len() > 1 {
            let path = self.named(segments, line);
            self.found.paths.push(path);
        }
    }

    fn add_use(&mut self, prefix: &[String], tree: &UseTree, is_reexport: bool) {
        let with = |name: &str| [prefix, &[name.to_owned()]].concat();
        let (name, segments, line) = match tree {
            UseTree::Path(path) => {
                return self.add_use(&with(&path.ident.to_string()), &path.tree, is_reexport);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.add_use(prefix, tree, is_reexport));
            }
            UseTree::Name(name) if name.ident == "self" => {
                (prefix.last().cloned().unwrap_or_default(), prefix.to_vec(), name.ident.span())
            }
            UseTree::Name(name) => (name.ident.to_string(), with(&name.ident.to_string()), name.ident.span()),
            UseTree::Rename(rename) if rename.ident == "self" => {
                (rename.rename.to_string(), prefix.to_vec(), rename.ident.span())
            }
            UseTree::Rename(rename) => {
                (rename.rename.to_string(), with(&rename.ident.to_string()), rename.ident.span())
            }
            UseTree::Glob(glob) => ("*".to_owned(), with("*"), glob.star_token.spans[0]),
        };
        let path = self.named(segments, line.start().line);
        self.found.uses.push(Use { name, path, is_reexport });
    }

    /// What stands inside of a macro call is no syntax yet, so paths are put together from its words.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    if colons != 2 || path.is_empty() {
                        self.add_path(std::mem::take(&mut path), line);
                        line = word.span().start().line;
                    }
                    path.push(word.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.add_path(std::mem::take(&mut path), line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.add_path(path, line);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_file(&mut self, file: &'ast File) {
        if !is_for_tests(&file.attrs) {
            visit::visit_file(self, file);
        }
    }

    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Const(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !matches!(item, ImplItem::Fn(function) if is_for_tests(&function.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_some() {
            self.inline_modules += 1;
            visit::visit_item_mod(self, module);
            self.inline_modules -= 1;
        } else if module.attrs.iter().any(|attribute| attribute.path().is_ident("path")) {
            self.found.borrowed_modules.insert(module.ident.to_string());
        } else {
            self.found.modules.push(module.ident.to_string());
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_none() {
            self.add_use(&[], &item.tree, !matches!(item.vis, Visibility::Inherited));
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
            let line = first.ident.span().start().line;
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add_path(segments, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.add_tokens(call.tokens.clone());
    }

    // Their paths name derives and scopes, not code.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

/// `#[cfg(test)]` and `#[cfg(all(test, ...))]`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let mut words = list.tokens.to_string();
            words.retain(|c| !c.is_whitespace());
            words == "test" || words.starts_with("all(test,")
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::{Imports, NamedPath};

    fn shown(path: &NamedPath) -> String {
        format!("{} {}", path.line, path.segments.join("::"))
    }

    fn uses(text: &str) -> Vec<String> {
        let shown = |found: &super::Use| {
            let reexport = if found.is_reexport { " pub" } else { "" };
            format!("{} as {}{reexport}", shown(&found.path), found.name)
        };
        Imports::read(text).unwrap().uses.iter().map(shown).collect()
    }

    fn paths(text: &str) -> Vec<String> {
        Imports::read(text).unwrap().paths.iter().map(shown).collect()
    }

    #[test]
    fn use_items_of_every_shape() {
        let text = "use crate::plan::{self,\n diff::{Diff as D, all}};\npub(super) use super::x::*;\n";
        let expected = [
            "1 crate::plan as plan",
            "2 crate::plan::diff::Diff as D",
            "2 crate::plan::diff::all as all",
            "3 super::x::* as * pub",
        ];
        assert_eq!(uses(text), expected);
    }

    #[test]
    fn paths_in_code_and_in_macros() {
        let text = "// crate::comment::x\nfn f(x: super::Port) -> Vec<crate::a::B> { \"crate::a::C\" }\n\
                    fn g() { assert_eq!(super::h(1), [x::y]); }\n";
        assert_eq!(paths(text), ["2 super::Port", "2 crate::a::B", "3 super::h", "3 x::y"]);
    }

    #[test]
    fn tests_are_left_out() {
        let text = "#[cfg(test)]\nuse super::a;\n#[cfg(test)]\nmod tests { fn f() { super::b() } }\n\
                    #[cfg(all(test, unix))]\nmod more;\n#[cfg(test)]\nfn f() { c::d() }\nmod product;\n";
        let found = Imports::read(text).unwrap();
        assert_eq!((found.uses.len(), found.paths.len()), (0, 0));
        assert_eq!(found.modules, ["product"]);
    }

    #[test]
    fn super_inside_of_an_inline_module_is_the_file_itself() {
        let text = "mod m { use super::A; use super::super::B; fn f() { super::c() } }\n";
        assert_eq!(uses(text), ["1 self::A as A", "1 super::B as B"]);
        assert_eq!(paths(text), ["1 self::c"]);
    }
}
