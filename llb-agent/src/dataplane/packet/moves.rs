// SPDX-License-Identifier: Apache-2.0
//! Which frontends should be placed anew, because the reason for their place no longer holds: another plane could
//! serve them by now, or this one in another mode. Pure. The loop then upserts them again.
//!
//! ```text
//!   served here, and the ways to the backends have an obstacle now:  at once, as the packets do not get there
//!   served here, and a link has no link-local address any more:      after STEADY, as neighbours are known for a while
//!   served here in mode nat, and dsr is possible by now:             after STEADY
//!   refused because of an obstacle that is gone:                     after STEADY, so that nothing moves to and fro
//!   refused because a limit was reached, and something is free now:  after PAUSE
//!   refused because the kernel failed:                               after PAUSE
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::refusal::Refusal;
use crate::dataplane::placement::{PacketMode, Ways, packet_mode};
use crate::model::{Frontend, Mode, PacketObstacle, Rule};

/// A place that is not taken at once must have been possible for this long.
const STEADY: Duration = Duration::from_secs(10);
/// How often a frontend that the maps did not take is tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// A frontend that this plane serves.
pub(super) struct Placed {
    pub(super) frontend: Frontend,
    pub(super) rule: Arc<Rule>,
    pub(super) mode: PacketMode,
}

/// Frontends that are refused, and those that should be placed anew.
#[derive(Debug, Default)]
pub(super) struct Moves {
    refused: BTreeMap<Frontend, Refused>,
    /// Since when another place is possible that is not taken at once.
    waits_since: BTreeMap<Frontend, Instant>,
    due: BTreeSet<Frontend>,
}

#[derive(Debug)]
struct Refused {
    rule: Arc<Rule>,
    cause: Cause,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The ways to the backends.
    Ways,
    /// A limit, when so much of the maps was in use: see `MapImage::in_use`.
    Full([u32; 3]),
    /// The kernel failed.
    Kernel,
}

impl Moves {
    /// Notes that `frontend` was placed: it is served, or refused for this reason.
    pub(super) fn placed(
        &mut self,
        frontend: Frontend,
        rule: &Arc<Rule>,
        result: Result<(), &Refusal>,
        in_use: [u32; 3],
        now: Instant,
    ) {
        self.forget(&frontend);
        let cause = match result {
            Ok(()) => return,
            Err(Refusal::Obstacle(_)) => Cause::Ways,
            Err(Refusal::Full(_)) => Cause::Full(in_use),
            Err(Refusal::LookUp(_) | Refusal::ReadMaps(_) | Refusal::WriteMaps(_)) => Cause::Kernel,
        };
        self.refused.insert(frontend, Refused { rule: Arc::clone(rule), cause, since: now });
    }

    /// Notes that this plane is no longer asked to serve `frontend`.
    pub(super) fn forget(&mut self, frontend: &Frontend) {
        self.refused.remove(frontend);
        self.waits_since.remove(frontend);
        self.due.remove(frontend);
    }

    /// The rules of the frontends that this plane refuses.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Rule> {
        self.refused.values().map(|refused| &*refused.rule)
    }

    /// Whether `frontend` should be placed anew.
    pub(super) fn is_due(&self, frontend: &Frontend) -> bool {
        self.due.contains(frontend)
    }

    /// Looks at all frontends again. True if one has become due.
    pub(super) fn look(
        &mut self,
        served: &[Placed],
        ways: impl Fn(&Rule) -> Ways,
        in_use: [u32; 3],
        now: Instant,
    ) -> bool {
        let mode_now = |rule: &Rule| packet_mode(rule, &ways(rule));
        let mut due = BTreeSet::new();
        let mut waiting = BTreeSet::new();
        for Placed { frontend, rule, mode } in served {
            match mode_now(rule) {
                Ok(wanted) if wanted == *mode => {}
                Ok(wanted) if rank(wanted) > rank(*mode) => drop(waiting.insert(*frontend)),
                Err(PacketObstacle::NoLinkLocal { .. }) => drop(waiting.insert(*frontend)),
                Ok(_) | Err(_) => drop(due.insert(*frontend)),
            }
        }
        for (frontend, refused) in &self.refused {
            let has_waited = now.saturating_duration_since(refused.since) >= PAUSE;
            match refused.cause {
                Cause::Ways if mode_now(&refused.rule).is_ok() => drop(waiting.insert(*frontend)),
                Cause::Full(before) if has_waited && is_less(in_use, before) => drop(due.insert(*frontend)),
                Cause::Kernel if has_waited => drop(due.insert(*frontend)),
                Cause::Ways | Cause::Full(_) | Cause::Kernel => {}
            }
        }
        self.waits_since.retain(|frontend, _| waiting.contains(frontend));
        for frontend in waiting {
            let since = *self.waits_since.entry(frontend).or_insert(now);
            if now.saturating_duration_since(since) >= STEADY {
                due.insert(frontend);
            }
        }
        let has_news = !due.is_subset(&self.due);
        self.due = due;
        has_news
    }
}

/// The order of places in this plane: mode NAT, then mode DSR where it is asked for.
fn rank(place: PacketMode) -> u8 {
    match place.mode {
        Mode::Nat => 1,
        Mode::Dsr => 2,
    }
}

fn is_less(now: [u32; 3], before: [u32; 3]) -> bool {
    now.iter().zip(before).any(|(now, before)| *now < before)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::clock;
    use crate::dataplane::placement::BackendWay;
    use crate::model::{Backend, PacketLimit, Port, Protocol, ServiceName, Terms, Weight};

    const BACKEND: &str = "192.0.2.31";
    const NAT: PacketMode = PacketMode { mode: Mode::Nat, not_dsr: None };
    const DSR: PacketMode = PacketMode { mode: Mode::Dsr, not_dsr: None };
    const IN_USE: [u32; 3] = [1, 1, 1];

    fn web() -> Frontend {
        Frontend { vip: [192, 0, 2, 100].into(), port: Port::new(80).unwrap(), protocol: Protocol::Tcp }
    }

    fn rule(mode: Mode) -> Arc<Rule> {
        let address = SocketAddr::new(BACKEND.parse().unwrap(), 80);
        let backends = [(Backend { address }, Weight::MIN)].into();
        let rule = Rule::new(ServiceName::new("default", "web"), backends, Terms::default());
        Arc::new(Rule { mode, to_nodes: true, ..rule })
    }

    fn by(way: BackendWay) -> impl Fn(&Rule) -> Ways {
        move |_| Ways { backends: [(BACKEND.parse().unwrap(), way)].into(), sources: 1, most_sources: 4 }
    }

    fn obstacle() -> Refusal {
        Refusal::Obstacle(PacketObstacle::OtherLink { backend: BACKEND.parse().unwrap() })
    }

    #[test]
    fn a_frontend_is_due_at_once_when_its_backends_are_behind_another_link() {
        let (mut moves, now) = (Moves::default(), clock::now());
        let served = [Placed { frontend: web(), rule: rule(Mode::Nat), mode: NAT }];
        for way in [BackendWay::Direct, BackendWay::NoRoute] {
            assert!(!moves.look(&served, by(way), IN_USE, now));
        }
        for way in [BackendWay::OtherLink, BackendWay::ThisMachine] {
            assert!(moves.look(&served, by(way), IN_USE, now));
            assert!(!moves.look(&served, by(way), IN_USE, now), "no news");
            assert!(moves.is_due(&web()));
            assert!(!moves.look(&served, by(BackendWay::Direct), IN_USE, now) && !moves.is_due(&web()));
        }
    }

    #[test]
    fn a_link_local_address_may_be_away_for_a_while() {
        let (mut moves, now) = (Moves::default(), clock::now());
        let served = [Placed { frontend: web(), rule: rule(Mode::Nat), mode: NAT }];
        assert!(!moves.look(&served, by(BackendWay::NoLinkLocal), IN_USE, now));
        assert!(!moves.look(&served, by(BackendWay::Direct), IN_USE, now + STEADY / 2));
        assert!(!moves.look(&served, by(BackendWay::NoLinkLocal), IN_USE, now + STEADY));
        assert!(moves.look(&served, by(BackendWay::NoLinkLocal), IN_USE, now + 2 * STEADY));
    }

    #[test]
    fn a_frontend_comes_back_when_its_obstacle_has_been_gone_for_a_while() {
        let (mut moves, now) = (Moves::default(), clock::now());
        moves.placed(web(), &rule(Mode::Nat), Err(&obstacle()), IN_USE, now);
        assert_eq!(moves.refused().count(), 1, "its ways are followed");
        assert!(!moves.look(&[], by(BackendWay::OtherLink), IN_USE, now + 9 * STEADY));
        assert!(!moves.look(&[], by(BackendWay::Direct), IN_USE, now));
        assert!(!moves.look(&[], by(BackendWay::OtherLink), IN_USE, now + STEADY / 2));
        assert!(!moves.look(&[], by(BackendWay::Direct), IN_USE, now + STEADY), "it was there meanwhile");
        assert!(moves.look(&[], by(BackendWay::Direct), IN_USE, now + 2 * STEADY));
        moves.placed(web(), &rule(Mode::Nat), Ok(()), IN_USE, now);
        assert!(!moves.is_due(&web()) && moves.refused().next().is_none());
    }

    #[test]
    fn the_mode_follows_the_ways_too() {
        let (mut moves, now) = (Moves::default(), clock::now());
        let router: IpAddr = "192.0.2.1".parse().unwrap();
        let served = |mode| [Placed { frontend: web(), rule: rule(Mode::Dsr), mode }];
        assert!(moves.look(&served(DSR), by(BackendWay::Router(router)), IN_USE, now));
        let backend = BACKEND.parse().unwrap();
        let behind = PacketObstacle::BehindRouter { backend, router };
        let nat = PacketMode { mode: Mode::Nat, not_dsr: Some(behind) };
        assert!(!moves.look(&served(nat), by(BackendWay::Router(router)), IN_USE, now));
        assert!(!moves.look(&served(nat), by(BackendWay::Direct), IN_USE, now));
        assert!(moves.look(&served(nat), by(BackendWay::Direct), IN_USE, now + STEADY));
    }

    #[test]
    fn what_the_maps_did_not_take_is_tried_again() {
        let (mut moves, now) = (Moves::default(), clock::now());
        let direct = || by(BackendWay::Direct);
        let failed = Refusal::WriteMaps(io::Error::other("no memory"));
        moves.placed(web(), &rule(Mode::Nat), Err(&failed), IN_USE, now);
        assert!(!moves.look(&[], direct(), IN_USE, now + PAUSE / 2));
        assert!(moves.look(&[], direct(), IN_USE, now + PAUSE));
        moves.placed(web(), &rule(Mode::Nat), Err(&failed), IN_USE, now + PAUSE);
        assert!(!moves.look(&[], direct(), IN_USE, now + PAUSE), "a pause between");

        let full = Refusal::Full(PacketLimit::Frontends { most: 1 });
        moves.placed(web(), &rule(Mode::Nat), Err(&full), IN_USE, now);
        assert!(!moves.look(&[], direct(), IN_USE, now + 9 * PAUSE), "nothing has become free");
        assert!(moves.look(&[], direct(), [1, 0, 1], now + PAUSE));
        moves.forget(&web());
        assert!(!moves.is_due(&web()));
    }
}
