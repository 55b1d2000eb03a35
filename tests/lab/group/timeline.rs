// SPDX-License-Identifier: Apache-2.0
//! When markers and VIPs come to a box, by what `ip monitor` says with the time.

#![expect(clippy::disallowed_methods, reason = "it measures by the real clock")]

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use llb_tests::{Host, Process, wait_until};

use crate::setup::LIMIT;

/// `ip` prints local time, and time zones differ by whole quarters of an hour.
const QUARTER: f64 = 900.0;

/// What has happened on a box since this was made.
pub(crate) struct Timeline {
    monitor: Process,
    /// The length of the log when counting began: what is before is left out.
    before: usize,
    from: f64,
}

impl Timeline {
    /// Starts to listen. Times are counted from its end on.
    pub(crate) fn start(host: &Host) -> Self {
        let mut command = host.command("ip");
        command.args(["-ts", "-o", "monitor", "address"]);
        let monitor = host.spawn(command, &format!("monitor-{}", host.name())).unwrap();
        let before = monitor.log().len();
        // It has to be heard before anything happens: an address of the test comes and goes until it is.
        wait_until(LIMIT, "the monitor", || {
            host.ip("address add 127.99.0.1/32 dev lo\naddress del 127.99.0.1/32 dev lo\n")?;
            Ok((monitor.log().len() > before).then_some(()))
        })
        .unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        Self { monitor, before, from: now % QUARTER }
    }

    /// When an address was added first.
    pub(crate) fn added(&self, address: IpAddr) -> Option<Duration> {
        let wanted = format!(" {address}/");
        let log = self.monitor.log();
        let line =
            log[self.before..].lines().find(|line| line.contains(&wanted) && !line.contains("Deleted"))?;
        // "[2026-11-29T13:37:13.504149] 1: lo    inet 127.86.0.4/32 ..."
        let (minutes, seconds) = line.get(15..27)?.split_once(':')?;
        let at = minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?;
        Some(Duration::from_secs_f64((at - self.from).rem_euclid(QUARTER)))
    }
}
