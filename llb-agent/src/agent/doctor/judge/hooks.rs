// SPDX-License-Identifier: Apache-2.0
//! Which hook a link gets, and what stands in the way of XDP there. Pure. `dataplane::packet` decides the hooks.

use super::super::check::CheckId;
use super::super::facts::LinkReport;
use super::super::finding::Finding;
use crate::config::{Config, Datapath};
use crate::dataplane::packet::HookForecast;
use crate::model::{Hook, HookChoice, HookReason};

/// The largest MTU with which a frame fits into one page, together with the room that most drivers reserve there for XDP.
const ONE_PAGE: u32 = 3498;

pub(super) fn judge(config: &Config, link: &LinkReport) -> Vec<Finding> {
    if !config.datapath.has_packet_plane() {
        return Vec::new();
    }
    let name = &link.device.name;
    let Some(forecast) = &link.forecast else {
        let what = "the kernel does not tell what its driver can do";
        return vec![Finding::skipped(CheckId::LinkXdp, what, "run doctor as root").of(name)];
    };
    let tries_xdp = forecast.hooks.contains(&Hook::Xdp) && forecast.runs_xdp;
    let mut findings = vec![hook(config.datapath, link, forecast)];
    if tries_xdp {
        findings.push(mtu(config.datapath, link, forecast.runs_large));
    }
    findings.push(offloads(link, tries_xdp));
    findings.into_iter().map(|finding| finding.of(name)).collect()
}

fn hook(datapath: Datapath, link: &LinkReport, forecast: &HookForecast) -> Finding {
    let (check, name) = (CheckId::LinkXdp, &link.device.name);
    if !link.device.is_ethernet {
        let what = "its frames have no Ethernet header, so packet programs can't be used; all is relayed";
        return Finding::warning(check, what, "use an Ethernet link, or start llb with --userspace");
    }
    let is_forced = datapath == Datapath::Xdp;
    let rxvlan = format!("ethtool -K {name} rxvlan off");
    if forecast.hides_vlans && is_forced {
        let what = "the card takes VLAN tags out of frames, so XDP takes those of its VLANs for its own";
        return Finding::error(check, what, format!("{rxvlan}, or start llb with --datapath auto"));
    }
    if !forecast.runs_xdp && forecast.hooks.contains(&Hook::Xdp) {
        let what = "its driver runs no XDP programs";
        return match is_forced {
            true => Finding::error(check, what, "start llb with --datapath auto or tc"),
            false => Finding::warning(
                check,
                format!("{what}; packets are forwarded at TC"),
                "nothing, if that is fast enough; otherwise use a card whose driver has XDP",
            ),
        };
    }
    let is_virtual = link.device.kind.as_deref().is_some_and(|kind| kind != "bond");
    if is_forced && is_virtual {
        let what = "XDP on a virtual link may lose what it forwards";
        return Finding::warning(check, what, "start llb with --datapath auto or tc");
    }
    let why = HookReason { choice: forecast.choice.clone(), refused: Vec::new() };
    match &forecast.choice {
        HookChoice::HiddenVlanTags => Finding::warning(check, format!("forwarded at TC: {why}"), rxvlan),
        HookChoice::NotTaken { by } => Finding::warning(
            check,
            format!("forwarded at TC: {why}"),
            format!("nothing, if that is fast enough; otherwise run one llb-agent without {by}"),
        ),
        HookChoice::Fastest => Finding::ok(check, "XDP is tried first, then TC"),
        _ if forecast.hooks.contains(&Hook::Xdp) => Finding::ok(check, format!("forwarded at XDP: {why}")),
        _ => Finding::ok(check, format!("forwarded at TC: {why}")),
    }
}

fn mtu(datapath: Datapath, link: &LinkReport, runs_large: bool) -> Finding {
    let mtu = link.device.mtu;
    if mtu <= ONE_PAGE {
        return Finding::ok(CheckId::LinkMtu, format!("MTU {mtu}"));
    }
    if runs_large {
        return Finding::ok(CheckId::LinkMtu, format!("MTU {mtu}; the driver has XDP for large frames"));
    }
    let then = match datapath {
        Datapath::Xdp => "then all is relayed",
        _ => "then packets are forwarded at TC",
    };
    Finding::warning(
        CheckId::LinkMtu,
        format!("MTU {mtu} is more than {ONE_PAGE}: the driver may refuse XDP; {then}"),
        format!(
            "nothing, if that is fast enough; otherwise lower the MTU of all hosts of the segment to {ONE_PAGE} or less"
        ),
    )
}

fn offloads(link: &LinkReport, tries_xdp: bool) -> Finding {
    let (check, name) = (CheckId::LinkOffloads, &link.device.name);
    match (&link.lro, &link.hardware_gro) {
        (Err(error), _) | (_, Err(error)) => {
            let what = format!("the kernel does not tell them: {error}");
            Finding::skipped(check, what, format!("look yourself: ethtool -k {name}"))
        }
        (_, Ok(true)) if tries_xdp => Finding::warning(
            check,
            "hardware GRO (rx-gro-hw) is on, and some drivers refuse XDP with it",
            format!("ethtool -K {name} rx-gro-hw off"),
        ),
        (Ok(true), _) => Finding::ok(check, "LRO is on; llb turns it off when it starts"),
        _ => Finding::ok(check, "LRO is off"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::super::super::sample::{config, link};
    use super::*;

    const BOTH: &[Hook] = &[Hook::Xdp, Hook::Tc];
    const XDP: &[Hook] = &[Hook::Xdp];
    const TC: &[Hook] = &[Hook::Tc];

    fn forecast(hooks: &'static [Hook], choice: HookChoice) -> HookForecast {
        HookForecast { ifindex: 2, hooks, choice, runs_xdp: true, runs_large: false, hides_vlans: false }
    }

    fn found(datapath: &str, link: &LinkReport) -> Vec<(CheckId, Level)> {
        let findings = judge(&config(&["--datapath", datapath]), link).into_iter();
        findings.filter(|one| one.level != Level::Ok).map(|one| (one.check, one.level)).collect()
    }

    #[test]
    fn a_card_with_xdp_has_nothing_to_say() {
        assert_eq!(found("auto", &link("eth0")), []);
        assert_eq!(judge(&config(&["--userspace"]), &link("eth0")), [], "the relay needs no hook");
    }

    #[test]
    fn a_driver_without_xdp_costs_or_stops() {
        let mut card = link("eth0");
        let without = |hooks, choice| HookForecast { runs_xdp: false, ..forecast(hooks, choice) };
        card.forecast = Some(without(BOTH, HookChoice::Fastest));
        assert_eq!(found("auto", &card), [(CheckId::LinkXdp, Level::Warning)]);
        card.forecast = Some(without(XDP, HookChoice::Flag(Hook::Xdp)));
        assert_eq!(found("xdp", &card), [(CheckId::LinkXdp, Level::Error)]);
        card.forecast = Some(without(TC, HookChoice::Flag(Hook::Tc)));
        assert_eq!(found("tc", &card), []);
        card.forecast = None;
        assert_eq!(found("auto", &card), [(CheckId::LinkXdp, Level::Skipped)]);
    }

    #[test]
    fn vlans_veths_and_tunnels_have_their_own_reasons() {
        let mut card = link("eth0");
        card.forecast = Some(forecast(TC, HookChoice::HiddenVlanTags));
        assert_eq!(found("auto", &card), [(CheckId::LinkXdp, Level::Warning)]);
        let hiding = HookForecast { hides_vlans: true, ..forecast(XDP, HookChoice::Flag(Hook::Xdp)) };
        card.forecast = Some(hiding);
        assert_eq!(found("xdp", &card), [(CheckId::LinkXdp, Level::Error)]);
        card.forecast = Some(forecast(TC, HookChoice::NotTaken { by: "eth1".to_owned() }));
        assert_eq!(found("auto", &card), [(CheckId::LinkXdp, Level::Warning)]);
        let mut veth = link("eth0");
        veth.device.kind = Some("veth".to_owned());
        veth.forecast = Some(forecast(TC, HookChoice::Veth));
        assert_eq!(found("auto", &veth), []);
        veth.forecast = Some(forecast(XDP, HookChoice::Flag(Hook::Xdp)));
        assert_eq!(found("xdp", &veth), [(CheckId::LinkXdp, Level::Warning)]);
        veth.device.is_ethernet = false;
        assert_eq!(found("auto", &veth), [(CheckId::LinkXdp, Level::Warning)]);
    }

    #[test]
    fn a_large_mtu_and_hardware_gro_matter_only_to_xdp() {
        let mut card = link("eth0");
        card.device.mtu = 9000;
        card.hardware_gro = Ok(true);
        let both = [(CheckId::LinkMtu, Level::Warning), (CheckId::LinkOffloads, Level::Warning)];
        assert_eq!(found("auto", &card), both);
        let large = HookForecast { runs_large: true, ..forecast(BOTH, HookChoice::Fastest) };
        card.forecast = Some(large);
        assert_eq!(found("auto", &card), both[1..]);
        card.forecast = Some(forecast(TC, HookChoice::Flag(Hook::Tc)));
        assert_eq!(found("tc", &card), []);
        card.lro = Err("no answer".to_owned());
        assert_eq!(found("tc", &card), [(CheckId::LinkOffloads, Level::Skipped)]);
        card.lro = Ok(true);
        assert_eq!(found("tc", &card), [], "llb turns it off");
    }
}
