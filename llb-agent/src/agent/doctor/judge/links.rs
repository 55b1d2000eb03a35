// SPDX-License-Identifier: Apache-2.0
//! Whether each link exists, is up, and is no port of another one. Pure. Which hook it gets is in `hooks.rs`.

use super::super::check::CheckId;
use super::super::facts::{LinkReport, Links};
use super::super::finding::Finding;
use crate::config::{Config, Datapath};

pub(super) fn judge(config: &Config, links: &Result<Links, String>) -> Vec<Finding> {
    let links = match links {
        Ok(links) => links,
        Err(error) => {
            let what = format!("the kernel does not list its links: {error}");
            return vec![Finding::error(CheckId::Link, what, "run doctor as root")];
        }
    };
    let missing = links.missing.iter().map(|name| {
        let there = links.all.join(", ");
        Finding::error(
            CheckId::Link,
            format!("there is no such link; this machine has: {there}"),
            "name one of them with --linkdevice, or make the link",
        )
        .of(name)
    });
    missing.chain(links.reports.iter().flat_map(|link| of_link(config, link))).collect()
}

fn of_link(config: &Config, link: &LinkReport) -> Vec<Finding> {
    let name = &link.device.name;
    let findings = [there(link), carrier(link), port(link), other_agent(config, link)];
    findings.into_iter().map(|finding| finding.of(name)).collect()
}

fn there(link: &LinkReport) -> Finding {
    let what = match (&link.device.kind, &link.driver) {
        (Some(kind), _) => format!("it is there ({kind})"),
        (None, Some(driver)) => format!("it is there (driver {driver})"),
        (None, None) => "it is there".to_owned(),
    };
    if link.device.has_neighbours || link.device.name == "lo" {
        return Finding::ok(CheckId::Link, what);
    }
    Finding::warning(
        CheckId::Link,
        format!("{what}, and has no ARP and no NDP"),
        "use it only for pools with +routed=true, to which a router leads clients",
    )
}

fn carrier(link: &LinkReport) -> Finding {
    let name = &link.device.name;
    if link.device.is_running {
        return Finding::ok(CheckId::LinkCarrier, "it is up and has a carrier");
    }
    if link.device.is_up {
        let action = "look at the cable, the port of the switch, and the links below it (ip link)";
        return Finding::error(CheckId::LinkCarrier, "it has no carrier", action);
    }
    Finding::error(CheckId::LinkCarrier, "it is down", format!("ip link set {name} up"))
}

fn port(link: &LinkReport) -> Finding {
    let Some((master, kind)) = &link.master else {
        return Finding::ok(CheckId::LinkPort, "it is a port of no other link");
    };
    let what = format!("it is a port of {master} ({kind})");
    match kind.as_str() {
        "vrf" => Finding::warning(
            CheckId::LinkPort,
            format!("{what}; the relay and the API server are looked for outside of it"),
            "start llb-agent in the VRF (ip vrf exec), or use a link outside of it",
        ),
        _ => {
            let action = format!("name the link above it: --linkdevice {master}");
            Finding::error(CheckId::LinkPort, what, action)
        }
    }
}

fn other_agent(config: &Config, link: &LinkReport) -> Finding {
    if let Some(holder) = &link.holder {
        if holder.has_state_dir(&config.state_dir) {
            let pid = holder.pid().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            return Finding::ok(CheckId::OtherAgent, format!("the llb-agent that serves here{pid} has it"));
        }
        return Finding::warning(
            CheckId::OtherAgent,
            format!("{holder} has it"),
            "stop it; or start this one with its --state-dir, and it takes over without a gap",
        );
    }
    let uses_xdp = matches!(config.datapath, Datapath::Auto | Datapath::Xdp);
    match (link.device.xdp.filter(|_| uses_xdp), link.has_pins) {
        (Some((program, _)), Some(false)) => Finding::warning(
            CheckId::OtherAgent,
            format!("an XDP program of somebody else is on it (id {program})"),
            format!("see whose it is: bpftool prog show id {program}; or start llb with --datapath tc"),
        ),
        (Some((program, _)), None) => Finding::skipped(
            CheckId::OtherAgent,
            format!(
                "an XDP program is on it (id {program}), and the process may not see whether it is of llb"
            ),
            "run doctor as root",
        ),
        _ => Finding::ok(CheckId::OtherAgent, "no other llb-agent has it"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::super::super::sample::{config, link, links};
    use super::*;

    fn found(change: impl Fn(&mut LinkReport)) -> Vec<(CheckId, Level)> {
        found_with(&[], change)
    }

    fn found_with(flags: &[&str], change: impl Fn(&mut LinkReport)) -> Vec<(CheckId, Level)> {
        let mut report = link("eth0");
        change(&mut report);
        let findings = judge(&config(flags), &Ok(links(vec![report]))).into_iter();
        findings.filter(|one| one.level != Level::Ok).map(|one| (one.check, one.level)).collect()
    }

    #[test]
    fn a_link_that_is_away_or_dead_is_an_error() {
        assert_eq!(found(|_| ()), []);
        let without_carrier = |link: &mut LinkReport| link.device.is_running = false;
        assert_eq!(found(without_carrier), [(CheckId::LinkCarrier, Level::Error)]);
        let down = |link: &mut LinkReport| (link.device.is_up, link.device.is_running) = (false, false);
        assert_eq!(found(down), [(CheckId::LinkCarrier, Level::Error)]);
        let mut none = links(Vec::new());
        none.missing = vec!["eth9".to_owned()];
        let finding = judge(&config(&[]), &Ok(none)).pop().unwrap();
        assert_eq!((finding.level, finding.object.as_deref()), (Level::Error, Some("eth9")));
        assert!(finding.what.ends_with("this machine has: lo, eth0"), "{}", finding.what);
        assert_eq!(judge(&config(&[]), &Err("no".to_owned()))[0].level, Level::Error);
    }

    #[test]
    fn a_port_of_another_link_names_that_one() {
        for (kind, level) in [("bond", Level::Error), ("bridge", Level::Error), ("vrf", Level::Warning)] {
            let port = |link: &mut LinkReport| link.master = Some(("up0".to_owned(), kind.to_owned()));
            assert_eq!(found(port), [(CheckId::LinkPort, level)], "{kind}");
        }
    }

    #[test]
    fn another_agent_and_a_foreign_program_are_named() {
        use crate::addresses::Holder;
        let other = (CheckId::OtherAgent, Level::Warning);
        assert_eq!(found(|link| link.holder = Some(Holder::default())), [other]);
        let foreign = |link: &mut LinkReport| link.device.xdp = Some((7, true));
        assert_eq!(found(foreign), [other]);
        for datapath in ["tc", "sockmap", "userspace"] {
            assert_eq!(found_with(&["--datapath", datapath], foreign), [], "llb leaves XDP alone");
        }
        let own = |link: &mut LinkReport| (link.device.xdp, link.has_pins) = (Some((7, true)), Some(true));
        assert_eq!(found(own), []);
        let hidden = |link: &mut LinkReport| (link.device.xdp, link.has_pins) = (Some((7, true)), None);
        assert_eq!(found(hidden), [(CheckId::OtherAgent, Level::Skipped)]);
        let tunnel = |link: &mut LinkReport| link.device.has_neighbours = false;
        assert_eq!(found(tunnel), [(CheckId::Link, Level::Warning)]);
    }
}
