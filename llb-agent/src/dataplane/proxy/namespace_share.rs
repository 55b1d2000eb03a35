// SPDX-License-Identifier: Apache-2.0
//! What the relay has open for the Services of each namespace: file descriptors, TCP
//! connections and UDP sessions. A namespace gets at most a share of each
//! (`--namespace-share`), so that one tenant leaves room for the others. The limits of all
//! namespaces together are in `plane_context.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;

use crate::config::{NamespaceShare, RelayConfig};
use crate::model::{Problem, ProblemReason, Subject};

/// Amounts of what is counted, in the order of [`NAMES`].
type Amounts = [usize; 3];

const NAMES: [&str; 3] = ["file descriptors", "TCP connections", "UDP sessions"];
/// Both sides of a connection.
const CONNECTION: Amounts = [2, 1, 0];
/// The side of the backend; all clients share the frontend's sockets.
const UDP_SESSION: Amounts = [1, 0, 1];

/// How much of each one namespace can have.
type Most = [AtomicUsize; 3];

/// What all namespaces have open.
#[derive(Debug)]
pub(super) struct NamespaceShares {
    most: Arc<Most>,
    known: Mutex<BTreeMap<String, Weak<NamespaceUse>>>,
    changed: Arc<Notify>,
}

/// What one namespace has open, and how much of each it can have.
#[derive(Debug)]
pub(super) struct NamespaceUse {
    most: Arc<Most>,
    used: [AtomicUsize; 3],
    /// Something was refused, and the namespace has been near its share since.
    is_full: [AtomicBool; 3],
    /// Notified when the namespace becomes full.
    changed: Arc<Notify>,
}

/// A part of a namespace's share, until dropped.
#[derive(Debug)]
pub(super) struct NamespacePermit {
    namespace: Arc<NamespaceUse>,
    amounts: Amounts,
}

impl NamespaceShares {
    /// The shares of what this process may open now and of what `config` allows. `changed` is
    /// notified when a namespace becomes full.
    pub(super) fn new(config: &RelayConfig, changed: Arc<Notify>) -> Self {
        Self::of_amounts(amounts(config), config.namespace_share, changed)
    }

    /// From now on namespaces can have the shares of what `config` allows. What is open beyond them stays.
    pub(super) fn set_most(&self, config: &RelayConfig) {
        for (most, amount) in self.most.iter().zip(amounts(config)) {
            most.store(config.namespace_share.of(amount), Ordering::Relaxed);
        }
    }

    pub(super) fn of_amounts(all: Amounts, share: NamespaceShare, changed: Arc<Notify>) -> Self {
        let most = Arc::new(all.map(|amount| AtomicUsize::new(share.of(amount))));
        Self { most, known: Mutex::default(), changed }
    }

    /// What `namespace` has open. All callers share one.
    pub(super) fn of(&self, namespace: &str) -> Arc<NamespaceUse> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = known.get(namespace).and_then(Weak::upgrade) {
            return used;
        }
        known.retain(|_, used| used.strong_count() > 0);
        let used = Arc::new(NamespaceUse {
            most: Arc::clone(&self.most),
            used: Default::default(),
            is_full: Default::default(),
            changed: Arc::clone(&self.changed),
        });
        known.insert(namespace.to_owned(), Arc::downgrade(&used));
        used
    }

    /// One for each namespace and amount that is full.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let used = known.iter().filter_map(|(name, used)| Some((name, used.upgrade()?)));
        used.flat_map(|(name, used)| used.problems(name)).collect()
    }
}

/// What this process may open now, and what `config` allows.
fn amounts(config: &RelayConfig) -> Amounts {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    [descriptors, config.max_connections.get(), config.max_udp_sessions.get()]
}

impl NamespaceUse {
    /// A part for the sockets of one frontend; `None` if the share is used up.
    pub(super) fn listener(self: &Arc<Self>, sockets: usize) -> Option<NamespacePermit> {
        self.take([sockets, 0, 0])
    }

    /// As [`NamespaceUse::listener`], for sockets that are open already.
    pub(super) fn open_listener(self: &Arc<Self>, sockets: usize) -> NamespacePermit {
        self.count([sockets, 0, 0])
    }

    /// A part for one more TCP connection; `None` if the share is used up.
    pub(super) fn connection(self: &Arc<Self>) -> Option<NamespacePermit> {
        self.take(CONNECTION)
    }

    /// A part for one more UDP session; `None` if the share is used up.
    pub(super) fn udp_session(self: &Arc<Self>) -> Option<NamespacePermit> {
        self.take(UDP_SESSION)
    }

    /// How many file descriptors the namespace can have.
    pub(super) fn most_descriptors(&self) -> usize {
        self.most(0)
    }

    fn most(&self, index: usize) -> usize {
        self.most[index].load(Ordering::Relaxed)
    }

    fn take(self: &Arc<Self>, amounts: Amounts) -> Option<NamespacePermit> {
        let permit = self.count(amounts);
        let is_over = |&index: &usize| amounts[index] > 0 && self.used(index) > self.most(index);
        let Some(index) = (0..amounts.len()).find(is_over) else { return Some(permit) };
        if !self.is_full[index].swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        }
        None
    }

    fn count(self: &Arc<Self>, amounts: Amounts) -> NamespacePermit {
        for (used, amount) in self.used.iter().zip(amounts) {
            used.fetch_add(amount, Ordering::Relaxed);
        }
        NamespacePermit { namespace: Arc::clone(self), amounts }
    }

    fn used(&self, index: usize) -> usize {
        self.used[index].load(Ordering::Relaxed)
    }

    /// A namespace stays full until a tenth of its share is free, so that the problem does not come
    /// and go with each connection.
    fn problems(&self, name: &str) -> Vec<Problem> {
        let is_full = |&index: &usize| {
            let most = self.most(index);
            if self.used(index) < most - most / 10 {
                self.is_full[index].store(false, Ordering::Relaxed);
            }
            self.is_full[index].load(Ordering::Relaxed)
        };
        let problem = |index| Problem {
            subject: Subject::Object(format!("Namespace {name}")),
            reason: ProblemReason::NamespaceLimit,
            message: format!(
                "the relay has {} {} open for its Services, and can have no more (--namespace-share); further ones are \
                 refused, and other namespaces are served as before; end some, or let the operator raise the share",
                self.most(index),
                NAMES[index]
            ),
        };
        (0..self.most.len()).filter(is_full).map(problem).collect()
    }
}

impl NamespacePermit {
    /// Whether it is a part of this namespace's share.
    pub(super) fn is_of(&self, namespace: &Arc<NamespaceUse>) -> bool {
        Arc::ptr_eq(&self.namespace, namespace)
    }

    /// The same part of another namespace's share, even if that is used up: what it stands for is open.
    pub(super) fn moved_to(&self, namespace: &Arc<NamespaceUse>) -> Self {
        namespace.count(self.amounts)
    }
}

impl Drop for NamespacePermit {
    fn drop(&mut self) {
        for (used, amount) in self.namespace.used.iter().zip(self.amounts) {
            used.fetch_sub(amount, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(all: Amounts) -> NamespaceShares {
        NamespaceShares::of_amounts(all, NamespaceShare::default(), Arc::default())
    }

    #[test]
    fn listeners_connections_and_sessions_of_a_namespace_share_half_of_the_descriptors() {
        let shares = shares([20, 100, 100]);
        let (shop, crm) = (shares.of("shop"), shares.of("crm"));
        let listener = shop.listener(4);
        let connections = [shop.connection(), shop.connection()];
        let session = shop.udp_session();
        assert!(listener.is_some() && connections.iter().all(Option::is_some) && session.is_some());
        assert!(shop.connection().is_none(), "it needs two, and one is left");
        assert!(shop.listener(2).is_none());
        assert!(shop.listener(1).is_some());
        assert!(crm.listener(10).is_some(), "another namespace has its own share");
        drop(listener);
        assert!(shop.connection().is_some());
    }

    #[test]
    fn a_namespace_gets_half_of_the_connections_and_of_the_sessions() {
        let shares = shares([100, 4, 2]);
        let shop = shares.of("shop");
        let open = [shop.connection(), shop.connection(), shop.udp_session()];
        assert!(open.iter().all(Option::is_some));
        assert!(shop.connection().is_none() && shop.udp_session().is_none());
        assert!(shares.of("crm").connection().is_some() && shares.of("crm").udp_session().is_some());
    }

    #[test]
    fn a_full_namespace_is_a_problem_until_a_tenth_of_its_share_is_free() {
        let shares = shares([400, 40, 40]);
        let shop = shares.of("shop");
        let mut open: Vec<_> = (0..20).map(|_| shop.connection().unwrap()).collect();
        assert!(shares.problems().is_empty(), "nothing was refused");
        assert!(shop.connection().is_none());
        let expected =
            "Namespace shop: NamespaceLimit: the relay has 20 TCP connections open for its Services";
        let problems = || shares.problems().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(problems().len() == 1 && problems()[0].starts_with(expected), "{:?}", problems());
        open.truncate(18);
        assert_eq!(problems().len(), 1);
        open.truncate(17);
        assert!(problems().is_empty());
        assert!(shop.connection().is_some() && problems().is_empty());
    }

    #[test]
    fn sockets_that_are_open_count_even_beyond_the_share() {
        let shares = shares([8, 8, 8]);
        let (shop, crm) = (shares.of("shop"), shares.of("crm"));
        let mut permit = shop.open_listener(6);
        assert!(shop.connection().is_none());
        assert!(!permit.is_of(&crm));
        permit = permit.moved_to(&crm);
        assert!(permit.is_of(&crm));
        assert!(shop.connection().is_some() && crm.connection().is_none());
    }
}
