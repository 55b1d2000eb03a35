// SPDX-License-Identifier: Apache-2.0
//! A pool as a table of the file, and as the text of `--pool`. What the parts mean is in `model/pool.rs`.

use std::fmt::Write as _;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::suggestion::did_you_mean;

/// The key whose values may be tables.
pub(super) const POOL: &str = "pool";

/// What a key of the table has for a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// One text or several.
    List,
    Switch,
}

/// The keys of the table, in the order of the text. All but the first two are options of `--pool`.
const KEYS: [(&str, Kind); 8] = [
    ("name", Kind::Text),
    ("ranges", Kind::List),
    ("namespaces", Kind::List),
    ("selector", Kind::Text),
    ("auto", Kind::Switch),
    ("shared", Kind::Switch),
    ("routed", Kind::Switch),
    ("avoid-buggy-ips", Kind::Switch),
];

/// What is wrong with a key of the table.
pub(super) struct Wrong {
    /// Where in the text of the file.
    pub(super) span: Range<usize>,
    pub(super) key: String,
    pub(super) text: String,
}

/// The text of `--pool` that says the same as the table. `is_key`: whether a word is a key beside the pools.
pub(super) fn text_of(
    table: &Spanned<&DeTable<'_>>,
    is_key: impl Fn(&str) -> bool,
) -> Result<String, Vec<Wrong>> {
    let mut wrongs = Vec::new();
    let mut parts: [Option<String>; KEYS.len()] = Default::default();
    for (key, value) in *table.get_ref() {
        match position(key.get_ref(), &is_key).and_then(|at| Ok((at, part(KEYS[at].1, value)?))) {
            Ok((at, text)) => parts[at] = Some(text),
            Err(text) => {
                wrongs.push(Wrong { span: key.span(), key: format!("{POOL}.{}", key.get_ref()), text })
            }
        }
    }
    let [name, ranges, options @ ..] = parts;
    if ranges.is_none() && wrongs.is_empty() {
        let text = "it has no addresses; add its ranges, as in ranges = [\"192.0.2.0/28\"]".to_owned();
        wrongs.push(Wrong { span: table.span(), key: POOL.to_owned(), text });
    }
    if !wrongs.is_empty() {
        return Err(wrongs);
    }
    let mut text = name.map(|name| format!("{name}=")).unwrap_or_default();
    text.push_str(&ranges.unwrap_or_default());
    for ((key, _), value) in KEYS[2..].iter().zip(options) {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = write!(text, "+{key}={value}");
        }
    }
    Ok(text)
}

/// Where the key stands in [`KEYS`].
fn position(name: &str, is_key: impl Fn(&str) -> bool) -> Result<usize, String> {
    if let Some(position) = KEYS.iter().position(|(known, _)| *known == name) {
        return Ok(position);
    }
    if is_key(name) {
        return Err(
            "a pool has no such key; what is not about a pool stands above the first [[pool]]".to_owned()
        );
    }
    let known = KEYS.map(|(known, _)| known);
    Err(format!("a pool has no such key{}; it can have {}", did_you_mean(name, known), known.join(", ")))
}

/// The value of one key as it stands in the text.
fn part(kind: Kind, value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    match (kind, value.get_ref()) {
        (Kind::Switch, DeValue::Boolean(value)) => Ok(value.to_string()),
        (Kind::Switch, _) => Err("give true or false, without quotes".to_owned()),
        (Kind::List, DeValue::Array(items)) if items.is_empty() => {
            Err("the list is empty; give at least one value, or leave the key out".to_owned())
        }
        (Kind::List, DeValue::Array(items)) => {
            let texts: Result<Vec<String>, String> = items.iter().map(|item| plain(item.get_ref())).collect();
            Ok(texts?.join(","))
        }
        (Kind::Text | Kind::List, single) => plain(single),
    }
}

/// A text that can stand in the text of `--pool`.
fn plain(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) if !text.is_empty() && !text.contains('+') => Ok(text.to_string()),
        DeValue::String(text) => Err(format!("{text:?}: give a text that is not empty and has no plus sign")),
        _ => Err("give a text in quotes".to_owned()),
    }
}

/// The lines of the table that says the same as the text. The text is that of a pool.
pub(super) fn lines_of(text: &str) -> Vec<String> {
    let mut parts = text.split('+');
    let head = parts.next().unwrap_or_default();
    let (name, ranges) = head.split_once('=').map_or((None, head), |(name, ranges)| (Some(name), ranges));
    let named = name.map(|name| ("name", name)).into_iter();
    let all = named.chain([("ranges", ranges)]).chain(parts.filter_map(|option| option.split_once('=')));
    let line = |(key, value): (&str, &str)| {
        let kind = KEYS.iter().find(|(known, _)| *known == key).map(|(_, kind)| *kind);
        let value = match kind {
            Some(Kind::List) => list(value.split(',').map(str::trim)),
            Some(Kind::Switch) => value.to_owned(),
            _ => quoted(value.trim()),
        };
        format!("{key} = {value}")
    };
    all.map(line).collect()
}

/// A list of texts.
pub(super) fn list<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    format!("[{}]", texts.map(quoted).collect::<Vec<_>>().join(", "))
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
