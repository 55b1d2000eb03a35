// SPDX-License-Identifier: Apache-2.0
//! All rights that llb needs in a cluster, as one list, and the objects of Kubernetes that grant them as text. Pure. The
//! files in `deploy/` are this text, and the Helm chart renders the same rules; tests compare them.

use std::fmt::{self, Write as _};

use crate::config::{ConfigMapName, Grant};
use crate::model::LeaseName;
use crate::source::Right;

/// Where a right has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// In the namespaces whose Services are served.
    Served,
    /// In the whole cluster.
    Cluster,
    /// For the Lease of the group.
    Lease,
    /// For the ConfigMap with pools, if there is one.
    Pools,
}

/// Verbs on one resource.
struct Rule {
    scope: Scope,
    group: &'static str,
    resource: &'static str,
    /// The only object, if there is one.
    name: Option<&'static str>,
    verbs: &'static [&'static str],
    /// What llb does with it.
    purpose: &'static str,
}

/// The list. `tests/cluster/` takes each verb away in turn, and llb has to name it.
const RULES: [Rule; 9] = [
    Rule {
        scope: Scope::Served,
        group: "",
        resource: "services",
        name: None,
        verbs: &["list", "watch"],
        purpose: "What to serve.",
    },
    Rule {
        scope: Scope::Served,
        group: "discovery.k8s.io",
        resource: "endpointslices",
        name: None,
        verbs: &["list", "watch"],
        purpose: "The Pods of Services.",
    },
    Rule {
        scope: Scope::Served,
        group: "",
        resource: "services/status",
        name: None,
        verbs: &["patch"],
        purpose: "Addresses, conditions and finalizer of Services. Give it to nobody else: who has it can claim addresses.",
    },
    Rule {
        scope: Scope::Served,
        group: "events.k8s.io",
        resource: "events",
        name: None,
        verbs: &["create"],
        purpose: "What `kubectl describe service` shows.",
    },
    Rule {
        scope: Scope::Cluster,
        group: "",
        resource: "nodes",
        name: None,
        verbs: &["list", "watch"],
        purpose: "Backends, and addresses that no Service may take.",
    },
    Rule {
        scope: Scope::Cluster,
        group: "",
        resource: "namespaces",
        name: Some("kube-system"),
        verbs: &["list"],
        purpose: "Optional: its UID. Without it, only the URL tells this cluster from others.",
    },
    Rule {
        scope: Scope::Cluster,
        group: "networking.k8s.io",
        resource: "servicecidrs",
        name: None,
        verbs: &["list"],
        purpose: "Optional: the ranges of ClusterIPs. Without it, only the ClusterIPs of Services are known.",
    },
    Rule {
        scope: Scope::Lease,
        group: "coordination.k8s.io",
        resource: "leases",
        name: None,
        verbs: &["get", "update"],
        purpose: "By it, several agents agree on the one that writes statuses and Events.",
    },
    Rule {
        scope: Scope::Pools,
        group: "",
        resource: "configmaps",
        name: None,
        verbs: &["list", "watch"],
        purpose: "The pools. Whoever may write this ConfigMap decides which addresses Services may have.",
    },
];

const RBAC: &str = "rbac.authorization.k8s.io";

/// The rights of an agent, one for each verb and namespace.
pub fn rights(
    namespaces: &[String],
    lease: Option<&LeaseName>,
    config_map: Option<&ConfigMapName>,
) -> Vec<Right> {
    let served: Vec<Option<String>> = match namespaces {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    let rights = RULES.iter().flat_map(|rule| {
        let places: Vec<(Option<String>, Option<String>)> = match rule.scope {
            Scope::Served => served.iter().map(|namespace| (namespace.clone(), None)).collect(),
            Scope::Cluster => vec![(None, rule.name.map(str::to_owned))],
            Scope::Lease => {
                lease.iter().map(|one| (Some(one.namespace.clone()), Some(one.name.clone()))).collect()
            }
            Scope::Pools => {
                config_map.iter().map(|one| (Some(one.namespace.clone()), Some(one.name.clone()))).collect()
            }
        };
        places.into_iter().flat_map(move |(namespace, name)| {
            rule.verbs.iter().map(move |verb| Right {
                verb,
                group: rule.group,
                resource: rule.resource,
                namespace: namespace.clone(),
                name: name.clone(),
                is_optional: rule.purpose.starts_with(OPTIONAL),
            })
        })
    });
    rights.collect()
}

/// The purpose of a right begins so if llb also works without that right.
const OPTIONAL: &str = "Optional: ";

/// The text of `llb-agent rbac`.
pub fn manifest(grant: &Grant) -> String {
    let mut text = INTRODUCTION.to_owned();
    // Writing to a String does not fail.
    let _ = write_objects(&mut text, grant);
    text
}

const INTRODUCTION: &str = "\
# All rights of llb-agent in a cluster, as `llb-agent rbac` prints them. It cannot read Secrets or Pods, and no
# ConfigMap but that of --config-map. With --namespace, --class, --lease or --config-map of the agent, print them with the
# same flags:
#
#   llb-agent rbac --namespace shop | kubectl apply -f -
#
# An agent outside the cluster needs a token of the account in its kubeconfig:
#
#   kubectl --namespace llb create token llb-agent --duration=8760h
";

fn write_objects(text: &mut String, grant: &Grant) -> fmt::Result {
    let Grant { account, namespaces, lease, config_map } = grant;
    let name = &account.name;
    write!(text, "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {}\n", account.namespace)?;
    write!(text, "---\napiVersion: v1\nkind: ServiceAccount\n{}", metadata(name, Some(&account.namespace)))?;
    let (served, cluster) = ([Scope::Served].as_slice(), [Scope::Cluster].as_slice());
    if namespaces.is_empty() {
        write_role(text, grant, name, None, &[Scope::Served, Scope::Cluster])?;
    } else {
        write_role(text, grant, name, None, cluster)?;
        for namespace in namespaces {
            write_role(text, grant, name, Some(namespace), served)?;
        }
    }
    if let Some(LeaseName { namespace, name: lease_name }) = lease {
        text.push_str("---\n# It is here, and empty, so that llb needs no right to create Leases.\n");
        let metadata = metadata(lease_name, Some(namespace));
        write!(text, "apiVersion: coordination.k8s.io/v1\nkind: Lease\n{metadata}")?;
        write_role(text, grant, &format!("{name}-lease"), Some(namespace), &[Scope::Lease])?;
    }
    if let Some(ConfigMapName { namespace, .. }) = config_map {
        write_role(text, grant, &format!("{name}-pools"), Some(namespace), &[Scope::Pools])?;
    }
    Ok(())
}

/// A role with the rules of these scopes, and its binding. Without a namespace it holds for the whole cluster.
fn write_role(
    text: &mut String,
    grant: &Grant,
    name: &str,
    namespace: Option<&str>,
    scopes: &[Scope],
) -> fmt::Result {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let metadata = metadata(name, namespace);
    write!(text, "---\napiVersion: {RBAC}/v1\nkind: {kind}\n{metadata}rules:\n")?;
    for rule in RULES.iter().filter(|rule| scopes.contains(&rule.scope)) {
        write_rule(text, rule, grant)?;
    }
    write!(text, "---\napiVersion: {RBAC}/v1\nkind: {kind}Binding\n{metadata}")?;
    write!(text, "roleRef:\n  apiGroup: {RBAC}\n  kind: {kind}\n  name: {name}\n")?;
    let account = &grant.account;
    let (account, namespace) = (&account.name, &account.namespace);
    write!(text, "subjects:\n  - kind: ServiceAccount\n    name: {account}\n    namespace: {namespace}\n")
}

fn write_rule(text: &mut String, rule: &Rule, grant: &Grant) -> fmt::Result {
    let Rule { group, resource, verbs, purpose, .. } = rule;
    let group = if group.is_empty() { "\"\"" } else { group };
    writeln!(text, "  # {purpose}")?;
    writeln!(text, "  - apiGroups: [{group}]\n    resources: [{resource}]")?;
    let name = match rule.scope {
        Scope::Lease => grant.lease.as_ref().map(|lease| lease.name.as_str()),
        Scope::Pools => grant.config_map.as_ref().map(|map| map.name.as_str()),
        Scope::Served | Scope::Cluster => rule.name,
    };
    name.iter().try_for_each(|name| writeln!(text, "    resourceNames: [{name}]"))?;
    writeln!(text, "    verbs: [{}]", verbs.join(", "))
}

fn metadata(name: &str, namespace: Option<&str>) -> String {
    let namespace = namespace.map(|namespace| format!("  namespace: {namespace}\n")).unwrap_or_default();
    format!("metadata:\n  name: {name}\n{namespace}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Account;

    fn kinds(namespaces: &[&str], lease: Option<LeaseName>) -> Vec<String> {
        let account = Account { namespace: "llb".to_owned(), name: "llb-agent".to_owned() };
        let namespaces = namespaces.iter().map(|&name| name.to_owned()).collect();
        let text = manifest(&Grant { account, namespaces, lease, config_map: None });
        let values = |key: &str| -> Vec<String> {
            let lines = text.split("---\n").skip(1).map(|object| {
                let line = object.lines().find_map(|line| line.strip_prefix(key));
                line.unwrap_or("-").trim().to_owned()
            });
            lines.collect()
        };
        let names = values("  name:").into_iter().zip(values("  namespace:"));
        values("kind:")
            .into_iter()
            .zip(names)
            .map(|(kind, (name, namespace))| format!("{kind} {namespace}/{name}"))
            .collect()
    }

    #[test]
    fn with_namespaces_the_rights_on_services_hold_only_there() {
        let lease = LeaseName::of_group("llb.dev/llb", &[]);
        let all = kinds(&[], Some(lease));
        assert_eq!(
            all,
            [
                "Namespace -/llb",
                "ServiceAccount llb/llb-agent",
                "ClusterRole -/llb-agent",
                "ClusterRoleBinding -/llb-agent",
                "Lease kube-system/llb.dev-llb",
                "Role kube-system/llb-agent-lease",
                "RoleBinding kube-system/llb-agent-lease",
            ]
        );
        let some = kinds(&["crm", "shop"], None);
        assert_eq!(
            some[2..],
            [
                "ClusterRole -/llb-agent",
                "ClusterRoleBinding -/llb-agent",
                "Role crm/llb-agent",
                "RoleBinding crm/llb-agent",
                "Role shop/llb-agent",
                "RoleBinding shop/llb-agent",
            ]
        );
    }

    #[test]
    fn of_config_maps_only_the_one_with_pools_can_be_read() {
        let account = Account { namespace: "llb".to_owned(), name: "llb-agent".to_owned() };
        let config_map = ConfigMapName { namespace: "edge".to_owned(), name: "pools".to_owned() };
        let grant =
            |config_map| Grant { account: account.clone(), namespaces: Vec::new(), lease: None, config_map };
        let without = manifest(&grant(None));
        assert!(!without.contains("configmaps"));
        let with = manifest(&grant(Some(config_map)));
        let added = with.strip_prefix(&without).unwrap();
        for line in [
            "kind: Role\n",
            "  name: llb-agent-pools\n  namespace: edge\n",
            "    resourceNames: [pools]\n    verbs: [list, watch]\n",
        ] {
            assert!(added.contains(line), "{line}: {added}");
        }
    }

    #[test]
    fn each_verb_is_a_right_in_its_place() {
        let shown = |right: &Right| {
            let namespace = right.namespace.as_deref().unwrap_or("-");
            format!("{} {} {namespace}/{}", right.verb, right.resource, right.name.as_deref().unwrap_or("-"))
        };
        let all = rights(&[], None, None);
        let verbs: usize = RULES
            .iter()
            .filter(|rule| matches!(rule.scope, Scope::Served | Scope::Cluster))
            .map(|rule| rule.verbs.len())
            .sum();
        assert_eq!(all.len(), verbs);
        assert_eq!(shown(&all[0]), "list services -/-");
        let optional: Vec<&str> =
            all.iter().filter(|right| right.is_optional).map(|right| right.resource).collect();
        assert_eq!(optional, ["namespaces", "servicecidrs"]);
        let lease = LeaseName::of_group("llb.dev/llb", &[]);
        let some = rights(&["crm".to_owned(), "shop".to_owned()], Some(&lease), None);
        let texts: Vec<String> = some.iter().map(shown).collect();
        for text in ["list services crm/-", "patch services/status shop/-", "list nodes -/-"] {
            assert!(texts.iter().any(|one| one == text), "{text}: {texts:?}");
        }
        assert!(texts.iter().any(|one| one == "update leases kube-system/llb.dev-llb"), "{texts:?}");
    }

    #[test]
    fn no_rule_has_a_wildcard_or_a_secret() {
        for rule in &RULES {
            assert!(!rule.verbs.is_empty() && !rule.verbs.contains(&"*"), "{}", rule.resource);
            assert!(!["*", "secrets"].contains(&rule.resource));
        }
    }
}
