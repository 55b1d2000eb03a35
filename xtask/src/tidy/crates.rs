// SPDX-License-Identifier: Apache-2.0
//! Outside crates have one home each.
//!
//! Why: if a type of Kubernetes, netlink or eBPF wanders through the rooms, all of them change with that crate's next
//! version, and none of them can be tested without it.

use super::modules::{Module, Modules};
use super::source::{Complaint, unused};

/// Where a crate may be named, from llb-agent/src.
enum Home {
    Only(&'static [&'static str]),
    /// In all but these: pure rooms.
    NotIn(&'static [&'static str]),
}

const AGENT: &str = "llb-agent/src/";

const PURE: Home = Home::NotIn(&["model/", "desired/", "plan/", "ownership/", "dataplane/packet/image/"]);

const HOMES: &[(&str, Home)] = &[
    ("kube", Home::Only(&["source/", "status/", "kube_error.rs"])),
    ("k8s_openapi", Home::Only(&["source/", "status/"])),
    ("aya", Home::Only(&["dataplane/packet/", "dataplane/proxy/sockmap/", "kernel.rs"])),
    ("aya_log", Home::Only(&["dataplane/packet/"])),
    ("caps", Home::Only(&["agent/rights.rs", "kernel.rs"])),
    ("seccompiler", Home::Only(&["agent/syscall_filter.rs"])),
    ("nix", Home::Only(&["admin/socket.rs"])),
    ("sd_notify", Home::Only(&["agent/service_manager.rs"])),
    ("rtnetlink", Home::Only(&["addresses/", "netlink/"])),
    ("clap", Home::Only(&["config/"])),
    ("jiff", Home::Only(&["observe/", "agent/list.rs"])),
    ("toml", Home::Only(&["config/"])),
    ("notify", Home::Only(&["source/"])),
    ("socket2", PURE),
    ("rustix", PURE),
    ("tokio", PURE),
];

pub(super) fn check(modules: &Modules<'_>) -> Vec<Complaint> {
    let agent = || {
        modules.files.iter().filter_map(|file| file.source.path.strip_prefix(AGENT).map(|path| (path, file)))
    };
    let mut complaints = Vec::new();
    for (name, home) in HOMES {
        for (_, file) in agent().filter(|(path, _)| !home.welcomes(path)) {
            let text = format!("crate `{name}` may not be used here; see xtask/src/tidy/crates.rs");
            complaints.extend(lines_with(file, name).map(|line| file.source.complaint(line, text.clone())));
        }
        let is_used = |place: &str| match home {
            Home::Only(_) => {
                agent().any(|(path, file)| path.starts_with(place) && lines_with(file, name).next().is_some())
            }
            Home::NotIn(_) => agent().any(|(path, _)| path.starts_with(place)),
        };
        let (Home::Only(places) | Home::NotIn(places)) = home;
        let dead = places.iter().filter(|place| !is_used(place));
        complaints.extend(dead.map(|place| unused("crates", &format!("{name}: {place}"))));
    }
    complaints
}

impl Home {
    fn welcomes(&self, path: &str) -> bool {
        match self {
            Self::Only(places) => places.iter().any(|place| path.starts_with(place)),
            Self::NotIn(places) => !places.iter().any(|place| path.starts_with(place)),
        }
    }
}

/// The lines that name the crate. A path that starts with a module of the same name is another thing.
fn lines_with<'a>(file: &'a Module<'_>, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let imports = &file.imports;
    let is_own = imports.modules.iter().any(|module| module == name)
        || imports.uses.iter().any(|found| found.name == name && found.path.segments[0] != name);
    let paths = imports.uses.iter().map(|found| &found.path).chain(&imports.paths);
    paths.filter(move |path| !is_own && path.segments[0] == name).map(|path| path.line)
}

#[cfg(test)]
mod tests {
    use super::super::modules::Modules;
    use super::super::source::source;
    use super::check;

    fn complaints(path: &str, text: &str) -> usize {
        let (room, _) = path.split_once('/').unwrap();
        let path = format!("llb-agent/src/{path}");
        let sources = [source("llb-agent/src/lib.rs", &format!("mod {room};")), source(&path, text)];
        let (modules, _) = Modules::read(&sources);
        check(&modules).iter().filter(|complaint| complaint.path == path).count()
    }

    #[test]
    fn a_crate_away_from_home_is_found() {
        assert_eq!(complaints("source/mod.rs", "use kube::Api;"), 0);
        assert_eq!(complaints("desired/mod.rs", "use kube::Api;"), 1);
        assert_eq!(complaints("desired/mod.rs", "fn f(api: kube::Api) {}"), 1);
        assert_eq!(complaints("plan/mod.rs", "fn f() { crate::status::kube::write() }"), 0);
        assert_eq!(complaints("plan/mod.rs", "use crate::status::kube; fn f() { kube::write() }"), 0);
        assert_eq!(complaints("plan/mod.rs", "use tokio::sync::watch;"), 1);
        assert_eq!(complaints("plan/mod.rs", "fn f() { tokio::select! {} }"), 1);
        assert_eq!(complaints("reconcile/mod.rs", "use tokio::sync::watch;"), 0);
        assert_eq!(complaints("agent/mod.rs", "use rtnetlink;"), 1);
    }

    #[test]
    fn a_home_without_its_crate_is_named() {
        let sources = [
            source("llb-agent/src/lib.rs", "mod kernel;"),
            source("llb-agent/src/kernel.rs", "use aya::Ebpf;"),
        ];
        let (modules, _) = Modules::read(&sources);
        let found: Vec<_> = check(&modules).iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|text| text.contains("`caps: kernel.rs`")), "{found:?}");
        assert!(!found.iter().any(|text| text.contains("`aya: kernel.rs`")), "{found:?}");
    }
}
