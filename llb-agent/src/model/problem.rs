// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a user's object. A problem is a value: llb reports it and continues.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::service::ServiceName;

/// The most problems of one object that are kept. A text of the largest size that the API accepts can
/// hold a hundred thousand mistakes.
const PROBLEMS_OF_ONE_OBJECT: usize = 20;

/// The most problems of the objects of one namespace that are kept. One tenant can have any number of objects,
/// but a large cluster may well have a problem with each of its Services.
const PROBLEMS_OF_ONE_NAMESPACE: usize = 5000;

/// The longest message, in bytes: about what the API accepts in the note of an Event.
pub const MESSAGE_BYTES: usize = 1000;

/// The longest name of an object in a problem: kind, namespace and name of the longest sizes that the
/// API accepts.
const SUBJECT_BYTES: usize = 512;

/// The object that a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A Service; its problems also become Events.
    Service(ServiceName),
    /// Any other Kubernetes object, as `Kind namespace/name`.
    Object(String),
    /// A manifest file.
    File(String),
    /// A link device.
    Link(String),
    /// The connection to a source.
    Source(String),
}

impl Subject {
    /// The namespace of the object, if it has one.
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Service(name) => Some(&name.namespace),
            Self::Object(text) => Some(text.split_once(' ')?.1.split_once('/')?.0),
            Self::File(_) | Self::Link(_) | Self::Source(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Object(text) | Self::File(text) | Self::Source(text) => f.write_str(text),
            Self::Link(name) => write!(f, "link {name}"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The kind of a problem: its metric label and machine-readable part. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ProblemReason {
    /// A field or annotation has a value that llb cannot use.
    InvalidValue,
    /// A kind, field or annotation has a name that llb does not know, and is ignored.
    UnknownName,
    /// An annotation of another load balancer asks for something that llb does not do.
    ForeignAnnotation,
    /// A port's protocol is neither TCP nor UDP.
    UnsupportedProtocol,
    /// Another Service already has this VIP, port and protocol.
    FrontendCollision,
    /// Every address of every pool is taken.
    PoolExhausted,
    /// The pool is not for this Service's namespace, or the Service names no pool and
    /// no pool is for such Services.
    PoolNotAllowed,
    /// The address belongs to somebody else, or the operator has not opened it to Services.
    AddressNotAllowed,
    /// Another Service had the address until a moment ago.
    AddressResting,
    /// Another Service has the VIP, and the two do not share it.
    VipNotShared,
    /// The Services of the namespace have as many VIPs or frontends as they can have.
    NamespaceLimit,
    /// The port of the machine's own address is reserved for the machine.
    PortNotAllowed,
    /// There is no pool or link address of a family that the Service needs.
    NoAddressOfFamily,
    /// No Node is eligible.
    NoEligibleNodes,
    /// The Service has no usable backend.
    NoBackends,
    /// Backends fail a health check.
    UnhealthyBackends,
    /// All backends of a frontend are dead.
    BackendsUnreachable,
    /// `--backends nodes`, and the port has no nodePort.
    NoNodePort,
    /// The port has no nodePort, and the machine has no route to the Pods.
    NoRouteToPods,
    /// The Service wants affinity, but kube-proxy on the Nodes sees llb as the only client.
    AffinityAtNodes,
    /// The VIP is in no subnet of any link device, and no pool says that it is routed.
    NoSubnet,
    /// Routers can't send clients to the Service, or must send none to this machine now (`--announce routed`).
    NotRoutable,
    /// The Service keeps a VIP that no pool gives to it any more.
    OutsidePools,
    /// A kube-proxy on this machine, if there is one, takes packets to the VIP before the relay sees them.
    TakenByKubeProxy,
    /// Another host on the segment has the VIP or claims it.
    VipConflict,
    /// keepalived does not run, so this box of a group gets no VIP.
    VrrpDown,
    /// The VIP was an own address of a link device, and is gone.
    AddressGone,
    /// A link loses what XDP sends there.
    XdpLosesPackets,
    /// XDP can't tell frames of a link's VLANs from the link's own.
    XdpMixesVlans,
    /// A card puts packets together that it receives, and can't be told not to.
    LroStaysOn,
    /// `--return-path routes`, and the kernel does not tell the packet programs its routes.
    RoutesNotTold,
    /// No link device exists now.
    LinkMissing,
    /// Another agent has the link.
    LinkBusy,
    /// Something removes or adds a VIP again and again.
    ChangeUndone,
    /// Another program overwrites the status of the Service again and again.
    StatusOverwritten,
    /// The Lease by which the agents of a group agree on a writer can't be used.
    LeaseUnavailable,
    /// A manifest could not be read or parsed.
    InvalidManifest,
    /// The configuration has mistakes. The one that was read before stays.
    InvalidConfiguration,
    /// A new configuration waits until all objects are known that it concerns. The one before stays until then.
    ConfigurationPending,
    /// A part of the configuration has changed that only counts when the agent starts again.
    RestartNeeded,
    /// The Kubernetes API does not answer or refuses access.
    SourceUnavailable,
    /// The Kubernetes API does not answer, and the saved snapshot cannot be used.
    SavedSnapshotRefused,
    /// An action failed and will be retried.
    ActionFailed,
}

impl ProblemReason {
    /// Whether it says that no backend answers, while the VIPs themselves may be fine.
    pub fn is_about_backends(self) -> bool {
        matches!(
            self,
            Self::NoBackends
                | Self::BackendsUnreachable
                | Self::NoEligibleNodes
                | Self::NoNodePort
                | Self::NoRouteToPods
        )
    }
}

/// What is wrong with an object, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object.
    pub subject: Subject,
    /// Its kind.
    pub reason: ProblemReason,
    /// One sentence for a person.
    pub message: String,
}

impl Problem {
    /// A problem of a Service.
    pub fn of_service(name: &ServiceName, reason: ProblemReason, message: impl Into<String>) -> Self {
        Self { subject: Subject::Service(name.clone()), reason, message: message.into() }
    }

    /// The problem with texts that are short enough to be shown, whoever wrote what is in them.
    #[must_use]
    pub fn bounded(self) -> Self {
        let Self { subject, reason, message } = self;
        let short = |text: String| cut(text, SUBJECT_BYTES);
        let subject = match subject {
            // The name also finds the Service.
            Subject::Service(name) => Subject::Service(name),
            Subject::Object(text) => Subject::Object(short(text)),
            Subject::File(text) => Subject::File(short(text)),
            Subject::Link(text) => Subject::Link(short(text)),
            Subject::Source(text) => Subject::Source(short(text)),
        };
        Self { subject, reason, message: cut(message, MESSAGE_BYTES) }
    }
}

/// Keeps at most 20 problems of each object and 5,000 of the objects of each namespace, and shortens
/// their texts. The last one of an object with more tells how many were left out, and a problem of
/// the namespace tells that there are more.
pub fn bound(problems: &mut Vec<Problem>) {
    /// How many problems an object has, and which one is the last that was kept.
    #[derive(Default)]
    struct OfObject {
        count: usize,
        last: usize,
    }
    let mut objects: BTreeMap<Subject, OfObject> = BTreeMap::new();
    let mut namespaces: BTreeMap<String, usize> = BTreeMap::new();
    for problem in std::mem::take(problems) {
        let namespace = problem.subject.namespace().map(str::to_owned);
        let of_object = objects.entry(problem.subject.clone()).or_default();
        of_object.count += 1;
        if of_object.count > PROBLEMS_OF_ONE_OBJECT {
            continue;
        }
        if let Some(namespace) = namespace {
            let count = namespaces.entry(namespace).or_default();
            *count += 1;
            if *count > PROBLEMS_OF_ONE_NAMESPACE {
                of_object.count -= 1;
                continue;
            }
        }
        of_object.last = problems.len();
        problems.push(problem.bounded());
    }
    for OfObject { count, last } in objects.into_values() {
        if let Some(more) = count.checked_sub(PROBLEMS_OF_ONE_OBJECT).filter(|more| *more > 0)
            && let Some(last) = problems.get_mut(last)
        {
            let most = MESSAGE_BYTES / 2;
            last.message = format!("{}; {more} more problems of it", cut(last.message.clone(), most));
        }
    }
    let full = namespaces.into_iter().filter(|(_, count)| *count > PROBLEMS_OF_ONE_NAMESPACE);
    for (namespace, _) in full {
        let problem = Problem {
            subject: Subject::Object(format!("Namespace {namespace}")),
            reason: ProblemReason::NamespaceLimit,
            message: format!(
                "its objects have more than {PROBLEMS_OF_ONE_NAMESPACE} problems; the others are not shown; mend or delete some objects"
            ),
        };
        // More problems may have come to a list that was bounded before.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

/// The text, or its beginning and `…` if it has more bytes than that.
pub fn cut(mut text: String, most_bytes: usize) -> String {
    const MARK: char = '…';
    if text.len() > most_bytes {
        text.truncate(text.floor_char_boundary(most_bytes.saturating_sub(MARK.len_utf8())));
        text.push(MARK);
    }
    text
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.subject, self.reason, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(name: &str, message: &str) -> Problem {
        Problem::of_service(&ServiceName::new("default", name), ProblemReason::InvalidValue, message)
    }

    #[test]
    fn an_object_has_a_bounded_number_of_problems() {
        let mut problems: Vec<Problem> =
            (0..100_000).map(|number| problem("web", &format!("mistake {number}"))).collect();
        problems.push(problem("dns", "another one"));
        bound(&mut problems);
        assert_eq!(problems.len(), PROBLEMS_OF_ONE_OBJECT + 1);
        let last = &problems[PROBLEMS_OF_ONE_OBJECT - 1].message;
        assert_eq!(last, "mistake 19; 99980 more problems of it");
        assert_eq!(problems[PROBLEMS_OF_ONE_OBJECT].message, "another one");
        let before = problems.clone();
        bound(&mut problems);
        assert_eq!(problems, before, "once is enough");
    }

    #[test]
    fn a_namespace_has_a_bounded_number_of_problems_and_others_keep_theirs() {
        let mut problems: Vec<Problem> =
            (0..20_000).map(|number| problem(&format!("s{number}"), "a mistake")).collect();
        let slice = Subject::Object("EndpointSlice default/web-1".to_owned());
        problems.push(Problem { subject: slice, ..problems[0].clone() });
        problems.push(Problem::of_service(
            &ServiceName::new("victim", "web"),
            ProblemReason::NoBackends,
            "no endpoint",
        ));
        bound(&mut problems);
        assert_eq!(problems.len(), PROBLEMS_OF_ONE_NAMESPACE + 2);
        assert_eq!(problems[PROBLEMS_OF_ONE_NAMESPACE].message, "no endpoint");
        let last = problems.last().unwrap().to_string();
        assert!(
            last.starts_with("Namespace default: NamespaceLimit: its objects have more than 5000"),
            "{last}"
        );
        let before = problems.clone();
        bound(&mut problems);
        assert_eq!(problems, before, "once is enough");
        problems.push(problem("later", "another one"));
        bound(&mut problems);
        assert_eq!(problems, before, "it is told once that there are more");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = problem("web", &"é".repeat(100_000)).bounded();
        assert!(
            long.message.len() <= MESSAGE_BYTES && long.message.ends_with("é…"),
            "{}",
            long.message.len()
        );
        assert_eq!(cut("short".to_owned(), 5), "short");
        assert_eq!(cut("longer".to_owned(), 5), "lo…");
    }
}
