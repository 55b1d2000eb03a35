// SPDX-License-Identifier: Apache-2.0
//! Items of our own Rust files with their doc comments, so that a page has the words of the code. The files are read as
//! lines; nothing here knows Rust.

/// The items that `name_of` finds, each with the doc comment above it.
pub(crate) fn documented(text: &str, name_of: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("///") {
            comment.push(rest.trim());
        } else if let Some(name) = name_of(line) {
            assert!(!comment.is_empty(), "{name} has no doc comment");
            found.push((name, comment.join(" ")));
            comment.clear();
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

/// The lines between the one that begins with `first` and the next `}` at the same depth.
pub(crate) fn block<'a>(text: &'a str, first: &str) -> &'a str {
    let start = text.find(first).unwrap_or_else(|| panic!("there is no `{first}`"));
    let end = text[start..].find("\n}").unwrap_or_else(|| panic!("`{first}` does not end"));
    &text[start..start + end]
}

#[test]
fn comments_belong_to_the_item_below_them() {
    let text = "enum A {\n    /// One\n    /// and more.\n    First,\n    #[x]\n    // no\n    /// Two.\n    #[y]\n    Second,\n}\n/// Three.\nThird,\n";
    let name = |line: &str| line.strip_suffix(',').map(str::to_owned);
    let found = documented(block(text, "enum A {"), name);
    let expected = [("First", "One and more."), ("Second", "Two.")];
    assert_eq!(found, expected.map(|(name, comment)| (name.to_owned(), comment.to_owned())));
}
