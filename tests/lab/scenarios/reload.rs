// SPDX-License-Identifier: Apache-2.0
//! The configuration file changes while traffic flows.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use llb_tests::client::{Load, http_get};
use llb_tests::manifests::PortSpec;
use llb_tests::{Agent, Lab, wait_until};
use rustix::process::Signal;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

fn file(lab: &Lab) -> PathBuf {
    lab.directory().join("llb.toml")
}

/// Writes the file: these keys, and one pool with these addresses.
fn write(lab: &Lab, keys: &str, pool: &[IpAddr]) {
    let ranges: Vec<String> = pool.iter().map(|vip| format!("{:?}", vip.to_string())).collect();
    let text = format!("{keys}\n[[pool]]\nname = \"web\"\nranges = [{}]\n", ranges.join(", "));
    fs::write(file(lab), text).unwrap();
}

fn wait_for_log(agent: &Agent, text: &str) {
    wait_until(LIMIT, &format!("the log to have {text:?}"), || Ok(agent.log().contains(text).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", agent.log()));
}

fn wait_until_over(agent: &Agent, reason: &str) {
    let is_over = |state: &serde_json::Value| llb_tests::agent::problem(state, reason).is_none();
    agent.wait_for_state(LIMIT, &format!("{reason} to be over"), is_over).unwrap();
}

pub(crate) fn a_changed_file_counts_at_once_and_a_wrong_one_changes_nothing(plane: Plane) {
    let mut setup = Setup::new(plane);
    write(&setup.lab, "", &[setup.lab.vip(0)]);
    setup.set_argument("--config", file(&setup.lab).to_str().unwrap());
    setup.agent.terminate().unwrap();
    setup.agent.wait_exit().unwrap();
    setup.restart_agent();
    setup.serve_http(30080);
    let http = [PortSpec::tcp("http", 80, 30080)];
    let (first, second, third) = (setup.lab.vip(0), setup.lab.vip(1), setup.lab.vip(2));
    setup.serve("first", &[first], &http);
    let load = Load::start(setup.client(), SocketAddr::new(first, 80));
    load.wait_for_more(100, LIMIT).unwrap();

    setup.write_service("second", &[second], &http);
    setup.agent.wait_for_problem(LIMIT, "AddressNotAllowed").unwrap();
    write(&setup.lab, "drain-timeout = \"7s\"", &[first, second]);
    setup.serve("second", &[second], &http);
    http_get(setup.client(), SocketAddr::new(second, 80)).unwrap();
    wait_for_log(&setup.agent, "configuration: drain-timeout: \\\"25s\\\" -> \\\"7s\\\"");

    write(&setup.lab, "drain-timeot = \"8s\"", &[first]);
    let problem = setup.agent.wait_for_problem(LIMIT, "InvalidConfiguration").unwrap();
    assert!(
        problem.contains("llb.toml:1: drain-timeot: there is no such key; did you mean drain-timeout?"),
        "{problem}"
    );
    for vip in [first, second] {
        http_get(setup.client(), SocketAddr::new(vip, 80)).unwrap();
    }

    write(&setup.lab, "max-flows = 70000", &[first, second, third]);
    let problem = setup.agent.wait_for_problem(LIMIT, "RestartNeeded").unwrap();
    assert!(problem.contains("max-flows: not set -> 70000"), "{problem}");
    wait_until_over(&setup.agent, "InvalidConfiguration");
    setup.serve("third", &[third], &http);

    // Nothing but the signal makes the agent read a file that has not changed.
    setup.agent.process().signal(Signal::HUP).unwrap();
    wait_for_log(&setup.agent, "SIGHUP: reading the configuration again");
    wait_for_log(&setup.agent, "configuration: nothing has changed that counts now");
    write(&setup.lab, "", &[first, second, third]);
    setup.agent.process().signal(Signal::HUP).unwrap();
    wait_until_over(&setup.agent, "RestartNeeded");
    load.wait_for_more(100, LIMIT).unwrap();
    let tally = load.stop().unwrap();
    assert_eq!(tally.failures, Vec::<String>::new(), "{} requests", tally.total());
    for vip in [first, second, third] {
        http_get(setup.client(), SocketAddr::new(vip, 80)).unwrap();
    }
}
