// SPDX-License-Identifier: Apache-2.0
//! The text format of a case. `main.rs` runs the cases.

/// One file of `cases/`.
pub(crate) struct Case {
    /// Everything before the first `manifests`, as it is in the file.
    pub(crate) head: String,
    pub(crate) flags: String,
    pub(crate) links: String,
    pub(crate) host: String,
    pub(crate) health: String,
    pub(crate) snapshots: Vec<Snapshot>,
}

/// One `manifests` and what is expected after it.
pub(crate) struct Snapshot {
    /// The text of the ConfigMap with pools, if it has changed.
    pub(crate) config_map: Option<String>,
    pub(crate) manifests: String,
    /// Whether a section `maps` follows.
    pub(crate) shows_maps: bool,
    /// Whether a section `pools` follows.
    pub(crate) shows_pools: bool,
}

impl Case {
    pub(crate) fn parse(text: &str) -> Self {
        let mut case = Self {
            head: String::new(),
            flags: String::new(),
            links: String::new(),
            host: String::new(),
            health: String::new(),
            snapshots: Vec::new(),
        };
        let (mut name, mut config_map) = ("", None);
        for line in text.split_inclusive('\n') {
            if let Some(next) = line.strip_prefix("=== ") {
                name = next.trim();
                match (name, case.snapshots.last_mut()) {
                    ("manifests", _) => {
                        case.snapshots.push(Snapshot {
                            config_map: config_map.take(),
                            manifests: String::new(),
                            shows_maps: false,
                            shows_pools: false,
                        });
                    }
                    ("config-map", _) => config_map = Some(String::new()),
                    ("expected", Some(_)) => {}
                    ("maps", Some(snapshot)) => snapshot.shows_maps = true,
                    ("pools", Some(snapshot)) => snapshot.shows_pools = true,
                    ("flags" | "link" | "host" | "health", None) => case.head.push_str(line),
                    (other, _) => panic!("a section {other} here"),
                }
                continue;
            }
            if let ("config-map", Some(text)) = (name, &mut config_map) {
                text.push_str(line);
                continue;
            }
            match (name, case.snapshots.last_mut()) {
                ("manifests", Some(snapshot)) => snapshot.manifests.push_str(line),
                ("flags", _) => case.flags.push_str(line),
                ("link", _) => case.links.push_str(line),
                ("host", _) => case.host.push_str(line),
                ("health", _) => case.health.push_str(line),
                _ => {}
            }
            if case.snapshots.is_empty() {
                case.head.push_str(line);
            }
        }
        case
    }
}
