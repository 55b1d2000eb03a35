// SPDX-License-Identifier: Apache-2.0
//! Which announcement is due when. Pure: time comes in as an argument; the caller
//! sends the frames.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::AddressKey;

/// How often a VIP is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::addresses) enum Repeat {
    /// At each of [`REPEATS`], because neighbours may not know its place.
    Series,
    /// Once, because another host claimed it. A series that is under way is enough.
    Once,
}

/// When a series announces a VIP, counted from its start. More than once, because
/// frames can get lost: RFC 4861 section 7.2.6 allows three announcements, at
/// least a second apart, and RFC 5227 section 2.3 asks for two.
const REPEATS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)];

/// How many VIPs can be announced at the same time. Neighbours find a VIP without
/// an announcement, too, so those beyond the limit are left out.
const MAX_PENDING: usize = 4096;

/// The announcements that are due later, at most one series for each VIP.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pending: BTreeMap<AddressKey, Pending>,
}

#[derive(Debug)]
struct Pending {
    announcement: Announcement,
    repeats: &'static [Duration],
    start: Instant,
    sent: usize,
}

/// Frames about a VIP, and the link on which they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    /// The VIP.
    pub(super) key: AddressKey,
    /// The number of the link.
    pub(super) index: u32,
    /// Whole Ethernet frames.
    pub(super) frames: Vec<Vec<u8>>,
}

impl Schedule {
    /// Starts to announce now. A series that is under way for the same VIP starts
    /// again. False if too many VIPs are being announced.
    pub(super) fn start(&mut self, announcement: Announcement, repeat: Repeat, now: Instant) -> bool {
        let under_way = self.pending.contains_key(&announcement.key);
        if self.pending.len() >= MAX_PENDING && !under_way {
            return false;
        }
        let repeats = match repeat {
            Repeat::Once if under_way => return true,
            Repeat::Once => &REPEATS[..1],
            Repeat::Series => &REPEATS[..],
        };
        let pending = Pending { start: now, sent: 0, announcement, repeats };
        self.pending.insert(pending.announcement.key.clone(), pending);
        true
    }

    /// Ends the series of a VIP.
    pub(super) fn cancel(&mut self, key: &AddressKey) {
        self.pending.remove(key);
    }

    /// When [`take_due`](Self::take_due) will next have something; `None` if the
    /// schedule is empty.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.pending.values().map(Pending::due).min()
    }

    /// The announcement that has been due for longest; `None` if none is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Announcement> {
        let pending = self.pending.values_mut().min_by_key(|pending| pending.due())?;
        if pending.due() > now {
            return None;
        }
        pending.sent += 1;
        let announcement = pending.announcement.clone();
        if pending.sent == pending.repeats.len() {
            self.pending.remove(&announcement.key);
        }
        Some(announcement)
    }
}

impl Pending {
    fn due(&self) -> Instant {
        self.start + self.repeats[self.sent]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn announcement(number: usize) -> Announcement {
        let address = std::net::Ipv6Addr::from_bits(number as u128).into();
        let key = AddressKey { link: "eth0".to_owned(), address };
        Announcement { key, index: 1, frames: vec![] }
    }

    #[test]
    fn a_vip_is_announced_at_0_1_and_3_seconds() {
        let start = clock::now();
        let mut schedule = Schedule::default();
        assert!(schedule.start(announcement(1), Repeat::Series, start));
        let mut offsets = vec![];
        while let Some(due) = schedule.next_due() {
            assert_eq!(schedule.take_due(due - Duration::from_millis(1)), None);
            assert_eq!(schedule.take_due(due), Some(announcement(1)));
            offsets.push((due - start).as_secs());
        }
        assert_eq!(offsets, [0, 1, 3]);
    }

    #[test]
    fn a_defence_is_one_announcement_and_does_not_end_a_series() {
        let start = clock::now();
        let mut schedule = Schedule::default();
        schedule.start(announcement(1), Repeat::Once, start);
        schedule.start(announcement(2), Repeat::Series, start);
        schedule.start(announcement(2), Repeat::Once, start);
        let late = start + Duration::from_secs(60);
        let left: Vec<_> = std::iter::from_fn(|| schedule.take_due(late)).collect();
        assert_eq!(left, [announcement(1), announcement(2), announcement(2), announcement(2)]);
    }

    #[test]
    fn a_cancelled_vip_is_not_announced_again() {
        let start = clock::now();
        let mut schedule = Schedule::default();
        schedule.start(announcement(1), Repeat::Series, start);
        schedule.start(announcement(2), Repeat::Series, start);
        schedule.cancel(&announcement(1).key);
        let late = start + Duration::from_secs(60);
        let left: Vec<_> = std::iter::from_fn(|| schedule.take_due(late)).collect();
        assert_eq!(left, [announcement(2), announcement(2), announcement(2)]);
    }

    #[test]
    fn the_schedule_is_bounded() {
        let start = clock::now();
        let mut schedule = Schedule::default();
        for number in 0..MAX_PENDING {
            assert!(schedule.start(announcement(number), Repeat::Series, start));
        }
        assert!(!schedule.start(announcement(MAX_PENDING), Repeat::Series, start));
        assert!(
            schedule.start(announcement(0), Repeat::Series, start),
            "a VIP that is in the schedule needs no more space"
        );
    }
}
