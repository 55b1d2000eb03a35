// SPDX-License-Identifier: Apache-2.0
//! Label selectors in the syntax of `kubectl --selector`, without set-based requirements.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The label that some distributions set on worker Nodes.
const WORKER_LABEL: &str = "node-role.kubernetes.io/worker";

/// Requirements on labels, all of which must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    text: String,
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Missing(String),
    Equal(String, String),
    /// Also met if the label is missing, as in Kubernetes.
    NotEqual(String, String),
}

impl Selector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Missing(key) => !labels.contains_key(key),
            Requirement::Equal(key, value) => labels.get(key) == Some(value),
            Requirement::NotEqual(key, value) => labels.get(key) != Some(value),
        })
    }
}

/// Why a text is not a selector.
#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    /// One requirement is not of a known form.
    #[error("{part:?} is not of the form KEY, KEY=VALUE, KEY!=VALUE or !KEY")]
    Form {
        /// The requirement.
        part: String,
    },
}

impl Selector {
    /// A selector of Nodes: the word `worker` alone stands for `node-role.kubernetes.io/worker`.
    ///
    /// # Errors
    /// The text is not a selector.
    pub fn of_nodes(text: &str) -> Result<Self, SelectorError> {
        if text.trim() == "worker" { WORKER_LABEL.parse() } else { text.parse() }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        let requirements =
            text.split(',').map(|part| parse_requirement(part.trim())).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), requirements })
    }
}

fn parse_requirement(part: &str) -> Result<Requirement, SelectorError> {
    let wrong = || SelectorError::Form { part: part.to_owned() };
    let key = |text: &str| {
        let text = text.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if text.is_empty() || !text.chars().all(legal) { Err(wrong()) } else { Ok(text.to_owned()) }
    };
    let value = |text: &str| {
        let text = text.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if text.chars().all(legal) { Ok(text.to_owned()) } else { Err(wrong()) }
    };
    if let Some((name, wanted)) = part.split_once("!=") {
        Ok(Requirement::NotEqual(key(name)?, value(wanted)?))
    } else if let Some((name, wanted)) = part.split_once("==").or_else(|| part.split_once('=')) {
        Ok(Requirement::Equal(key(name)?, value(wanted)?))
    } else if let Some(name) = part.strip_prefix('!') {
        Ok(Requirement::Missing(key(name)?))
    } else {
        Ok(Requirement::Exists(key(part)?))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_like_kubectl() {
        let labels =
            BTreeMap::from([("a".to_owned(), "1".to_owned()), (WORKER_LABEL.to_owned(), String::new())]);
        for (text, expected) in [
            ("a", true),
            ("!a", false),
            ("a=1", true),
            ("a==1", true),
            ("a=2", false),
            ("a!=2", true),
            ("missing!=2", true),
            ("a=1, !b", true),
            ("worker", true),
            ("node-role.kubernetes.io/worker=", true),
        ] {
            assert_eq!(Selector::of_nodes(text).unwrap().matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn invalid_selectors_are_refused() {
        for text in ["", "a,,b", "a=b=c", "a in (b)", "!"] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }
}
