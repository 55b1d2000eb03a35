// SPDX-License-Identifier: Apache-2.0
//! Floors: a room of llb-agent imports from lower floors only, and rooms on
//! one floor do not know each other.
//!
//! Why: nouns and decisions stay free of I/O, so that they are tested without
//! root, network or clock; and a room of floor 3 can be replaced alone.

use super::{Complaint, Source};

const AGENT: &str = "llb-agent/src/";

/// Nouns that every floor may use.
const NOUNS: &[&str] = &["model", "config"];

/// What `reconcile` may use: all below it.
const BELOW_THE_LOOP: &[&str] = &[
    "model",
    "config",
    "desired",
    "plan",
    "source",
    "dataplane",
    "addresses",
    "status",
    "facts",
    "telemetry",
    "error_chain",
];

/// Each room with the rooms it may use next to itself; `None` is the top
/// floor, which puts the rooms together.
const FLOORS: &[(&str, Option<&[&str]>)] = &[
    ("model", Some(&[])),
    ("config", Some(&["model"])),
    ("desired", Some(NOUNS)),
    ("plan", Some(NOUNS)),
    ("telemetry", Some(NOUNS)),
    ("kernel", Some(&["error_chain"])),
    ("netlink", Some(&["model"])),
    ("source", Some(&["model", "config", "telemetry", "statefile", "error_chain"])),
    ("dataplane", Some(&["model", "config", "telemetry", "kernel", "netlink", "error_chain"])),
    ("addresses", Some(&["model", "config", "telemetry", "statefile", "netlink", "error_chain"])),
    ("status", Some(&["model", "config", "telemetry", "statefile", "error_chain"])),
    ("handover", Some(&["model", "statefile", "error_chain"])),
    ("statefile", Some(&["model", "error_chain"])),
    ("error_chain", Some(&[])),
    ("facts", Some(&["model", "config", "kernel"])),
    ("reconcile", Some(BELOW_THE_LOOP)),
    ("lib", None),
    ("main", None),
    ("agent", None),
    ("admin", None),
    ("explain", None),
    ("bin", None),
];

pub(super) fn check(source: &Source) -> Vec<Complaint> {
    let Some(inside) = source.path.strip_prefix(AGENT) else { return Vec::new() };
    let room = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
    let Some((_, floor)) = FLOORS.iter().find(|(name, _)| *name == room) else {
        let text = format!("room `{room}` has no floor; give it one in xtask/src/tidy/floors.rs");
        return vec![source.complaint(1, text)];
    };
    let Some(allowed) = floor else { return Vec::new() };
    used_rooms(source)
        .into_iter()
        .filter(|(_, used)| used != room && !allowed.contains(&used.as_str()))
        .map(|(line, used)| {
            source.complaint(line, format!("`{room}` uses `{used}`, but may use only {allowed:?}"))
        })
        .collect()
}

/// The first names after each `crate::`, groups in braces included, with
/// their lines.
fn used_rooms(source: &Source) -> Vec<(usize, String)> {
    let mut rooms = Vec::new();
    // Inside of `use crate::{`: how many braces are open.
    let mut depth = 0;
    for (number, line) in source.product_code() {
        let mut rest = line;
        loop {
            if depth == 0 {
                let Some((_, after)) = rest.split_once("crate::") else { break };
                rest = after;
                if let Some(group) = rest.strip_prefix('{') {
                    (depth, rest) = (1, group);
                } else {
                    rooms.push((number, first_name(rest)));
                }
                continue;
            }
            let Some(c) = rest.chars().next() else { break };
            let name = first_name(rest);
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if !name.is_empty() => {
                    rest = &rest[name.len()..];
                    // `a::b` names one room, `a`.
                    while let Some(path) = rest.strip_prefix("::") {
                        rest = &path[first_name(path).len()..];
                    }
                    if depth == 1 {
                        rooms.push((number, name));
                    }
                    continue;
                }
                _ => {}
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    // An item of the crate's root, like a macro or `crate::VERSION`, is no room.
    rooms.retain(|(_, name)| name.starts_with(|c: char| c.is_ascii_lowercase()) && name != "self");
    rooms
}

fn first_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::{check, used_rooms};

    #[test]
    fn imports_are_found_in_every_shape() {
        let text = "use crate::model::{Port, Rule};\nuse crate::{plan::diff::{self, x},\n    status};\n\
                    // crate::comment\nfn f() -> crate::source::Error {}\nlet v = crate::VERSION;\n";
        let rooms: Vec<_> = used_rooms(&source("llb-agent/src/x.rs", text));
        let expected = [(1, "model"), (2, "plan"), (3, "status"), (5, "source")];
        assert_eq!(rooms, expected.map(|(line, name)| (line, name.to_owned())));
    }

    #[test]
    fn a_room_uses_lower_floors_only() {
        let complaints = |path: &str, text: &str| check(&source(path, text)).len();
        assert_eq!(complaints("llb-agent/src/model/port.rs", "use crate::model::Family;"), 0);
        assert_eq!(complaints("llb-agent/src/model/port.rs", "use crate::config::Config;"), 1);
        assert_eq!(complaints("llb-agent/src/desired/mod.rs", "use crate::model::State;"), 0);
        assert_eq!(complaints("llb-agent/src/desired/mod.rs", "use crate::plan::Action;"), 1);
        assert_eq!(complaints("llb-agent/src/source/mod.rs", "use crate::{model, dataplane::fake};"), 1);
        assert_eq!(complaints("llb-agent/src/reconcile/mod.rs", "use crate::{plan, dataplane::fake};"), 0);
        assert_eq!(complaints("llb-agent/src/agent.rs", "use crate::reconcile;"), 0);
        assert_eq!(complaints("llb-agent/src/plan/tests.rs", "use crate::desired;"), 0);
        assert_eq!(complaints("llb-agent/src/cellar/mod.rs", ""), 1);
    }
}
