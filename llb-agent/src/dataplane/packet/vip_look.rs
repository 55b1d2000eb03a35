// SPDX-License-Identifier: Apache-2.0
//! Finds out which VIPs whose Nodes wait are addresses of this machine by now. A standby asks for one that is not only
//! from time to time.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::shared::Shared;
use crate::clock;
use crate::netlink::{Connection, Route};

/// The pause between two questions about a VIP that is not here.
const PAUSE: Duration = Duration::from_millis(500);

/// Lives while Nodes wait.
#[derive(Debug, Default)]
pub(super) struct VipLook {
    schedule: Schedule,
    connection: Option<Connection>,
}

impl VipLook {
    /// Notes which VIPs are addresses of this machine by now.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn look(&mut self, shared: &Shared) -> io::Result<()> {
        let absent = shared.state().readiness.absent_vips();
        for vip in self.schedule.due(absent, clock::now()) {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => self.connection.insert(Connection::open()?),
            };
            if connection.route(vip).await? == Route::Here {
                self.schedule.is_here(vip);
                shared.state().readiness.vip_is_here(vip, clock::now());
            }
        }
        Ok(())
    }
}

/// Which VIPs are asked for, and when.
#[derive(Debug, Default)]
struct Schedule {
    next: Option<Instant>,
    /// VIPs that were not here when they were asked for: they are asked for next time.
    asked: BTreeSet<IpAddr>,
}

impl Schedule {
    /// Those that are to be asked for now: new ones at once, so that a new Node of a VIP that is here loses no time.
    fn due(&mut self, mut absent: BTreeSet<IpAddr>, now: Instant) -> BTreeSet<IpAddr> {
        if self.next.is_none_or(|next| next <= now) {
            self.next = Some(now + PAUSE);
            self.asked.clear();
        }
        absent.retain(|vip| self.asked.insert(*vip));
        absent
    }

    fn is_here(&mut self, vip: IpAddr) {
        self.asked.remove(&vip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_that_is_not_here_is_asked_for_from_time_to_time() {
        let [standby, new] = [[192, 0, 2, 100], [192, 0, 2, 101]].map(IpAddr::from);
        let (mut schedule, start) = (Schedule::default(), clock::now());
        assert_eq!(schedule.due([standby].into(), start), [standby].into());
        assert_eq!(schedule.due([standby].into(), start), [].into());
        assert_eq!(schedule.due([standby, new].into(), start), [new].into(), "new ones at once");
        schedule.is_here(new);
        assert_eq!(schedule.due([standby, new].into(), start), [new].into(), "it has another new Node");
        assert_eq!(schedule.due([standby, new].into(), start + PAUSE), [standby, new].into());
    }
}
