// SPDX-License-Identifier: Apache-2.0
//! Texts of users in messages.

use crate::model::cut;

/// A longer text makes a log line or an Event unreadable.
const LONGEST: usize = 80;

/// A user's text in quotation marks, cut to what fits into a message.
pub(in crate::source) fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// A user's text that must be one of a few short names: cut, so that a longer one is none of them and
/// can be shown.
pub(super) fn name(text: &str) -> String {
    cut(text.to_owned(), LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        assert_eq!(quote(&"x".repeat(200_000)), format!("\"{}…\"", "x".repeat(LONGEST)));
        assert_eq!(name("blue"), "blue");
        assert!(name(&"x".repeat(200_000)).len() <= LONGEST);
    }
}
