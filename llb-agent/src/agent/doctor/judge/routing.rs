// SPDX-License-Identifier: Apache-2.0
//! Settings of the kernel's routing. Pure.

use super::super::check::CheckId;
use super::super::facts::{LinkReport, Links, Machine};
use super::super::finding::Finding;
use crate::config::Config;

/// `rp_filter` in Documentation/networking/ip-sysctl: packets must come from where the route to their source leads.
const STRICT: u8 = 1;

pub(super) fn judge(config: &Config, machine: &Machine, links: &Links) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        links.reports.iter().map(|link| rp_filter(link, links.with_ipv4)).collect();
    findings.extend(ip_forward(config, machine));
    findings
}

fn rp_filter(link: &LinkReport, with_ipv4: usize) -> Finding {
    let value = link.rp_filter;
    let finding = if value != STRICT {
        Finding::ok(CheckId::RpFilter, format!("{value}, not strict"))
    } else if with_ipv4 < 2 {
        Finding::ok(CheckId::RpFilter, "strict, and no other link has an IPv4 address")
    } else {
        Finding::warning(
            CheckId::RpFilter,
            format!("strict, and {with_ipv4} links have IPv4 addresses"),
            format!(
                "make it loose: sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{}.rp_filter=2",
                link.kernel_name
            ),
        )
    };
    finding.of(&link.device.name)
}

fn ip_forward(config: &Config, machine: &Machine) -> Vec<Finding> {
    if config.datapath.has_packet_plane() && !machine.return_path.is_empty() {
        let action = "sysctl -w net.ipv4.conf.lo.forwarding=1 net.ipv6.conf.lo.forwarding=1, or leave \
                      --return-path routes out";
        let warning = |what: &String| Finding::warning(CheckId::IpForward, what, action);
        return machine.return_path.iter().map(warning).collect();
    }
    let what = match machine.forwards {
        true => "on; llb does not need it",
        false => "off; llb forwards by its own programs and by its relay, and does not need it",
    };
    vec![Finding::ok(CheckId::IpForward, what)]
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::super::super::sample::{config, link, links, machine};
    use super::*;

    #[test]
    fn a_strict_filter_matters_with_several_links() {
        let found = |value, with_ipv4| {
            let mut links = links(vec![LinkReport { rp_filter: value, ..link("eth0") }]);
            links.with_ipv4 = with_ipv4;
            judge(&config(&[]), &machine(), &links)[0].level
        };
        assert_eq!(
            [found(1, 2), found(1, 1), found(2, 2), found(0, 2)],
            [Level::Warning, Level::Ok, Level::Ok, Level::Ok]
        );
    }

    #[test]
    fn forwarding_matters_only_to_answers_by_routes() {
        let found = |flags: &[&str], told: &[&str]| {
            let mut machine = machine();
            machine.forwards = false;
            machine.return_path = told.iter().map(|&text| text.to_owned()).collect();
            let findings = judge(&config(flags), &machine, &links(Vec::new()));
            findings.iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(found(&[], &[]), [Level::Ok]);
        assert_eq!(found(&["--return-path", "routes"], &["IPv4", "IPv6"]), [Level::Warning, Level::Warning]);
        assert_eq!(found(&["--return-path", "routes", "--userspace"], &["IPv4"]), [Level::Ok]);
    }
}
