// SPDX-License-Identifier: Apache-2.0
//! The cluster, or the manifests. Pure.

use super::super::check::CheckId;
use super::super::facts::Source;
use super::super::finding::Finding;
use crate::config::Config;
use crate::model::{Announce, Mode};
use crate::source::{Inspection, KubeProxy, Right};

/// A difference of clocks that does no harm, in seconds. The API server tells whole seconds.
const MOST_APART: u64 = 10;

const PRINT_RIGHTS: &str =
    "`llb-agent rbac` prints all rights, for kubectl apply -f -; give it the same flags";

pub(super) fn judge(config: &Config, source: &Source) -> Vec<Finding> {
    let mut findings = vec![of_source(source)];
    let Some(inspection) = &source.inspection else { return findings };
    findings.extend(clock(inspection));
    if inspection.refusal.is_none() {
        findings.extend(rights(inspection));
        findings.push(kube_proxy(config, inspection));
    }
    findings
}

fn of_source(source: &Source) -> Finding {
    let place = &source.place;
    let refusal = source.inspection.as_ref().and_then(|inspection| inspection.refusal.as_ref());
    if let Some(why) = source.failure.as_ref().or(refusal) {
        let action =
            "check --kubeconfig and --context (kubectl get nodes with the same file), or --manifests";
        return Finding::error(CheckId::Source, why, action);
    }
    let Some(snapshot) = &source.snapshot else {
        let why = source.problems.join("; ");
        let what = if why.is_empty() { format!("no complete answer came from {place} in time") } else { why };
        let action = match &source.inspection {
            Some(_) => "see the other findings about the API server",
            None => "look at the files of --manifests",
        };
        return Finding::error(CheckId::Source, what, action);
    };
    let (services, nodes) = (snapshot.services.len(), snapshot.nodes.len());
    let what = format!("{place} has {services} Services and {nodes} Nodes");
    match &*source.problems {
        [] => Finding::ok(CheckId::Source, what),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            Finding::warning(
                CheckId::Source,
                format!("{what}, and this problem: {first}{more}"),
                "correct it",
            )
        }
    }
}

fn clock(inspection: &Inspection) -> Option<Finding> {
    let ahead = inspection.clock_ahead?;
    let apart = ahead.unsigned_abs();
    if apart <= MOST_APART {
        return Some(Finding::ok(CheckId::Clock, "it agrees with that of the API server"));
    }
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let what = format!("it is {apart} s {way} that of the API server");
    Some(Finding::warning(CheckId::Clock, what, "set it by NTP (timedatectl, chronyc tracking)"))
}

fn rights(inspection: &Inspection) -> Vec<Finding> {
    let list = |is_optional: bool| -> Vec<String> {
        let missing = inspection.missing.iter().filter(|right| right.is_optional == is_optional);
        missing.map(shown).collect()
    };
    let (needed, optional) = (list(false), list(true));
    let mut findings = Vec::new();
    if !needed.is_empty() {
        let what = format!("llb's user may not {}", needed.join(", "));
        findings.push(Finding::error(CheckId::ApiRights, what, PRINT_RIGHTS));
    }
    if !optional.is_empty() {
        let what = format!("llb's user may not {}; llb works without", optional.join(", "));
        findings.push(Finding::warning(CheckId::ApiRights, what, PRINT_RIGHTS));
    }
    if let Some(error) = &inspection.rights_unknown {
        let what = format!("the API server does not tell all of them: {error}");
        findings.push(Finding::skipped(CheckId::ApiRights, what, PRINT_RIGHTS));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CheckId::ApiRights, "llb's user has all rights that llb needs"));
    }
    findings
}

/// As in `patch services/status in namespace shop`.
fn shown(right: &Right) -> String {
    let Right { verb, resource, namespace, name, .. } = right;
    let name = name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let place = namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
    format!("{verb} {resource}{name}{place}")
}

fn kube_proxy(config: &Config, inspection: &Inspection) -> Finding {
    const BY_HAND: &str = "look yourself: kubectl -n kube-system get configmap kube-proxy -o yaml";
    match &inspection.kube_proxy {
        Err(error) => Finding::skipped(CheckId::KubeProxy, format!("not known: {error}"), BY_HAND),
        Ok(None) => Finding::skipped(
            CheckId::KubeProxy,
            "not known: there is no ConfigMap kube-system/kube-proxy",
            BY_HAND,
        ),
        Ok(Some(KubeProxy { mode, strict_arp: false })) if mode == "ipvs" => {
            let what = "mode ipvs without strictARP";
            let action =
                "set ipvs.strictARP: true in the ConfigMap kube-system/kube-proxy, and restart kube-proxy";
            match config.policy.mode {
                // VIPs are routed, so nobody asks for them by ARP.
                _ if config.policy.announce == Announce::Routed => Finding::ok(CheckId::KubeProxy, what),
                Mode::Dsr => {
                    Finding::error(CheckId::KubeProxy, format!("{what}, and llb's mode is dsr"), action)
                }
                Mode::Nat => Finding::warning(CheckId::KubeProxy, what, action),
            }
        }
        Ok(Some(KubeProxy { mode, .. })) => {
            let mode = if mode.is_empty() { "the default" } else { mode };
            Finding::ok(CheckId::KubeProxy, format!("mode: {mode}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::finding::Level;
    use super::super::super::sample::config;
    use super::*;
    use crate::model::Snapshot;

    fn inspection() -> Inspection {
        let proxy = KubeProxy { mode: "iptables".to_owned(), strict_arp: false };
        Inspection {
            refusal: None,
            clock_ahead: Some(1),
            missing: Vec::new(),
            rights_unknown: None,
            kube_proxy: Ok(Some(proxy)),
        }
    }

    fn source(inspection: Inspection) -> Source {
        Source {
            place: "https://192.0.2.1:6443".to_owned(),
            snapshot: Some(Arc::new(Snapshot::default())),
            inspection: Some(inspection),
            ..Source::default()
        }
    }

    fn found(flags: &[&str], source: &Source) -> Vec<(CheckId, Level)> {
        let findings = judge(&config(flags), source).into_iter();
        findings.filter(|one| one.level != Level::Ok).map(|one| (one.check, one.level)).collect()
    }

    #[test]
    fn an_api_that_answers_and_permits_is_well() {
        assert_eq!(found(&[], &source(inspection())), []);
        assert_eq!(judge(&config(&[]), &source(inspection())).len(), 4);
    }

    #[test]
    fn without_an_api_only_that_is_said() {
        let refused = Inspection { refusal: Some("no answer".to_owned()), clock_ahead: None, ..inspection() };
        assert_eq!(found(&[], &source(refused)), [(CheckId::Source, Level::Error)]);
        let failed = Source { failure: Some("no kubeconfig".to_owned()), ..Source::default() };
        assert_eq!(found(&[], &failed), [(CheckId::Source, Level::Error)]);
        assert_eq!(found(&[], &Source::default()), [(CheckId::Source, Level::Error)], "no answer in time");
        let with_problem = Source { problems: vec!["InvalidManifest".to_owned()], ..source(inspection()) };
        assert_eq!(found(&[], &with_problem), [(CheckId::Source, Level::Warning)]);
    }

    #[test]
    fn clocks_may_be_a_little_apart() {
        for (ahead, expected) in
            [(10, None), (-10, None), (11, Some("11 s ahead")), (-60, Some("60 s behind"))]
        {
            let finding = clock(&Inspection { clock_ahead: Some(ahead), ..inspection() }).unwrap();
            assert_eq!(finding.level == Level::Warning, expected.is_some());
            assert!(expected.is_none_or(|text| finding.what.contains(text)), "{}", finding.what);
        }
    }

    #[test]
    fn missing_rights_are_named_and_optional_ones_are_no_error() {
        let right = |verb, resource, namespace: Option<&str>, is_optional| Right {
            verb,
            group: "",
            resource,
            namespace: namespace.map(str::to_owned),
            name: None,
            is_optional,
        };
        let needed = right("patch", "services/status", Some("shop"), false);
        let optional = right("list", "servicecidrs", None, true);
        let missing = Inspection { missing: vec![needed, optional], ..inspection() };
        let findings = rights(&missing);
        assert_eq!(findings[0].what, "llb's user may not patch services/status in namespace shop");
        assert_eq!([findings[0].level, findings[1].level], [Level::Error, Level::Warning]);
        let unknown = Inspection { rights_unknown: Some("no".to_owned()), ..inspection() };
        assert_eq!(rights(&unknown)[0].level, Level::Skipped);
        let partly = rights(&Inspection { rights_unknown: Some("no".to_owned()), ..missing });
        let levels: Vec<Level> = partly.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Error, Level::Warning, Level::Skipped], "what is known comes first");
    }

    #[test]
    fn ipvs_without_strict_arp_stops_dsr() {
        let ipvs = |strict_arp| KubeProxy { mode: "ipvs".to_owned(), strict_arp };
        let with = |kube_proxy| source(Inspection { kube_proxy, ..inspection() });
        let check = CheckId::KubeProxy;
        assert_eq!(found(&["--mode", "dsr"], &with(Ok(Some(ipvs(false))))), [(check, Level::Error)]);
        assert_eq!(found(&[], &with(Ok(Some(ipvs(false))))), [(check, Level::Warning)]);
        assert_eq!(found(&["--mode", "dsr"], &with(Ok(Some(ipvs(true))))), []);
        assert_eq!(found(&[], &with(Ok(None))), [(check, Level::Skipped)]);
        assert_eq!(found(&[], &with(Err("forbidden".to_owned()))), [(check, Level::Skipped)]);
    }
}
