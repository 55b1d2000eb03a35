// SPDX-License-Identifier: Apache-2.0
//! The Services of examples/ get their VIPs from an agent with the flags that each file names, and have no problem.
//! The API server's opinion of these files is asked in tests/cluster/.

use std::collections::BTreeMap;

use llb_agent::config::{Cli, Invocation, Policy};
use llb_agent::desired::{Held, Inputs, compile};
use llb_agent::model::{Facts, Holding, Link, LinkAddress, ProblemReason, Verdicts};
use llb_agent::source::snapshot_of;

use crate::documents::{files, read};

/// The addresses of the machine of all examples.
const OWN: [&str; 2] = ["198.51.100.1/24", "2001:db8::1/64"];

/// A file names the flags that it needs in a comment that begins like this.
const COMMAND: &str = "#   llb-agent --linkdevice eth0";

#[test]
fn every_example_is_served_without_a_problem() {
    let paths = files("examples", "yaml");
    assert!(paths.len() > 5, "{paths:?}");
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let place = path.display();
        let flags = text.lines().find_map(|line| line.strip_prefix(COMMAND));
        let flags = flags.unwrap_or_else(|| panic!("{place} does not name its flags"));
        let policy = policy(flags);
        let snapshot = snapshot_of(text.as_bytes(), policy.foreign_annotations).unwrap();
        assert!(!snapshot.services.is_empty(), "{place}");
        let facts = Facts { links: vec![link()], ..Facts::default() };
        let (held, resting, verdicts) = (Held::default(), BTreeMap::new(), Verdicts::default());
        let (desired, mut problems) = compile(Inputs {
            snapshot: &snapshot,
            facts: &facts,
            policy: &policy,
            held: &held,
            resting: &resting,
            verdicts: &verdicts,
            holding: &Holding::All,
        });
        // There are no Nodes and no Pods here.
        problems.retain(|problem| problem.reason != ProblemReason::NoBackends);
        assert_eq!(problems, [], "{place}");
        for name in snapshot.services.keys() {
            let status =
                desired.statuses.get(name).unwrap_or_else(|| panic!("{place}: {name} has no status"));
            assert!(!status.vips.is_empty(), "{place}: {name} has no VIP");
            let errors = status.vips.iter().flat_map(|vip| &vip.ports).filter(|port| port.error.is_some());
            assert_eq!(errors.count(), 0, "{place}: {name}");
        }
    }
}

fn policy(flags: &str) -> Policy {
    let args: Vec<&str> =
        ["llb-agent", "--linkdevice", "eth0"].into_iter().chain(flags.split_whitespace()).collect();
    match Cli::of(&args).unwrap() {
        Invocation::Serve(configured) => configured.config.policy,
        other => panic!("an example serves: {other:?}"),
    }
}

fn link() -> Link {
    let address = |net: &str| LinkAddress { net: net.parse().unwrap(), ours: false, primary: true };
    Link { name: "eth0".to_owned(), addresses: OWN.map(address).into() }
}

#[test]
fn every_example_is_in_the_list() {
    let list = read("examples/README.md");
    for path in files("examples", "yaml") {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(list.contains(&format!("]({name})")), "examples/README.md does not name {name}");
    }
}
