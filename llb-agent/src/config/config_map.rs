// SPDX-License-Identifier: Apache-2.0
//! Pools in the cluster: what the text of a ConfigMap may say.

use std::sync::Arc;

use super::file::{Keys, Mistake, Mistakes, Origin, POOL, parse};
use crate::model::{Pool, PoolError};

/// The pools that the text of a ConfigMap names, as texts of `--pool`.
///
/// # Errors
/// All mistakes in it. It can have pools only: all other keys are for the one who runs llb.
pub fn pools_of(text: &str, name: &str) -> Result<Vec<String>, Mistakes> {
    let file: Arc<str> = name.into();
    let mut layer = parse(text, &file, &Keys::new())?;
    let values = layer.remove(POOL).unwrap_or_default();
    let mistake = |line, key: &str, text: String| Mistake { line, key: Some(key.to_owned()), text };
    let others = layer.iter().filter_map(|(key, values)| match &values.first()?.origin {
        Origin::File { line, .. } => {
            let text = "a ConfigMap can have pools only; this key is for the configuration file";
            Some(mistake(*line, key, text.to_owned()))
        }
        _ => None,
    });
    let mut all: Vec<Mistake> = others.collect();
    let pools: Vec<Pool> = values.iter().filter_map(|value| value.text.parse().ok()).collect();
    if let Err(error) = Pool::check_together(&pools) {
        all.push(mistake(1, POOL, PoolError::to_string(&error)));
    }
    if !all.is_empty() {
        return Err(Mistakes { name: file, all });
    }
    Ok(values.into_iter().map(|value| value.text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_has_pools_only() {
        let pools = |text: &str| pools_of(text, "ConfigMap llb/pools").map_err(|error| error.to_string());
        let text = "[[pool]]\nname = \"a\"\nranges = [\"192.0.2.0/28\"]\nauto = false\n[[pool]]\nranges = \"192.0.2.16\"\n";
        assert_eq!(pools(text), Ok(vec!["a=192.0.2.0/28+auto=false".to_owned(), "192.0.2.16".to_owned()]));
        assert_eq!(pools(""), Ok(Vec::new()));
        for (text, expected) in [
            ("class = \"a\"", "ConfigMap llb/pools:1: class: a ConfigMap can have pools only"),
            ("pools = []", "ConfigMap llb/pools:1: pools: there is no such key; did you mean pool?"),
            ("[[pool]]\nranges = \"192.0.2.300\"", "ConfigMap llb/pools:1: pool: \"192.0.2.300\": "),
            ("pool = [\"192.0.2.1\", \"192.0.2.1\"]", "192.0.2.1 and 192.0.2.1 overlap"),
        ] {
            let error = pools(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
