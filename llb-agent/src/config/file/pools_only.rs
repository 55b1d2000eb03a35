// SPDX-License-Identifier: Apache-2.0
//! A text that has pools and nothing else. It comes from somebody who need not be trusted with more, so it is read
//! without the other keys, and no more mistakes are looked for than are told.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::mistakes::{MOST, Mistake, Mistakes};
use super::pool_table::{self, POOL};
use crate::error_chain::ErrorChain;
use crate::model::{DisjointPools, MESSAGE_BYTES, Pool, cut};
use crate::suggestion::did_you_mean;

/// The pools that the text names, as texts of `--pool`. At least one, and at most `most`.
///
/// # Errors
/// Mistakes in it.
pub(in crate::config) fn pools_in(text: &str, name: &str, most: usize) -> Result<Vec<String>, Mistakes> {
    let mut reader = Reader { text, mistakes: Vec::new() };
    // It gives up on what is nested too deep.
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.wrong(error.span().unwrap_or_default(), None, error.message());
    }
    let pools = if reader.mistakes.is_empty() { reader.pools(table.get_ref(), most) } else { Vec::new() };
    let mut all = reader.mistakes;
    if all.is_empty() {
        return Ok(pools);
    }
    all.sort_by_key(|mistake| mistake.line);
    Err(Mistakes { name: Arc::from(name), all })
}

struct Reader<'t> {
    text: &'t str,
    /// At most [`MOST`].
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn pools(&mut self, table: &DeTable<'_>, most: usize) -> Vec<String> {
        for (key, _) in table.iter().filter(|(key, _)| key.get_ref() != POOL) {
            let near = did_you_mean(key.get_ref(), [POOL]);
            let text = format!("a ConfigMap can have pools only, as [[pool]] tables{near}");
            self.wrong(key.span(), Some(key.get_ref()), text);
        }
        let none = DeArray::new();
        let items = match table.get(POOL).map(Spanned::get_ref) {
            Some(DeValue::Array(items)) => items,
            Some(_) => {
                self.wrong(0..0, Some(POOL), "give pools as [[pool]] tables");
                return Vec::new();
            }
            None => &none,
        };
        if items.is_empty() && self.mistakes.is_empty() {
            self.wrong(
                0..0,
                Some(POOL),
                "there is no pool in it; add one, as in [[pool]] with ranges = [\"192.0.2.0/28\"]",
            );
        }
        if let Some(beyond) = items.get(most) {
            let count = items.len();
            let text = format!(
                "it has {count} pools; a ConfigMap can have at most {most}: give one pool several ranges"
            );
            self.wrong(beyond.span(), Some(POOL), text);
            return Vec::new();
        }
        let mut disjoint = DisjointPools::default();
        items.iter().filter_map(|item| self.pool(item, &mut disjoint)).collect()
    }

    fn pool(&mut self, item: &Spanned<DeValue<'_>>, others: &mut DisjointPools) -> Option<String> {
        let text = match item.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Table(table) => {
                match pool_table::text_of(&Spanned::new(item.span(), table), |_| false) {
                    Ok(text) => text,
                    Err(wrongs) => {
                        wrongs
                            .into_iter()
                            .for_each(|wrong| self.wrong(wrong.span, Some(&wrong.key), wrong.text));
                        return None;
                    }
                }
            }
            _ => {
                self.wrong(item.span(), Some(POOL), "give a text in quotes, or a [[pool]] table");
                return None;
            }
        };
        let added = text.parse().and_then(|pool: Pool| others.add(&pool));
        if let Err(error) = added {
            self.wrong(item.span(), Some(POOL), ErrorChain(&error).to_string());
            return None;
        }
        Some(text)
    }

    fn wrong(&mut self, span: Range<usize>, key: Option<&str>, text: impl Into<String>) {
        // To find a line takes a look through the text.
        if self.mistakes.len() < MOST {
            let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            let short = |text: String| cut(text, MESSAGE_BYTES / 2);
            self.mistakes.push(Mistake {
                line,
                key: key.map(|key| short(key.escape_debug().to_string())),
                text: short(text.into()),
            });
        }
    }
}
