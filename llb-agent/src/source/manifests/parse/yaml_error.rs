// SPDX-License-Identifier: Apache-2.0
//! What the YAML parser says, in the words of a person who writes manifests. Its own texts
//! speak of Rust types and of options that only a programmer can set.

use serde_saphyr::{Error, UserMessageFormatter};

use crate::source::convert::quote;

/// The error of one document, on one line and without its place.
pub(super) fn text(error: &Error, document: &str) -> String {
    match error.without_snippet() {
        Error::InvalidScalar { ty, .. } => not_a(&given(error, document), ty),
        Error::SerdeInvalidType { unexpected, expected, .. } => not_a(unexpected, expected),
        Error::NullIntoString { .. } => {
            "it has no value (null), but must be a text; write one, or \"\" for an empty one".to_owned()
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {} is there twice; remove one of them", quote(key))
        }
        Error::DuplicateMappingKey { .. } => "a key is there twice; remove one of them".to_owned(),
        other => {
            let text = other.render_with_formatter(&UserMessageFormatter);
            // The other lines show the text around the error; one line is enough here.
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            without_place(line).to_owned()
        }
    }
}

/// Says that a value is not what serde expects there.
fn not_a(given: &str, expected: &str) -> String {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" => {
            format!("{given} is not a whole number; write one without quotes, as in 80")
        }
        "bool" | "boolean" | "a boolean" => format!("{given} is neither true nor false"),
        "IntOrString" => format!("{given} is neither a whole number nor a text"),
        "a string" => format!("{given} is not a text; put it in quotes"),
        other => format!("{given} does not fit here; expected {other}"),
    }
}

/// The object and field, as far as they are known, and what is wrong there.
pub(super) fn located(object: &str, field: &str, text: &str) -> String {
    let parts = [object, field, text];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

/// The scalar where the error is, up to the end of the flow item or line.
fn given(error: &Error, document: &str) -> String {
    let token = error.location().and_then(|at| {
        let (line, column) = (usize::try_from(at.line()).ok()?, usize::try_from(at.column()).ok()?);
        let line = document.lines().nth(line.checked_sub(1)?)?;
        let (start, _) = line.char_indices().nth(column.checked_sub(1)?)?;
        let rest = line[start..].split([',', '}', ']', '#']).next()?.trim().trim_matches(['"', '\'']);
        (!rest.is_empty()).then(|| quote(rest))
    });
    token.unwrap_or_else(|| "the value".to_owned())
}

/// `line 3 column 5: text` without the place, which the caller knows for the whole file.
fn without_place(text: &str) -> &str {
    match text.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((place, rest)) if place.chars().all(|c| c.is_ascii_digit() || " :,column".contains(c)) => rest,
        _ => text,
    }
}
