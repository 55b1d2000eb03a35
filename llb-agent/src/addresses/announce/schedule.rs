//! Which announcement is due when. Pure: time comes in as an argument, frames
//! go out to whoever asks.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::AddressKey;

/// When a VIP is announced, counted from its addition. More than once because
/// a frame can get lost; RFC 4861 section 7.2.6 allows three, at least a
/// second apart, and RFC 5227 section 2.3 asks for two.
const REPEATS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)];

/// VIPs that are being announced at the same time; an announcement is a
/// courtesy, so what does not fit is left out.
const MAX_PENDING: usize = 4096;

/// The announcements to come; at most one series for each VIP.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pending: BTreeMap<AddressKey, Pending>,
}

#[derive(Debug)]
struct Pending {
    announcement: Announcement,
    start: Instant,
    sent: usize,
}

/// A frame and the link it leaves on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    /// Of which VIP.
    pub(super) key: AddressKey,
    /// The link's number.
    pub(super) index: u32,
    /// The whole Ethernet frame.
    pub(super) frame: Vec<u8>,
}

impl Schedule {
    /// Starts a series now; one that is under way for the same VIP starts
    /// over. `false` if there is no room.
    pub(super) fn start(&mut self, announcement: Announcement, now: Instant) -> bool {
        if self.pending.len() >= MAX_PENDING && !self.pending.contains_key(&announcement.key) {
            return false;
        }
        let pending = Pending { start: now, sent: 0, announcement };
        self.pending.insert(pending.announcement.key.clone(), pending);
        true
    }

    /// Ends a series.
    pub(super) fn cancel(&mut self, key: &AddressKey) {
        self.pending.remove(key);
    }

    /// When [`take_due`](Self::take_due) will next have something; `None` if
    /// nothing is to come.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.pending.values().map(Pending::due).min()
    }

    /// The announcement that has been due longest.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Announcement> {
        let pending = self.pending.values_mut().min_by_key(|pending| pending.due())?;
        if pending.due() > now {
            return None;
        }
        pending.sent += 1;
        let announcement = pending.announcement.clone();
        if pending.sent == REPEATS.len() {
            self.pending.remove(&announcement.key);
        }
        Some(announcement)
    }
}

impl Pending {
    fn due(&self) -> Instant {
        self.start + REPEATS[self.sent]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(number: usize) -> Announcement {
        let address = std::net::Ipv6Addr::from_bits(number as u128).into();
        let key = AddressKey { link: "eth0".to_owned(), address };
        Announcement { key, index: 1, frame: vec![] }
    }

    #[test]
    fn a_vip_is_announced_at_0_1_and_3_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        assert!(schedule.start(announcement(1), start));
        let mut offsets = vec![];
        while let Some(due) = schedule.next_due() {
            assert_eq!(schedule.take_due(due - Duration::from_millis(1)), None);
            assert_eq!(schedule.take_due(due), Some(announcement(1)));
            offsets.push((due - start).as_secs());
        }
        assert_eq!(offsets, [0, 1, 3]);
    }

    #[test]
    fn a_removed_vip_is_announced_no_more() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.start(announcement(1), start);
        schedule.start(announcement(2), start);
        schedule.cancel(&announcement(1).key);
        let late = start + Duration::from_secs(60);
        let left: Vec<_> = std::iter::from_fn(|| schedule.take_due(late)).collect();
        assert_eq!(left, [announcement(2), announcement(2), announcement(2)]);
    }

    #[test]
    fn the_schedule_is_bounded() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        for number in 0..MAX_PENDING {
            assert!(schedule.start(announcement(number), start));
        }
        assert!(!schedule.start(announcement(MAX_PENDING), start));
        assert!(schedule.start(announcement(0), start), "a known one needs no more room");
    }
}
