// SPDX-License-Identifier: Apache-2.0
//! Which agent of a group writes statuses and Events. Not: how that is decided (`status/lease/`).

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// The name of a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name within the namespace.
    pub name: String,
}

/// Whether this agent writes statuses and Events, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatusWriter {
    /// The Lease that decides it, as `namespace/name`; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// The name of this agent in Leases and conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// What this agent is.
    pub role: Role,
}

/// What an agent is in its group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Nobody else is asked: there is no cluster, or `--lease off`.
    #[default]
    Alone,
    /// The API server has not answered about the Lease yet.
    Pending,
    /// This agent has the Lease.
    Elected,
    /// The agent with this name has it.
    Other(String),
    /// The API server does not answer, so nobody knows who has it.
    Unknown,
    /// The Lease can't be used, so this agent writes without asking.
    Unasked,
}

impl StatusWriter {
    /// Whether this agent writes.
    pub fn writes(&self) -> bool {
        matches!(self.role, Role::Alone | Role::Elected | Role::Unasked)
    }

    /// Whether it is known who writes.
    pub fn is_known(&self) -> bool {
        !matches!(self.role, Role::Pending | Role::Unknown)
    }
}

impl fmt::Display for StatusWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            Role::Alone => f.write_str("this agent"),
            Role::Pending => f.write_str("not known yet"),
            Role::Elected => f.write_str("this agent"),
            Role::Other(holder) => write!(f, "{holder}; this agent only serves"),
            Role::Unknown => f.write_str("not known while the API server does not answer"),
            Role::Unasked => f.write_str("this agent, without the Lease"),
        }?;
        self.lease.iter().try_for_each(|lease| write!(f, " (Lease {lease})"))
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for LeaseName {
    type Err = LeaseNameError;

    fn from_str(text: &str) -> Result<Self, LeaseNameError> {
        let (namespace, name) = text.split_once('/').ok_or(LeaseNameError)?;
        if !is_subdomain(name) || !is_subdomain(namespace) || namespace.contains('.') {
            return Err(LeaseNameError);
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// A text is no name of a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give NAMESPACE/NAME, as in kube-system/llb, with small letters, digits, - and . only; or off")]
pub struct LeaseNameError;

/// A DNS subdomain of RFC 1123, which the API wants for names.
fn is_subdomain(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = |label: &str| {
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(is_inner)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

impl LeaseName {
    /// The Lease of the agents that serve `class`. With `namespaces` it is in the first of them,
    /// because agents that serve other namespaces are another group.
    pub fn of_group(class: &str, namespaces: &[String]) -> Self {
        let of_system = || "kube-system".to_owned();
        let namespace = namespaces.iter().min().cloned().unwrap_or_else(of_system);
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
        let name: String = class.chars().map(allowed).collect();
        let labels = name.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty());
        let name = labels.collect::<Vec<_>>().join(".");
        Self { namespace, name: if name.is_empty() { "llb".to_owned() } else { name } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_a_lease_by_its_class_and_namespaces() {
        let lease = |class, namespaces: &[&str]| {
            let namespaces: Vec<String> = namespaces.iter().map(|&name| name.to_owned()).collect();
            LeaseName::of_group(class, &namespaces).to_string()
        };
        assert_eq!(lease("llb.dev/llb", &[]), "kube-system/llb.dev-llb");
        assert_eq!(lease("Example.com/Edge_1", &["shop", "crm"]), "crm/example.com-edge-1");
        assert_eq!(lease("_", &[]), "kube-system/llb");
        for class in ["llb.dev/llb", "Example.com/Edge_1", "-.a./-.", "_"] {
            assert!(lease(class, &[]).parse::<LeaseName>().is_ok(), "{class}");
        }
    }

    #[test]
    fn names_of_leases_are_checked() {
        assert_eq!("llb/edge.1".parse::<LeaseName>().unwrap().to_string(), "llb/edge.1");
        for text in ["", "on", "llb", "/a", "a/", "a/b/c", "a.b/c", "A/b", "a/-b", "a/b_c"] {
            assert_eq!(text.parse::<LeaseName>(), Err(LeaseNameError), "{text}");
        }
    }
}
