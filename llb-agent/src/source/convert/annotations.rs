// SPDX-License-Identifier: Apache-2.0
//! The annotations of a Service: llb's own, those of other load balancers that ask for the
//! same, and those that llb does not know.

use std::collections::BTreeMap;

use super::quote::quote;
use crate::model::ProblemReason;
use crate::suggestion::nearest;

/// The VIPs that a Service asks for, of one or both families, separated by commas: `198.51.100.7, 2001:db8::7`.
pub(super) const VIPS: &str = "llb.dev/vips";
/// The name of the `--pool` that a Service wants its VIPs from.
pub(super) const POOL: &str = "llb.dev/pool";
/// Any text of up to 80 bytes. Services of one namespace with the same text may share VIPs, on different ports; those of
/// several namespaces too, in a pool with `+shared=true`.
pub(super) const SHARING_KEY: &str = "llb.dev/sharing-key";
/// How a backend is chosen: `least-connections`, which is relayed, or `maglev`.
pub(super) const BALANCE: &str = "llb.dev/balance";
/// How the packet plane forwards: `nat` or `dsr`.
pub(super) const MODE: &str = "llb.dev/mode";
/// The PROXY header that tells backends the client's address: `v1` or `v2`. TCP only; it is relayed.
pub(super) const PROXY_PROTOCOL: &str = "llb.dev/proxy-protocol";
/// How backends of TCP ports are asked whether they work: `tcp`, `http:/path`, `grpc` or `grpc:SERVICE`.
pub(super) const HEALTH_CHECK: &str = "llb.dev/health-check";
/// The most open TCP connections of a Service, over all its ports; one more is reset. It is relayed.
pub(super) const MAX_CONNECTIONS: &str = "llb.dev/max-connections";

const OWN_PREFIX: &str = "llb.dev/";
const OWN: [&str; 8] =
    [VIPS, POOL, SHARING_KEY, BALANCE, MODE, PROXY_PROTOCOL, MAX_CONNECTIONS, HEALTH_CHECK];

/// The prefixes of MetalLB and kube-vip.
const FOREIGN_PREFIXES: [&str; 3] = ["metallb.io/", "metallb.universe.tf/", "kube-vip.io/"];
/// Annotations of other load balancers that mean the same as one of llb's, in the order in
/// which they are looked for. MetalLB's sharing key also holds across namespaces; llb's
/// does so only if the pool allows it, so it never shares more than MetalLB.
const SAME_MEANING: [(&str, &str); 7] = [
    ("metallb.io/loadBalancerIPs", VIPS),
    ("metallb.universe.tf/loadBalancerIPs", VIPS),
    ("kube-vip.io/loadbalancerIPs", VIPS),
    ("metallb.io/address-pool", POOL),
    ("metallb.universe.tf/address-pool", POOL),
    ("metallb.io/allow-shared-ip", SHARING_KEY),
    ("metallb.universe.tf/allow-shared-ip", SHARING_KEY),
];
/// Written by the other load balancer itself. They ask for nothing.
const RECORDS: [&str; 5] = [
    "metallb.io/ip-allocated-from-pool",
    "metallb.universe.tf/ip-allocated-from-pool",
    "kube-vip.io/vipHost",
    "kube-vip.io/active-endpoint",
    "kube-vip.io/active-endpoint-ipv6",
];
/// In kube-vip's annotation these ask for an address by DHCP.
const BY_DHCP: [&str; 2] = ["0.0.0.0", "::"];

/// A Service can have thousands of annotations. More of one sort are only counted.
const MOST: usize = 3;

/// The annotations of one Service.
#[derive(Clone, Copy)]
pub(super) struct Annotations<'a> {
    all: Option<&'a BTreeMap<String, String>>,
    /// `--foreign-annotations`.
    foreign: bool,
}

/// One annotation that is used.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    /// Its name, which may be a foreign one.
    pub(super) name: &'static str,
    /// Trimmed and not empty.
    pub(super) text: &'a str,
}

impl<'a> Annotations<'a> {
    pub(super) fn new(all: Option<&'a BTreeMap<String, String>>, foreign: bool) -> Self {
        Self { all, foreign }
    }

    /// The annotation of exactly this name.
    pub(super) fn text(self, name: &str) -> Option<&'a str> {
        let text = self.all?.get(name)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// One of llb's annotations, or else the first foreign one with the same meaning.
    pub(super) fn given(self, own: &'static str) -> Option<Given<'a>> {
        let given = |name: &'static str| Some(Given { name, text: self.text(name)? });
        given(own).or_else(|| self.same_meaning(own).find_map(given))
    }

    fn same_meaning(self, own: &'static str) -> impl Iterator<Item = &'static str> {
        let foreign = SAME_MEANING.iter().filter(move |(_, means)| self.foreign && *means == own);
        foreign.map(|(name, _)| *name).filter(move |name| !self.asks_for_dhcp(name))
    }

    fn asks_for_dhcp(self, name: &str) -> bool {
        let parts = self.text(name).map(|text| text.split(',').map(str::trim));
        name.starts_with("kube-vip.io/")
            && parts.is_some_and(|mut parts| parts.any(|part| BY_DHCP.contains(&part)))
    }

    /// Names what is not honoured.
    pub(super) fn report_ignored(self, report: &mut impl FnMut(ProblemReason, String)) {
        let unknown = self.names(OWN_PREFIX).filter(|name| !OWN.contains(name));
        let messages = unknown.map(|name| {
            let short = |name: &'static str| name.strip_prefix(OWN_PREFIX).unwrap_or(name);
            let hint = match nearest(&name[OWN_PREFIX.len()..], OWN.map(short)) {
                Some(meant) => format!("did you mean {OWN_PREFIX}{meant}?"),
                None => format!("llb knows {}", OWN.join(", ")),
            };
            format!("annotation {} is unknown and is ignored; {hint}", quote(name))
        });
        report_some(messages, ProblemReason::UnknownName, report);
        if self.foreign {
            let foreign = FOREIGN_PREFIXES.iter().flat_map(|prefix| self.names(prefix));
            let messages = foreign.filter_map(|name| self.why_not(name));
            report_some(messages, ProblemReason::ForeignAnnotation, report);
        }
    }

    fn names(self, prefix: &'static str) -> impl Iterator<Item = &'a str> {
        let all = self.all.into_iter().flatten().map(|(name, _)| name.as_str());
        all.filter(move |name| name.starts_with(prefix))
    }

    /// Why a foreign annotation is not honoured; `None` if it is, or if it asks for nothing.
    fn why_not(self, name: &str) -> Option<String> {
        if RECORDS.contains(&name) || self.text(name).is_none() {
            return None;
        }
        let Some((_, own)) = SAME_MEANING.iter().find(|(known, _)| *known == name) else {
            return Some(format!(
                "annotation {} of another load balancer has no counterpart in llb and is ignored",
                quote(name)
            ));
        };
        if self.asks_for_dhcp(name) {
            return Some(format!(
                "annotation {name} asks for an address by DHCP, which llb does not do; it is ignored: \
                 ask for an address with {own}"
            ));
        }
        let used = self.given(own)?;
        let differs = self.text(name) != Some(used.text);
        differs.then(|| {
            format!(
                "annotation {name} is ignored, because {} says something else; remove one of them",
                used.name
            )
        })
    }
}

/// Reports the first messages, and how many others there are.
fn report_some(
    mut messages: impl Iterator<Item = String>,
    reason: ProblemReason,
    report: &mut impl FnMut(ProblemReason, String),
) {
    messages.by_ref().take(MOST).for_each(|message| report(reason, message));
    let more = messages.count();
    if more > 0 {
        report(reason, format!("{more} further annotations are ignored in the same way"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn ignored(pairs: &[(&str, &str)], foreign: bool) -> Vec<(ProblemReason, String)> {
        let (all, mut found) = (map(pairs), Vec::new());
        Annotations::new(Some(&all), foreign)
            .report_ignored(&mut |reason, message| found.push((reason, message)));
        found
    }

    #[test]
    fn foreign_annotations_are_used_if_llbs_own_is_missing() {
        let mut all = map(&[("metallb.universe.tf/loadBalancerIPs", " 192.0.2.7 "), ("llb.dev/vips", " ")]);
        let given = |all: &BTreeMap<String, String>, foreign| {
            Annotations::new(Some(all), foreign)
                .given(VIPS)
                .map(|given| (given.name.to_owned(), given.text.to_owned()))
        };
        let expected = ("metallb.universe.tf/loadBalancerIPs".to_owned(), "192.0.2.7".to_owned());
        assert_eq!(given(&all, true), Some(expected));
        assert_eq!(given(&all, false), None);
        all.insert(VIPS.to_owned(), "192.0.2.8".to_owned());
        assert_eq!(given(&all, true), Some((VIPS.to_owned(), "192.0.2.8".to_owned())));
    }

    #[test]
    fn what_is_not_honoured_is_named() {
        for (name, text, said) in [
            ("llb.dev/vip", "192.0.2.7", "did you mean llb.dev/vips?"),
            ("llb.dev/Sharing-Key", "a", "did you mean llb.dev/sharing-key?"),
            ("llb.dev/foo", "bar", "llb knows llb.dev/vips"),
            ("llb.dev/weather", "sun", "llb knows llb.dev/vips, llb.dev/pool"),
            ("metallb.io/bgp-peer", "a", "no counterpart"),
            ("kube-vip.io/serviceInterface", "eth1", "no counterpart"),
            ("kube-vip.io/loadbalancerIPs", "0.0.0.0", "by DHCP"),
        ] {
            let found = ignored(&[(name, text)], true);
            assert!(matches!(&found[..], [(_, message)] if message.contains(said)), "{name}: {found:?}");
        }
        let two = [("metallb.io/address-pool", "a"), ("metallb.universe.tf/address-pool", "b")];
        assert!(ignored(&two, true)[0].1.contains("because metallb.io/address-pool says something else"));
        assert_eq!(
            ignored(&[("metallb.io/address-pool", "a"), ("metallb.universe.tf/address-pool", "a")], true),
            []
        );
        assert_eq!(ignored(&[("metallb.io/bgp-peer", "a")], false), []);
        for record in RECORDS {
            assert_eq!(ignored(&[(record, "a")], true), []);
        }
        assert_eq!(ignored(&[("example.com/llb.dev", "a")], true), []);
    }

    #[test]
    fn many_unknown_annotations_are_few_problems() {
        let names: Vec<String> = (0..5_000).map(|number| format!("llb.dev/{number}")).collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        let found = ignored(&pairs, true);
        assert_eq!(found.len(), MOST + 1);
        assert!(found[MOST].1.contains("4997 further"), "{found:?}");
    }
}
