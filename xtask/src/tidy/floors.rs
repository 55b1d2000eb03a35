// SPDX-License-Identifier: Apache-2.0
//! Floors: a room of llb-agent uses lower floors only, and rooms on one floor do not know each other.
//!
//! Why: nouns and decisions stay free of I/O, so that they are tested without root, network or clock; and a room of
//! floor 3 can be replaced alone.

use super::modules::{Arrow, Modules};
use super::source::{Complaint, unused};

const AGENT: &str = "llb-agent/src/";

/// Each room with the rooms that it uses. A new room needs a row, and a new use an entry.
const FLOORS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("kernel", &[]),
    ("suggestion", &[]),
    ("config", &["model", "suggestion"]),
    ("netlink", &["model"]),
    ("packet_socket", &[]),
    ("statefile", &[]),
    ("kube_error", &[]),
    // Whoever may not read the clock gets the time as an argument.
    ("clock", &[]),
    // It counts log lines by the minute.
    ("telemetry", &["clock"]),
    ("desired", &["model", "config"]),
    ("plan", &["model"]),
    ("ownership", &["model"]),
    ("source", &["model", "statefile", "kube_error", "clock", "suggestion"]),
    ("dataplane", &["model", "config", "kernel", "netlink", "packet_socket", "clock"]),
    ("addresses", &["model", "config", "ownership", "statefile", "netlink", "packet_socket", "clock"]),
    ("status", &["model", "statefile", "kube_error", "clock"]),
    ("handover", &["model", "statefile", "clock"]),
    ("health", &["model", "config", "clock"]),
    ("peers", &["model", "ownership", "statefile", "clock"]),
    (
        "reconcile",
        &[
            "model",
            "config",
            "desired",
            "plan",
            "ownership",
            "dataplane",
            "addresses",
            "status",
            "health",
            "clock",
        ],
    ),
];

/// Small services that know no room and that every room may use.
const EVERYWHERE: [&str; 2] = ["error_chain", "telemetry"];

/// The top floor puts the rooms together, so it may use all of them.
const TOP: [&str; 7] = ["main", "lib", "agent", "admin", "explain", "observe", "rbac"];

/// Folders inside of rooms that do not know each other.
const STRANGERS: [(&str, &str); 1] = [("dataplane/packet/", "dataplane/proxy/")];

pub(super) fn check(modules: &Modules<'_>, arrows: &[Arrow]) -> Vec<Complaint> {
    let mut complaints = rooms_without_floor(modules);
    for arrow in arrows {
        let Some((from, to)) = in_agent(modules, arrow) else { continue };
        let complain = |text| modules.files[arrow.from].source.complaint(arrow.line, text);
        let (room, used) = (room(from), room(to));
        // An item of the crate's root, like its version, is no room.
        if room != used && used != "lib" && !may_use(room, used) {
            complaints
                .push(complain(format!("`{room}` must not use `{used}`; see xtask/src/tidy/floors.rs")));
        }
        let are_strangers = |a: &str, b: &str| from.starts_with(a) && to.starts_with(b);
        if let Some((a, b)) = STRANGERS.iter().find(|(a, b)| are_strangers(a, b) || are_strangers(b, a)) {
            complaints.push(complain(format!("{a} and {b} do not know each other")));
        }
    }
    complaints.extend(dead_entries(modules, arrows));
    complaints
}

/// Both ends of the arrow, from the agent's folder.
fn in_agent<'a>(modules: &'a Modules<'_>, arrow: &Arrow) -> Option<(&'a str, &'a str)> {
    let inside = |file| modules.path(file).strip_prefix(AGENT);
    Some((inside(arrow.from)?, inside(arrow.to)?))
}

fn room(inside: &str) -> &str {
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

fn may_use(room: &str, used: &str) -> bool {
    let is_listed = || FLOORS.iter().any(|(name, may_use)| *name == room && may_use.contains(&used));
    TOP.contains(&room) || EVERYWHERE.contains(&used) || is_listed()
}

/// All that have a floor.
fn rooms() -> impl Iterator<Item = &'static str> {
    FLOORS.iter().map(|(name, _)| *name).chain(EVERYWHERE).chain(TOP)
}

fn rooms_without_floor(modules: &Modules<'_>) -> Vec<Complaint> {
    let has_floor = |room: &str| rooms().any(|name| name == room);
    let strange = modules.files.iter().filter_map(|file| {
        let room = room(file.source.path.strip_prefix(AGENT)?);
        let text = || format!("room `{room}` has no floor; give it one in xtask/src/tidy/floors.rs");
        (!has_floor(room)).then(|| file.source.complaint(1, text()))
    });
    strange.collect()
}

/// Entries that the tree does not need.
fn dead_entries(modules: &Modules<'_>, arrows: &[Arrow]) -> Vec<Complaint> {
    let exists = |start: &str| {
        let mut paths = modules.files.iter().filter_map(|file| file.source.path.strip_prefix(AGENT));
        paths.any(|path| room(path) == start || path.starts_with(start))
    };
    let is_used = |room_name: &str, used: &str| {
        let mut ends = arrows.iter().filter_map(|arrow| in_agent(modules, arrow));
        ends.any(|(from, to)| room(from) == room_name && room(to) == used)
    };
    let places = rooms().chain(STRANGERS.iter().flat_map(|(a, b)| [*a, *b]));
    let dead_places = places.filter(|place| !exists(place)).map(str::to_owned);
    let dead_uses = FLOORS.iter().flat_map(|(name, may_use)| {
        let dead = may_use.iter().filter(|used| !is_used(name, used));
        dead.map(move |used| format!("{name} uses {used}"))
    });
    dead_places.chain(dead_uses).map(|entry| unused("floors", &entry)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::modules::Modules;
    use super::super::modules::tests::tree;
    use super::check;

    /// What is said about one file of a small agent, dead entries left out.
    fn complaints(path: &str, text: &str) -> usize {
        let files = [
            (
                "llb-agent/src/lib.rs",
                "mod model; mod config; mod plan; mod dataplane; mod agent; mod cellar;",
            ),
            ("llb-agent/src/model/mod.rs", "mod port; pub use port::Port;"),
            ("llb-agent/src/model/port.rs", ""),
            ("llb-agent/src/config/mod.rs", ""),
            ("llb-agent/src/plan/mod.rs", ""),
            ("llb-agent/src/dataplane/mod.rs", "mod packet; mod proxy;"),
            ("llb-agent/src/dataplane/packet/mod.rs", ""),
            ("llb-agent/src/dataplane/proxy/mod.rs", ""),
            ("llb-agent/src/agent.rs", ""),
        ];
        let mut files: Vec<_> = files.into_iter().filter(|(known, _)| *known != path).collect();
        files.push((path, text));
        let sources = tree(&files);
        let (modules, _) = Modules::read(&sources);
        let found = check(&modules, &modules.arrows());
        found.iter().filter(|complaint| complaint.path == path).count()
    }

    #[test]
    fn a_room_uses_lower_floors_only() {
        assert_eq!(complaints("llb-agent/src/model/port.rs", "use crate::config::Config;"), 1);
        assert_eq!(complaints("llb-agent/src/config/mod.rs", "use crate::model::Port;"), 0);
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "use crate::{model::Port, config};"), 0);
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "fn f() { crate::dataplane::f() }"), 1);
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "const V: &str = crate::VERSION;"), 0);
        assert_eq!(complaints("llb-agent/src/agent.rs", "use crate::dataplane::Planes;"), 0);
    }

    #[test]
    fn a_new_room_needs_a_floor() {
        assert_eq!(complaints("llb-agent/src/cellar/mod.rs", ""), 1);
    }

    #[test]
    fn the_two_planes_do_not_know_each_other() {
        assert_eq!(complaints("llb-agent/src/dataplane/packet/mod.rs", "use super::proxy::X;"), 1);
        assert_eq!(complaints("llb-agent/src/dataplane/proxy/mod.rs", "use super::packet::X;"), 1);
        assert_eq!(complaints("llb-agent/src/dataplane/mod.rs", "use packet::X; use proxy::Y;"), 0);
    }

    #[test]
    fn what_the_tree_does_not_need_is_named() {
        let sources = tree(&[("llb-agent/src/lib.rs", "mod model;"), ("llb-agent/src/model.rs", "")]);
        let (modules, _) = Modules::read(&sources);
        let found: Vec<_> = check(&modules, &[]).iter().map(ToString::to_string).collect();
        assert!(!found.iter().any(|text| text.contains("`model`")), "{found:?}");
        assert!(found.iter().any(|text| text.contains("`plan`")), "{found:?}");
        assert!(found.iter().any(|text| text.contains("`plan uses model`")), "{found:?}");
        assert!(found.iter().any(|text| text.contains("`dataplane/proxy/`")), "{found:?}");
    }
}
