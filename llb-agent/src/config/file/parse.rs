// SPDX-License-Identifier: Apache-2.0
//! From TOML to a [`Layer`]. All mistakes of a text are found, not only the first one.

use std::ops::Range;
use std::sync::Arc;

use clap::Arg;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::keys::{Keys, argument, is_list, is_switch, name};
use super::mistakes::{Mistake, Mistakes};
use super::pool_table::{self, POOL};
use super::value::{Layer, Origin, Value};
use crate::suggestion::did_you_mean;

/// Reads the text of the file with this name.
///
/// # Errors
/// All mistakes in it.
pub(in crate::config) fn parse(text: &str, file: &Arc<str>, keys: &Keys) -> Result<Layer, Mistakes> {
    let mut reader = Reader { text, file, keys, mistakes: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.wrong(error.span().unwrap_or_default(), None, error.message().to_owned());
    }
    let layer = if reader.mistakes.is_empty() { reader.layer(table.get_ref()) } else { Layer::new() };
    let mut all = reader.mistakes;
    if all.is_empty() {
        return Ok(layer);
    }
    all.sort_by_key(|mistake| mistake.line);
    Err(Mistakes { name: Arc::clone(file), all })
}

struct Reader<'t> {
    text: &'t str,
    file: &'t Arc<str>,
    keys: &'t Keys,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn layer(&mut self, table: &DeTable<'_>) -> Layer {
        let mut layer = Layer::new();
        for (key, value) in table {
            let keys = self.keys;
            match keys.find(key.get_ref()) {
                Some(arg) => {
                    let values = self.values(arg, value);
                    layer.insert(name(arg).to_owned(), values);
                }
                None => self.unknown(key.span(), key.get_ref(), value.get_ref()),
            }
        }
        self.find_conflicts(&layer);
        layer
    }

    fn unknown(&mut self, span: Range<usize>, key: &str, value: &DeValue<'_>) {
        let near = did_you_mean(key, self.keys.all().map(name));
        let text = match value {
            DeValue::Table(_) => format!("there is no such section; the only one is [[pool]]{near}"),
            _ if near.is_empty() => {
                "there is no such key; the keys are the flags, which llb-agent --help lists".to_owned()
            }
            _ => format!("there is no such key{near}"),
        };
        self.wrong(span, Some(key), text);
    }

    /// The values of one key. Those with a mistake are left out.
    fn values(&mut self, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Vec<Value> {
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) if is_list(arg) => items.iter().collect(),
            DeValue::Array(_) => {
                self.wrong(value.span(), Some(name(arg)), "give one value, not a list");
                return Vec::new();
            }
            _ => vec![value],
        };
        items.into_iter().filter_map(|item| self.value(arg, item)).collect()
    }

    fn value(&mut self, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        let text = match value.get_ref() {
            DeValue::Table(table) if name(arg) == POOL => {
                let table = Spanned::new(value.span(), table);
                match pool_table::text_of(&table, |key| self.keys.find(key).is_some()) {
                    Ok(text) => text,
                    Err(wrongs) => {
                        wrongs
                            .into_iter()
                            .for_each(|wrong| self.wrong(wrong.span, Some(&wrong.key), wrong.text));
                        return None;
                    }
                }
            }
            single => match scalar(arg, single) {
                Ok(text) => text,
                Err(wrong) => {
                    self.wrong(value.span(), Some(name(arg)), wrong);
                    return None;
                }
            },
        };
        match self.keys.check(arg, &text) {
            Ok(()) => Some(Value { text, origin: self.origin(value.span()) }),
            Err(wrong) => {
                self.wrong(value.span(), Some(name(arg)), wrong);
                None
            }
        }
    }

    /// Two keys that can't be given together.
    fn find_conflicts(&mut self, layer: &Layer) {
        let given = layer.iter().filter_map(|(key, values)| {
            let first = values.first()?;
            // A switch that is off is as one that is not there.
            argument(self.keys.find(key)?, &first.text)?;
            Some((key, &first.origin))
        });
        let given: Vec<(&String, &Origin)> = given.collect();
        for (position, (key, origin)) in given.iter().enumerate() {
            for (other, at) in &given[..position] {
                if self.keys.are_in_conflict(key, other)
                    && let Origin::File { line, .. } = origin
                {
                    let text = format!("it can't be given together with {other} ({at}); remove one of them");
                    self.mistakes.push(Mistake { line: *line, key: Some((*key).clone()), text });
                }
            }
        }
    }

    fn wrong(&mut self, span: Range<usize>, key: Option<&str>, text: impl Into<String>) {
        let mistake = Mistake { line: self.line(span), key: key.map(str::to_owned), text: text.into() };
        self.mistakes.push(mistake);
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        Origin::File { name: Arc::clone(self.file), line: self.line(span) }
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// A single value as the text of a command line.
fn scalar(arg: &Arg, value: &DeValue<'_>) -> Result<String, &'static str> {
    match (is_switch(arg), value) {
        (true, DeValue::Boolean(value)) => Ok(value.to_string()),
        (true, _) => Err("give true or false, without quotes"),
        (false, DeValue::String(text)) => Ok(text.to_string()),
        (false, DeValue::Integer(number)) => integer(number).ok_or("the number is too large"),
        (false, _) => Err("give a text in quotes, or a whole number"),
    }
}

fn integer(number: &DeInteger<'_>) -> Option<String> {
    i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
}
