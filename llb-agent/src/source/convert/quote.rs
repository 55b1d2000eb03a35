// SPDX-License-Identifier: Apache-2.0
//! Texts of users in messages.

/// A user's text in quotation marks, cut to what fits into a message.
pub(in crate::source) fn quote(text: &str) -> String {
    /// A longer text makes a log line or an Event unreadable.
    const LONGEST: usize = 80;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
