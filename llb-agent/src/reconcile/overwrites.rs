// SPDX-License-Identifier: Apache-2.0
//! Notices that another program overwrites the statuses that llb writes: another load balancer, or
//! an llb of another group. Pure; the clock is an argument.
//!
//! ```text
//!   written -> something else is found there -> written again -> ...
//!      pauses as in repetitions.rs, so that two writers do not keep an API server busy
//!      class-less Service: after GIVES_WAY_AFTER times the other one has it, until the Service changes
//! ```
//!
//! A status is overwritten if what a write replaces is not what llb wrote there last. What llb
//! itself wants to write may change meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::repetitions::{AT_ONCE, LAST_PAUSE, LASTING, pause_after};
use crate::model::{Conditions, ProblemReason, PublishedStatus, Service, ServiceName, Snapshot};
use crate::plan::Action;

/// How often llb writes over another program's status of a Service that names no load balancer.
const GIVES_WAY_AFTER: u32 = AT_ONCE + 2;

/// The statuses that llb has written lately.
#[derive(Debug, Default)]
pub(super) struct Overwrites {
    known: BTreeMap<ServiceName, Known>,
    /// Those that are to be written, and have to wait.
    waiting: BTreeSet<ServiceName>,
}

#[derive(Debug)]
struct Known {
    written: PublishedStatus,
    /// The Service at that time, but for its status.
    service: Arc<Service>,
    last: Instant,
    overwritten: u32,
}

/// What a write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Something new.
    News,
    /// What had been overwritten.
    Again {
        /// From now on it waits before it is written again, and did not before.
        waits: bool,
    },
}

impl Known {
    /// Whether the Service is still as it was, but for its status.
    fn is_of(&mut self, service: Option<&Arc<Service>>) -> bool {
        let Some(service) = service else { return false };
        if Arc::ptr_eq(&self.service, service) {
            return true;
        }
        let is_same = without_status(&self.service) == without_status(service);
        if is_same {
            self.service = Arc::clone(service);
        }
        is_same
    }

    /// Whether it is a problem. For a Service without a class, that is told once: when llb gives way.
    fn is_fought_over(&self) -> bool {
        if self.service.class.is_none() { self.gives_way() } else { self.overwritten >= AT_ONCE }
    }

    fn gives_way(&self) -> bool {
        self.service.class.is_none() && self.overwritten >= GIVES_WAY_AFTER
    }

    fn has_lasted(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= LASTING
    }

    fn due(&self) -> Instant {
        self.last + pause_after(self.overwritten)
    }

    /// The same after each write, so that Events can be told apart by it.
    fn message(&self, name: &ServiceName) -> String {
        let managers = format!(
            "`kubectl get service {} -n {} -o yaml --show-managed-fields` names it",
            name.name, name.namespace
        );
        if self.gives_way() {
            return format!(
                "another program writes the status of {name} too, so llb no longer writes it until the Service changes, and goes \
                 on serving it; {managers}. Two load balancers want this Service, because it has no spec.loadBalancerClass: set it, \
                 or start llb with --default-class=false"
            );
        }
        let longest = LAST_PAUSE.as_secs();
        format!(
            "another program overwrites the status of {name} again and again; llb writes it, but waits for up to {longest} s each \
             time; {managers}"
        )
    }
}

impl Overwrites {
    /// A status was written in place of `replaced`.
    pub(super) fn written(
        &mut self,
        name: &ServiceName,
        service: &Arc<Service>,
        replaced: &PublishedStatus,
        status: &PublishedStatus,
        now: Instant,
    ) -> Written {
        let mut before = self.known.remove(name);
        let counts =
            before.as_mut().is_some_and(|known| known.is_of(Some(service)) && !known.has_lasted(now));
        let before = before.filter(|_| counts);
        let known = before.as_ref().map_or(0, |known| known.overwritten);
        let is_again = before.is_some_and(|known| *replaced != known.written);
        let overwritten = if is_again { known.saturating_add(1) } else { known };
        let (written, service) = (status.clone(), Arc::clone(service));
        self.known.insert(name.clone(), Known { written, service, last: now, overwritten });
        if is_again { Written::Again { waits: overwritten == AT_ONCE } } else { Written::News }
    }

    /// Removes those writes of `due` that have to wait. `statuses` are those that were read last.
    pub(super) fn hold_back(
        &mut self,
        due: &mut Vec<Action>,
        statuses: &BTreeMap<ServiceName, PublishedStatus>,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        self.waiting.clear();
        due.retain(|action| {
            let Action::WriteStatus { service: name, .. } = action else { return true };
            let Some(known) = self.known.get_mut(name) else { return true };
            let nothing = PublishedStatus::default();
            let is_overwritten = *statuses.get(name).unwrap_or(&nothing) != known.written;
            if !is_overwritten || !known.is_of(snapshot.services.get(name)) {
                return true;
            }
            if known.gives_way() {
                return false;
            }
            let must_wait = now < known.due();
            if must_wait {
                self.waiting.insert(name.clone());
            }
            !must_wait
        });
    }

    /// When the next status may be written that has to wait.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|name| self.known.get(name)).map(Known::due).min()
    }

    /// Forgets what has lasted, and Services that have changed or gone. Returns those that were
    /// overwritten again and again, and are not any more.
    pub(super) fn forget(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<ServiceName> {
        let mut over = Vec::new();
        self.known.retain(|name, known| {
            let is_over =
                !known.is_of(snapshot.services.get(name)) || (known.has_lasted(now) && !known.gives_way());
            if is_over && known.is_fought_over() {
                over.push(name.clone());
            }
            !is_over
        });
        over
    }

    /// What is overwritten again and again, as problems of Services.
    pub(super) fn problems(&self) -> impl Iterator<Item = (&ServiceName, ProblemReason, String)> {
        let fought_over = self.known.iter().filter(|(_, known)| known.is_fought_over());
        fought_over.map(|(name, known)| (name, ProblemReason::StatusOverwritten, known.message(name)))
    }
}

/// The Service without what changes by writes of its status.
fn without_status(service: &Service) -> Service {
    let (status, conditions) = (PublishedStatus::default(), Conditions::default());
    Service { revision: String::new(), status, conditions, ..service.clone() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::model::PublishedVip;

    const MINUTE: Duration = Duration::from_secs(60);

    fn status(ip: &str) -> PublishedStatus {
        let vip = PublishedVip { ip: ip.parse().unwrap(), proxy: true, ports: Vec::new() };
        PublishedStatus { vips: [vip].into(), ..PublishedStatus::default() }
    }

    /// A Service whose status another program overwrites as soon as llb has written it.
    struct Fight {
        overwrites: Overwrites,
        name: ServiceName,
        snapshot: Snapshot,
        /// The seconds at which llb wrote.
        writes: Vec<u64>,
    }

    impl Fight {
        fn over(class: Option<&str>) -> Self {
            let name = ServiceName::new("default", "web");
            let service = Service { class: class.map(str::to_owned), ..Service::default() };
            let services = [(name.clone(), service.into())].into();
            let snapshot = Snapshot { services, ..Snapshot::default() };
            Self { overwrites: Overwrites::default(), name, snapshot, writes: Vec::new() }
        }

        fn is_due(&mut self, found: &PublishedStatus, now: Instant) -> bool {
            let service = self.name.clone();
            let mut due = vec![Action::WriteStatus { service, status: status("192.0.2.1") }];
            let statuses = [(self.name.clone(), found.clone())].into();
            self.overwrites.hold_back(&mut due, &statuses, &self.snapshot, now);
            !due.is_empty()
        }

        fn write(&mut self, replaced: &PublishedStatus, now: Instant) -> Written {
            let service = self.snapshot.services[&self.name].clone();
            self.overwrites.written(&self.name, &service, replaced, &status("192.0.2.1"), now)
        }

        fn go_on(&mut self, begin: Instant, time: Duration) {
            let (mut now, others) = (begin, status("198.51.100.1"));
            while now < begin + time {
                if self.is_due(&others, now) {
                    self.write(&others, now);
                    self.writes.push((now - begin).as_secs());
                }
                let pause = Duration::from_secs(1);
                now = self.overwrites.next().unwrap_or(if self.is_due(&others, now) {
                    now
                } else {
                    now + pause
                });
            }
        }
    }

    #[test]
    fn a_service_of_this_class_is_written_again_after_growing_pauses() {
        let (mut fight, begin) = (Fight::over(Some("llb.dev/llb")), clock::now_std());
        fight.go_on(begin, 5 * MINUTE);
        assert_eq!(fight.writes, [0, 0, 0, 0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        let (_, reason, message) = fight.overwrites.problems().next().unwrap();
        assert_eq!(reason, ProblemReason::StatusOverwritten);
        assert!(message.contains("again and again; llb writes it"), "{message}");
    }

    #[test]
    fn llb_gives_way_for_a_service_without_a_class_until_it_changes() {
        let (mut fight, begin) = (Fight::over(None), clock::now_std());
        fight.go_on(begin, 60 * MINUTE);
        assert_eq!(fight.writes, [0, 0, 0, 0, 1, 3]);
        let later = begin + 60 * MINUTE;
        assert!(fight.overwrites.forget(&fight.snapshot, later).is_empty());
        let message = fight.overwrites.problems().next().unwrap().2;
        assert!(message.contains("no longer writes it until the Service changes"), "{message}");
        assert!(message.contains("spec.loadBalancerClass"), "{message}");

        let changed = Service { sharing_key: Some("k".to_owned()), ..Service::default() };
        fight.snapshot.services.insert(fight.name.clone(), changed.into());
        assert!(fight.is_due(&status("198.51.100.1"), later));
        assert_eq!(fight.overwrites.forget(&fight.snapshot, later), std::slice::from_ref(&fight.name));
        assert_eq!(fight.overwrites.problems().count(), 0);
    }

    #[test]
    fn what_llb_itself_changes_is_not_overwritten() {
        let (mut fight, now) = (Fight::over(None), clock::now_std());
        for _ in 0..20 {
            assert!(fight.is_due(&status("192.0.2.1"), now));
            assert_eq!(fight.write(&status("192.0.2.1"), now), Written::News);
        }
        assert_eq!(fight.overwrites.problems().count(), 0);
    }

    #[test]
    fn only_the_first_pause_is_announced_and_it_is_over_when_a_write_has_lasted() {
        let (mut fight, begin) = (Fight::over(Some("llb.dev/llb")), clock::now_std());
        let waits: Vec<Written> = (0..6).map(|_| fight.write(&status("198.51.100.1"), begin)).collect();
        let again = |waits| Written::Again { waits };
        assert_eq!(
            waits,
            [Written::News, again(false), again(false), again(true), again(false), again(false)]
        );
        assert!(fight.overwrites.forget(&fight.snapshot, begin + MINUTE).is_empty());
        let over = fight.overwrites.forget(&fight.snapshot, begin + LASTING);
        assert_eq!(over, std::slice::from_ref(&fight.name));
    }
}
