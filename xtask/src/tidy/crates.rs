// SPDX-License-Identifier: Apache-2.0
//! Outside crates have one home each.
//!
//! Why: a type of Kubernetes, netlink or eBPF that wanders through the rooms
//! makes all of them change with that crate's next version, and none of them
//! testable without it.

use super::{Complaint, Source, has_word};

/// Where a crate may be named.
enum Home {
    /// Only in files that start with one of these, from llb-agent/src.
    Only(&'static [&'static str]),
    /// In all but these: pure rooms.
    NotIn(&'static [&'static str]),
}

const AGENT: &str = "llb-agent/src/";

const PURE: Home = Home::NotIn(&["model/", "desired/", "plan/"]);

const HOMES: &[(&str, Home)] = &[
    ("kube", Home::Only(&["source/", "status/", "kube_error.rs"])),
    ("k8s_openapi", Home::Only(&["source/", "status/"])),
    ("aya", Home::Only(&["dataplane/packet/", "dataplane/proxy/sockmap/", "kernel.rs"])),
    ("aya_log", Home::Only(&["dataplane/packet/"])),
    ("caps", Home::Only(&["kernel.rs"])),
    ("rtnetlink", Home::Only(&["addresses/", "netlink/"])),
    ("netlink_packet_core", Home::Only(&["addresses/", "netlink/"])),
    ("netlink_packet_route", Home::Only(&["addresses/", "netlink/"])),
    ("clap", Home::Only(&["config/", "main.rs"])),
    ("notify", Home::Only(&["source/"])),
    ("socket2", PURE),
    ("rustix", PURE),
    ("tokio", PURE),
];

pub(super) fn check(source: &Source) -> Vec<Complaint> {
    let Some(inside) = source.path.strip_prefix(AGENT) else { return Vec::new() };
    let is_strange = |home: &Home| match home {
        Home::Only(places) => !places.iter().any(|place| inside.starts_with(place)),
        Home::NotIn(places) => places.iter().any(|place| inside.starts_with(place)),
    };
    let strangers: Vec<&str> =
        HOMES.iter().filter(|(_, home)| is_strange(home)).map(|(name, _)| *name).collect();
    source
        .product_code()
        .flat_map(|(number, line)| {
            strangers
                .iter()
                .filter(move |name| names_crate(line, name))
                .map(move |name| source.complaint(number, format!("crate `{name}` has no home here")))
        })
        .collect()
}

/// `name::`, but not `other::name::`, which is a module of that name.
fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let import = line.trim_start().trim_start_matches("pub ");
    has_word(import, &format!("use {name}"))
        || line.match_indices(&path).any(|(start, _)| {
            let before = line[..start].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::check;

    #[test]
    fn a_crate_away_from_home_is_found() {
        let complaints = |path: &str, text: &str| check(&source(path, text)).len();
        assert_eq!(complaints("llb-agent/src/source/kubernetes/connect.rs", "use kube::Api;"), 0);
        assert_eq!(complaints("llb-agent/src/desired/mod.rs", "use kube::Api;"), 1);
        assert_eq!(complaints("llb-agent/src/desired/mod.rs", "fn f(api: kube::Api) {}"), 1);
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "let x = crate::status::kube::write();"), 0);
        assert_eq!(complaints("llb-agent/src/plan/mod.rs", "use tokio::sync::watch;"), 1);
        assert_eq!(complaints("llb-agent/src/reconcile/mod.rs", "use tokio::sync::watch;"), 0);
        assert_eq!(complaints("llb-agent/src/agent.rs", "use rtnetlink;"), 1);
        assert_eq!(complaints("tests/src/lib.rs", "use rtnetlink;"), 0);
    }
}
