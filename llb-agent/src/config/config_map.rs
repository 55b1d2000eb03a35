// SPDX-License-Identifier: Apache-2.0
//! Pools in the cluster: what the text of a ConfigMap may say. Whoever writes it need not be the one who runs llb, so its
//! size bounds what reading it costs.

use super::file::{Mistakes, pools_in};

/// The longest text of a ConfigMap that is read, in bytes.
const CONFIG_MAP_BYTES: usize = 64 << 10;
/// The most pools in it.
const CONFIG_MAP_POOLS: usize = 256;

/// The pools that the text of a ConfigMap names, as texts of `--pool`. At least one.
///
/// # Errors
/// What is wrong with it, on one line. It can have pools only: all other keys are for the one who runs llb.
pub fn pools_of(text: &str, key: &str) -> Result<Vec<String>, ConfigMapError> {
    if text.len() > CONFIG_MAP_BYTES {
        return Err(ConfigMapError::TooLong { key: key.to_owned(), bytes: text.len() });
    }
    Ok(pools_in(text, key, CONFIG_MAP_POOLS)?)
}

/// The text of a ConfigMap can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigMapError {
    /// It is too long.
    #[error(
        "{key} has {bytes} bytes; it can have at most {CONFIG_MAP_BYTES}: write ranges in place of single addresses"
    )]
    TooLong {
        /// The key of the ConfigMap.
        key: String,
        /// How long the text is.
        bytes: usize,
    },
    /// It has mistakes.
    #[error("{}", .0.to_string().replace('\n', "; "))]
    Mistakes(#[from] Mistakes),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(text: &str) -> Result<Vec<String>, String> {
        pools_of(text, "llb.toml").map_err(|error| error.to_string())
    }

    #[test]
    fn a_config_map_has_pools_only() {
        let text = "[[pool]]\nname = \"a\"\nranges = [\"192.0.2.0/28\"]\nauto = false\n[[pool]]\nranges = \"192.0.2.16\"\n";
        assert_eq!(pools(text), Ok(vec!["a=192.0.2.0/28+auto=false".to_owned(), "192.0.2.16".to_owned()]));
        assert_eq!(
            pools("pool = [\"192.0.2.1\"]"),
            Ok(vec!["192.0.2.1".to_owned()]),
            "as in a configuration file"
        );
        for (text, expected) in [
            ("\nclass = \"a\"", "llb.toml:2: class: a ConfigMap can have pools only"),
            (
                "pools = []",
                "llb.toml:1: pools: a ConfigMap can have pools only, as [[pool]] tables; did you mean pool?",
            ),
            (
                "[pools]\na = 1",
                "llb.toml:1: pools: a ConfigMap can have pools only, as [[pool]] tables; did you mean pool?",
            ),
            ("[[pool]]\nranges = \"192.0.2.300\"", "llb.toml:1: pool: \"192.0.2.300\" is not a range"),
            (
                "[[pool]]\nname = \"a\"\nrange = \"192.0.2.1\"",
                "llb.toml:3: pool.range: a pool has no such key; did you mean ranges?",
            ),
            (
                "[[pool]]\nranges = \"192.0.2.1\"\n[[pool]]\nranges = \"192.0.2.1\"",
                "llb.toml:3: pool: 192.0.2.1 and 192.0.2.1 overlap",
            ),
            ("[[pool]]\nranges = [", "llb.toml:2: "),
            ("pool = [7]", "llb.toml:1: pool: give a text in quotes"),
        ] {
            let error = pools(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn no_pool_is_a_mistake() {
        for text in ["", "# nothing yet\n", "pool = []\n"] {
            let error = pools(text).unwrap_err();
            assert!(
                error.starts_with("llb.toml:1: pool: there is no pool in it; add one"),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn there_is_a_limit_of_pools_and_of_bytes() {
        let text = |pools: usize| -> String {
            (0..pools)
                .map(|at| format!("[[pool]]\nranges = [\"10.0.{}.{}\"]\n", at / 256, at % 256))
                .collect()
        };
        assert_eq!(pools(&text(CONFIG_MAP_POOLS)).map(|pools| pools.len()), Ok(CONFIG_MAP_POOLS));
        let error = pools(&text(CONFIG_MAP_POOLS + 1)).unwrap_err();
        assert_eq!(
            error,
            "llb.toml:513: pool: it has 257 pools; a ConfigMap can have at most 256: give one pool several ranges"
        );
        let fill = |bytes: usize| format!("[[pool]]\nranges = \"192.0.2.1\"\n#{}", "x".repeat(bytes - 31));
        assert_eq!(fill(CONFIG_MAP_BYTES).len(), CONFIG_MAP_BYTES);
        assert!(pools(&fill(CONFIG_MAP_BYTES)).is_ok());
        let error = pools(&fill(CONFIG_MAP_BYTES + 1)).unwrap_err();
        assert!(error.starts_with("llb.toml has 65537 bytes; it can have at most 65536"), "{error}");
    }

    /// Each text is of the largest size, and as bad as its size allows. None may take more than its size explains, end
    /// the process, or make a long message.
    #[test]
    fn texts_of_the_largest_size_are_refused_in_a_bounded_way() {
        let fill = |part: &dyn Fn(usize) -> String| {
            let mut text = String::new();
            for number in 0.. {
                let part = part(number);
                if text.len() + part.len() > CONFIG_MAP_BYTES {
                    break;
                }
                text.push_str(&part);
            }
            text
        };
        let quoted =
            |text: &str| format!("[[pool]]\nname = \"{}\"\nranges = \"192.0.2.1\"", &text[..text.len() - 60]);
        for (what, text) in [
            ("nested lists", format!("pool = {}", fill(&|_| "[".to_owned()).split_off(8))),
            ("nested tables", format!("pool = {}", fill(&|_| "{a=".to_owned()).split_off(9))),
            ("dotted keys", fill(&|_| "a.".to_owned())),
            ("tables of tables", fill(&|number| format!("[a.b.c{number}]\n"))),
            ("unknown keys", fill(&|number| format!("k{number}=1\n"))),
            (
                "unknown keys of a pool",
                format!("[[pool]]\n{}", fill(&|number| format!("k{number}=1\n")).split_off(20)),
            ),
            ("no TOML at all", fill(&|_| "=\n".to_owned())),
            ("empty pools", fill(&|_| "[[pool]]\n".to_owned())),
            ("empty texts", format!("pool=[{}]", fill(&|_| "'',".to_owned()).split_off(9))),
            ("one long name", quoted(&fill(&|_| "x".to_owned()))),
        ] {
            assert!(
                text.len() <= CONFIG_MAP_BYTES && text.len() > CONFIG_MAP_BYTES - 100,
                "{what}: {}",
                text.len()
            );
            let error = pools(&text).expect_err(what);
            assert!(
                error.matches("llb.toml:").count() <= 21,
                "{what}: {} mistakes",
                error.matches("llb.toml:").count()
            );
        }
        // Many small ranges, all of them fine.
        let ranges =
            fill(&|number| format!("\"10.{}.{}.{}\",", number >> 16, (number >> 8) & 255, number & 255));
        let text = format!("[[pool]]\nranges=[{}]", ranges[..ranges.len() - 40].rsplit_once(',').unwrap().0);
        assert_eq!(pools(&text).map(|pools| pools.len()), Ok(1));
    }
}
