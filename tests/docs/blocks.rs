// SPDX-License-Identifier: Apache-2.0
//! The code blocks of the documents.

use crate::documents::documents;

/// A code block.
pub(crate) struct Block {
    /// File and line, for messages.
    pub(crate) place: String,
    pub(crate) text: String,
}

/// All blocks of this language.
pub(crate) fn blocks(language: &str) -> Vec<Block> {
    documents().iter().flat_map(|(path, text)| blocks_of(path, text, language)).collect()
}

fn blocks_of(path: &str, text: &str, language: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    // How far the open block is indented, and whether it is wanted.
    let mut open: Option<(usize, bool)> = None;
    for (index, line) in text.lines().enumerate() {
        let indented = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), open) {
            (Some(begun), None) => {
                let wanted = begun.trim() == language;
                if wanted {
                    found.push(Block { place: format!("{path}:{}", index + 2), text: String::new() });
                }
                open = Some((indented, wanted));
            }
            (Some(_), Some(_)) => open = None,
            (None, Some((indent, true))) => {
                if let Some(block) = found.last_mut() {
                    block.text.push_str(&line[indent.min(indented)..]);
                    block.text.push('\n');
                }
            }
            (None, _) => {}
        }
    }
    found
}

#[test]
fn blocks_are_found_by_their_language() {
    let text = "a\n```sh\none\n```\n```yaml\nkind: x\n```\n- b\n\n  ```sh\n  two\n    three\n  ```\n";
    let found = blocks_of("a.md", text, "sh");
    let found: Vec<(&str, &str)> = found.iter().map(|block| (&*block.place, &*block.text)).collect();
    assert_eq!(found, [("a.md:3", "one\n"), ("a.md:11", "two\n  three\n")]);
}
