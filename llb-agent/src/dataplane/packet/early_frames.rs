// SPDX-License-Identifier: Apache-2.0
//! Later fragments that came before the first one of their packet. They wait here until the programs have forwarded the
//! first one, and are then rewritten as that one was. Pure; `early.rs` reads and sends.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use llb_common::address::Address;
use llb_common::checksum::Change;
use llb_common::conntrack::FragmentKey;
use llb_common::early::Release;
use llb_common::frontend::DSR_TIME_TO_LIVE;
use llb_common::parse::{Packet, Shape, parse};
use tokio::time::Instant;

/// How long a fragment waits for the first one.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The most bytes of waiting frames.
const MOST_BYTES: usize = 4 << 20;
/// The most bytes of waiting frames of one packet. It has at most 65,535 bytes itself; the rest is for the headers of its
/// frames, even at IPv4's smallest MTU of 68.
const MOST_BYTES_OF_PACKET: usize = 128 << 10;
/// The most packets of which fragments wait, or have gone on lately.
const MOST_PACKETS: usize = 8192;

/// A frame that is ready, and the link that it is sent by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) ifindex: u32,
    pub(super) frame: Vec<u8>,
}

/// What became of early fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EarlyCounts {
    /// They were sent after the first one.
    pub(super) sent: u64,
    /// The first one did not come in time, or was not forwarded.
    pub(super) expired: u64,
    /// They made room for newer ones, or too much of their packet waited.
    pub(super) no_room: u64,
    /// They could not be sent.
    pub(super) failed: u64,
}

impl EarlyCounts {
    /// Each name with its count.
    pub(super) fn all(self) -> [(&'static str, u64); 4] {
        [("sent", self.sent), ("expired", self.expired), ("no_room", self.no_room), ("failed", self.failed)]
    }
}

/// The fragments that wait.
#[derive(Debug, Default)]
pub(super) struct EarlyFrames {
    packets: HashMap<FragmentKey, Parts>,
    /// The packets, the oldest one first.
    order: VecDeque<(Instant, FragmentKey)>,
    /// Of all waiting frames.
    bytes: usize,
    pub(super) counts: EarlyCounts,
}

/// What is known of one packet.
#[derive(Debug, Default)]
struct Parts {
    /// Where it goes, once its first fragment was forwarded. It is kept for fragments that another CPU still copies.
    release: Option<Release>,
    waiting: Vec<(Packet, Vec<u8>)>,
    /// Of its waiting frames.
    bytes: usize,
}

impl EarlyFrames {
    /// Takes in a copy of a later fragment. What it returns goes on at once.
    pub(super) fn add(&mut self, frame: &[u8], now: Instant) -> Option<Ready> {
        let mut packet = Packet::default();
        let shape = parse(frame, &mut packet).ok()?;
        let frame = frame.get(..usize::from(packet.l3) + usize::from(packet.length))?;
        if shape != Shape::LaterFragment {
            return None;
        }
        let parts = self.parts(packet.fragment_key(), now);
        if let Some(release) = parts.release {
            return self.ready(&release, &packet, frame.to_vec());
        }
        if parts.bytes + frame.len() > MOST_BYTES_OF_PACKET {
            self.counts.no_room += 1;
            return None;
        }
        parts.waiting.push((packet, frame.to_vec()));
        parts.bytes += frame.len();
        self.bytes += frame.len();
        while self.bytes > MOST_BYTES {
            self.counts.no_room += self.forget_oldest();
        }
        None
    }

    /// A first fragment was forwarded. Returns the others of its packet that came before it.
    pub(super) fn release(&mut self, release: Release, now: Instant) -> Vec<Ready> {
        let parts = self.parts(release.key, now);
        parts.release = Some(release);
        let (waiting, bytes) = (std::mem::take(&mut parts.waiting), std::mem::take(&mut parts.bytes));
        self.bytes -= bytes;
        waiting.into_iter().filter_map(|(packet, frame)| self.ready(&release, &packet, frame)).collect()
    }

    /// Forgets what has waited for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(since, _)| now.duration_since(*since) >= LONGEST_WAIT) {
            self.counts.expired += self.forget_oldest();
        }
    }

    fn parts(&mut self, key: FragmentKey, now: Instant) -> &mut Parts {
        if !self.packets.contains_key(&key) {
            while self.packets.len() >= MOST_PACKETS {
                self.counts.no_room += self.forget_oldest();
            }
            self.order.push_back((now, key));
        }
        self.packets.entry(key).or_default()
    }

    /// Returns how many frames waited.
    fn forget_oldest(&mut self) -> u64 {
        let oldest = self.order.pop_front().and_then(|(_, key)| self.packets.remove(&key));
        let parts = oldest.unwrap_or_default();
        self.bytes -= parts.bytes;
        parts.waiting.len() as u64
    }

    fn ready(&mut self, release: &Release, packet: &Packet, mut frame: Vec<u8>) -> Option<Ready> {
        if rewrite(&mut frame, packet, release).is_none() {
            self.counts.failed += 1;
            return None;
        }
        Some(Ready { ifindex: release.ifindex, frame })
    }
}

/// Writes into a later fragment what the programs write into one that comes after the first. `None`: its time to live
/// ends here.
fn rewrite(frame: &mut [u8], packet: &Packet, release: &Release) -> Option<()> {
    let is_nat = release.is_nat != 0;
    let time_to_live =
        if is_nat { packet.time_to_live.checked_sub(1).filter(|left| *left > 0)? } else { DSR_TIME_TO_LIVE };
    let (source, destination) =
        if is_nat { (release.source, release.destination) } else { (packet.source, packet.destination) };
    frame.get_mut(0..6)?.copy_from_slice(&release.destination_mac.bytes());
    frame.get_mut(6..12)?.copy_from_slice(&release.source_mac.bytes());
    let header = frame.get_mut(usize::from(packet.l3)..)?;
    if packet.is_v6 != 0 {
        *header.get_mut(7)? = time_to_live;
        header.get_mut(8..24)?.copy_from_slice(&source.bytes());
        header.get_mut(24..40)?.copy_from_slice(&destination.bytes());
        return Some(());
    }
    let header = header.first_chunk_mut::<20>()?;
    let half = |header: &[u8; 20], at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let before = half(header, 8);
    header[8] = time_to_live;
    let change = Change::NONE
        .half(before, half(header, 8))
        .address(&packet.source, &source)
        .address(&packet.destination, &destination);
    let checksum = change.apply(half(header, 10));
    header[10..12].copy_from_slice(&checksum.to_ne_bytes());
    header[12..16].copy_from_slice(&v4(source));
    header[16..20].copy_from_slice(&v4(destination));
    Some(())
}

fn v4(address: Address) -> [u8; 4] {
    address.v4_word().to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4HeaderSlice, PacketBuilder};
    use llb_common::address::Mac;

    use super::*;

    const CLIENT: [u8; 4] = [192, 0, 2, 10];
    const VIP: [u8; 4] = [192, 0, 2, 100];

    /// A later fragment of the packet with this identification, with bytes behind its end as in a ring.
    fn fragment(id: u16, payload: usize) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, VIP, 64);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, 17.into(), &vec![7; payload]).unwrap();
        bytes[18..20].copy_from_slice(&id.to_be_bytes());
        bytes[20..22].copy_from_slice(&[0, 9]);
        set_checksum(&mut bytes);
        bytes.extend([0x5a; 40]);
        bytes
    }

    fn set_checksum(frame: &mut [u8]) {
        let sum = Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header().calc_header_checksum();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    fn release(id: u16, is_nat: bool) -> Release {
        let address = |address: [u8; 4]| Address::from_v4_word(u32::from_ne_bytes(address));
        Release {
            key: FragmentKey {
                source: address(CLIENT),
                destination: address(VIP),
                id: u32::from(id.to_be()),
                protocol: 17,
                padding: [0; 3],
            },
            source: address([192, 0, 2, 1]),
            destination: address([192, 0, 2, 11]),
            ifindex: 3,
            is_nat: is_nat.into(),
            destination_mac: Mac::new([6; 6]),
            source_mac: Mac::new([8; 6]),
            padding: [0; 4],
        }
    }

    #[test]
    fn fragments_wait_for_the_first_one_and_go_where_it_went() {
        let (mut frames, now) = (EarlyFrames::default(), clock_now());
        assert_eq!(frames.add(&fragment(1, 16), now), None);
        assert_eq!(frames.add(&fragment(2, 16), now), None);
        let ready = frames.release(release(1, true), now);
        let [Ready { ifindex: 3, frame }] = &ready[..] else { panic!("{ready:?}") };
        let mut expected = fragment(1, 16);
        expected.truncate(50);
        expected[..12].copy_from_slice(&[6, 6, 6, 6, 6, 6, 8, 8, 8, 8, 8, 8]);
        expected[22] = 63;
        expected[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 11]);
        set_checksum(&mut expected);
        assert_eq!(*frame, expected);
        // Another CPU was still copying this one.
        assert!(frames.add(&fragment(1, 24), now).is_some());
        assert!(frames.release(release(1, true), now).is_empty());
        assert_eq!(frames.bytes, 50);
    }

    #[test]
    fn in_mode_dsr_the_addresses_stay() {
        let (mut frames, now) = (EarlyFrames::default(), clock_now());
        frames.add(&fragment(1, 16), now);
        let ready = frames.release(release(1, false), now);
        let mut expected = fragment(1, 16);
        expected.truncate(50);
        expected[..12].copy_from_slice(&[6, 6, 6, 6, 6, 6, 8, 8, 8, 8, 8, 8]);
        expected[22] = DSR_TIME_TO_LIVE;
        set_checksum(&mut expected);
        assert_eq!(ready[0].frame, expected);
    }

    #[test]
    fn ipv6_fragments_get_the_addresses_too() {
        let mut frame = [&[2; 6][..], &[4; 6], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 44, 2]].concat();
        frame.extend([&[1; 16][..], &[3; 16], &[17, 0, 1, 1, 0, 0, 0, 9], &[7; 8]].concat());
        let (mut frames, now) = (EarlyFrames::default(), clock_now());
        assert_eq!(frames.add(&frame, now), None);
        let key = FragmentKey {
            source: Address::new([1; 16]),
            destination: Address::new([3; 16]),
            id: 9_u32.to_be(),
            protocol: 17,
            padding: [0; 3],
        };
        let (source, destination) = (Address::new([5; 16]), Address::new([6; 16]));
        let ready = frames.release(Release { key, source, destination, ..release(1, true) }, now);
        assert_eq!(ready[0].frame[20..54], [&[44, 1][..], &[5; 16], &[6; 16]].concat());
        assert_eq!(ready[0].frame[54..], frame[54..]);
        // Its hop limit ends here.
        frame[21] = 1;
        assert_eq!(frames.add(&frame, now), None);
        assert_eq!(frames.counts.failed, 1);
    }

    #[test]
    fn what_waits_is_bounded_in_time_and_in_bytes() {
        let (mut frames, now) = (EarlyFrames::default(), clock_now());
        frames.add(&fragment(1, 16), now);
        frames.expire(now + LONGEST_WAIT);
        assert_eq!((frames.bytes, frames.counts.expired), (0, 1));
        assert!(frames.release(release(1, true), now + LONGEST_WAIT).is_empty());
        for id in 0..3000 {
            frames.add(&fragment(id, 1480), now + LONGEST_WAIT);
        }
        assert!(frames.bytes <= MOST_BYTES);
        assert!(frames.counts.no_room > 0);
        assert!(frames.release(release(0, true), now).is_empty(), "the oldest one made room");
        assert_eq!(frames.release(release(2999, true), now).len(), 1);
        frames.expire(now + 2 * LONGEST_WAIT);
        assert_eq!((frames.bytes, frames.packets.len(), frames.order.len()), (0, 0, 0));
    }

    #[test]
    fn a_flood_with_one_key_takes_no_room_from_other_packets() {
        let (mut frames, now) = (EarlyFrames::default(), clock_now());
        frames.add(&fragment(1, 1480), now);
        // 4,243 frames of 1,514 bytes are more than 4 MiB. 86 fit into the room of one packet.
        for _ in 0..4243 {
            frames.add(&fragment(2, 1480), now);
        }
        assert_eq!((frames.bytes, frames.counts.no_room), (87 * 1514, 4243 - 86));
        assert_eq!(frames.release(release(1, true), now).len(), 1);
        assert_eq!(frames.release(release(2, true), now).len(), 86);
        assert_eq!(frames.bytes, 0);
    }

    fn clock_now() -> Instant {
        crate::clock::now()
    }
}
