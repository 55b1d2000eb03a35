// SPDX-License-Identifier: Apache-2.0
//! The values that count, one entry for each key, and the TOML that says the same.

use std::fmt;

use clap::Arg;

use super::keys::{self, Keys, is_list, is_number, is_switch};
use super::pool_table::{POOL, lines_of, list, quoted};
use super::value::{Layer, Origin, Value};

/// What counts for each key, in the order of `--help`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    form: Form,
    /// Empty: not given, and there is no value that always holds then.
    values: Vec<Value>,
    /// What holds without a value, if the help says it.
    otherwise: Option<String>,
}

/// How TOML writes the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    /// A number, true or false.
    Bare,
    List,
    Pools,
}

impl Effective {
    /// What was given, or else the defaults.
    pub(in crate::config) fn of(keys: &Keys, given: &Layer) -> Self {
        let entries = keys.all().map(|arg| {
            let key = keys::name(arg);
            // The default of a key that another one excludes does not count.
            let is_on = |values: &[Value]| values.first().is_some_and(|value| value.text != "false");
            let excludes =
                |(other, values): (&String, &Vec<Value>)| is_on(values) && keys.are_in_conflict(other, key);
            let is_excluded = || given.iter().any(excludes);
            let values = match given.get(key) {
                Some(values) => values.clone(),
                None if is_excluded() => Vec::new(),
                None => defaults(arg),
            };
            Entry { key: key.to_owned(), form: Form::of(arg), values, otherwise: otherwise(arg) }
        });
        Self { entries: entries.collect() }
    }

    /// Each key with its value as text; `None` if it has none.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, Option<String>)> {
        self.entries.iter().map(|entry| (entry.key.as_str(), entry.text()))
    }
}

impl Form {
    fn of(arg: &Arg) -> Self {
        match keys::name(arg) {
            POOL => Self::Pools,
            _ if is_list(arg) => Self::List,
            _ if is_switch(arg) || is_number(arg) => Self::Bare,
            _ => Self::Text,
        }
    }
}

impl Entry {
    fn text(&self) -> Option<String> {
        let first = &self.values.first()?.text;
        Some(match self.form {
            Form::Bare => first.clone(),
            Form::Text => quoted(first),
            Form::List | Form::Pools => list(self.values.iter().map(|value| value.text.as_str())),
        })
    }

    /// Where the values come from. The lines of a list may differ.
    fn origins(&self) -> String {
        let mut origins: Vec<&Origin> = self.values.iter().map(|value| &value.origin).collect();
        origins.dedup();
        origins.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// The values of the flag if nobody gives it.
pub(super) fn defaults(arg: &Arg) -> Vec<Value> {
    let texts = arg.get_default_values().iter().map(|text| text.to_string_lossy().into_owned());
    let mut texts: Vec<String> = texts.collect();
    if texts.is_empty() && is_switch(arg) {
        texts.push(false.to_string());
    }
    texts.into_iter().map(|text| Value { text, origin: Origin::Default }).collect()
}

/// What the help says about a flag that has no default value of its own.
fn otherwise(arg: &Arg) -> Option<String> {
    let help = arg.get_help()?.to_string();
    let (_, rest) = help.split_once("[default: ")?;
    Some(rest.trim_end().trim_end_matches(']').to_owned())
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            match (entry.text(), &entry.otherwise) {
                (Some(text), _) if entry.form != Form::Pools => {
                    let line = format!("{} = {text}", entry.key);
                    writeln!(f, "{line:<40} # {}", entry.origins())?;
                }
                (Some(_), _) => {}
                (None, Some(otherwise)) => writeln!(f, "# {} is not set; default: {otherwise}", entry.key)?,
                (None, None) => writeln!(f, "# {} is not set", entry.key)?,
            }
        }
        // Tables end the part of plain keys.
        let pools = self.entries.iter().filter(|entry| entry.form == Form::Pools);
        for pool in pools.flat_map(|entry| &entry.values) {
            writeln!(f, "\n{:<40} # {}", format!("[[{POOL}]]"), pool.origin)?;
            lines_of(&pool.text).iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        Ok(())
    }
}
