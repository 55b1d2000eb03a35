// SPDX-License-Identifier: Apache-2.0
//! The decisions of `Ownership`, with a clock that the tests move. Frames on real
//! links are in the tests of addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::heard::Heard;
use super::ownership::Ownership;
use super::probes::{LiveLink, Output};
use super::wanted::ProbeResult;
use crate::clock;
use crate::model::{AddressKey, Mac};

const OWN: Mac = Mac([2, 0, 0, 0, 0, 5]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);

struct World {
    ownership: Ownership,
    now: Instant,
    frames: usize,
}

impl World {
    fn new() -> Self {
        let mut world = Self { ownership: Ownership::default(), now: clock::now(), frames: 0 };
        world.set_links(&[("eth0", 2)]);
        world
    }

    fn set_links(&mut self, links: &[(&str, u32)]) {
        let links = links.iter().map(|&(name, index)| (name.to_owned(), LiveLink { index, mac: OWN }));
        self.ownership.set_links(links.collect(), self.now);
    }

    fn ask(&mut self) -> ProbeResult {
        self.ownership.ask(&key(1), self.now)
    }

    fn hold(&mut self) {
        self.ownership.hold(&BTreeSet::from([key(1)]), self.now);
    }

    /// Lets `span` pass. Returns whether the reconciler was woken.
    fn pass(&mut self, span: Duration) -> bool {
        let end = self.now + span;
        let mut woken = false;
        while let Some(due) = self.ownership.next_due().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            let mut steps = 0;
            while let Some(output) = self.ownership.advance(self.now) {
                match output {
                    Output::Send { index: 2, .. } => self.frames += 1,
                    Output::Send { .. } => panic!("a frame on another link"),
                    Output::WakeReconciler => woken = true,
                }
                steps += 1;
                assert!(steps < 100, "the outputs never end");
            }
        }
        self.now = end;
        woken
    }

    fn hear(&mut self, mac: Mac, claims: bool) -> bool {
        self.ownership.hear(2, Heard { address: key(1).address, mac, claims }, self.now)
    }

    fn judge(&mut self) -> usize {
        self.ownership.judge(BTreeSet::from([OWN])).len()
    }

    fn in_conflict(&self) -> bool {
        !self.ownership.conflicts().is_empty()
    }
}

fn key(number: u8) -> AddressKey {
    AddressKey { link: "eth0".to_owned(), address: [192, 0, 2, number].into() }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_address_is_free_after_three_unanswered_probes() {
    let mut world = World::new();
    assert_eq!(world.ask(), ProbeResult::Pending);
    assert!(!world.pass(Duration::from_millis(200)));
    assert_eq!((world.frames, world.ask()), (3, ProbeResult::Pending));
    assert!(world.pass(Duration::from_millis(20)));
    assert_eq!(world.ask(), ProbeResult::Free);
    world.hold();
    world.pass(60 * SECOND);
    assert_eq!(world.frames, 3, "an address that llb has is not probed for");

    world.ownership.hold(&BTreeSet::new(), world.now);
    assert_eq!(world.ask(), ProbeResult::Pending, "an old result does not count");
    assert_eq!(
        world.ownership.ask(&AddressKey { link: "lo".into(), ..key(1) }, world.now),
        ProbeResult::Free
    );
}

#[test]
fn an_answered_probe_means_taken_which_is_returned_once() {
    let mut world = World::new();
    world.ask();
    world.pass(Duration::from_millis(10));
    assert!(!world.hear(OWN, true), "the answer is from this host itself");
    assert!(world.hear(OTHER, true));
    assert_eq!(world.ask(), ProbeResult::Taken(OTHER));
    assert_eq!(world.ask(), ProbeResult::Pending, "it is probed for again");
    world.pass(SECOND);
    assert_eq!(world.ask(), ProbeResult::Free, "the other host went away");
    assert!(world.hear(OTHER, true), "the other host is back before the address was added");
    assert_eq!(world.ask(), ProbeResult::Taken(OTHER));
}

#[test]
fn of_two_hosts_that_probe_at_once_one_gives_way() {
    let mut world = World::new();
    world.ask();
    assert!(!world.hear(OTHER, false), "the higher MAC gives way");
    assert!(world.hear(Mac([0; 6]), false));
    assert_eq!(world.ask(), ProbeResult::Taken(Mac([0; 6])));
}

#[test]
fn a_result_that_is_not_asked_for_is_forgotten() {
    let mut world = World::new();
    world.ask();
    world.pass(6 * SECOND);
    assert_eq!(world.ownership.next_due(), None);
}

#[test]
fn a_conflict_is_probed_and_defended_until_the_other_host_is_silent() {
    let mut world = World::new();
    world.hold();
    assert!(!world.hear(OTHER, false), "a probe is not a claim");
    assert!(world.hear(OTHER, true));
    assert!(!world.in_conflict(), "not yet: the MAC could be one of this host");
    assert_eq!((world.judge(), world.judge()), (1, 0));
    assert_eq!(world.ownership.conflicts(), BTreeMap::from([(key(1), OTHER)]));
    assert_eq!(world.ownership.take_defences(world.now), [key(1)]);
    assert!(!world.hear(OTHER, true), "too soon for another defence");
    assert_eq!(world.ownership.take_defences(world.now), []);
    world.pass(6 * SECOND);
    assert_eq!(world.frames, 3, "the address is probed for");
    world.pass(5 * SECOND);
    assert!(world.hear(OTHER, true));
    assert_eq!(world.ownership.take_defences(world.now), [key(1)]);
    assert!(!world.pass(11 * SECOND));
    assert!(world.in_conflict());
    assert!(world.pass(2 * SECOND));
    assert!(!world.in_conflict());
    assert_eq!(world.ownership.take_announcements(), [key(1)], "neighbours may have believed the other host");
    assert_eq!(world.ownership.take_announcements(), []);
    assert_eq!(world.ownership.next_due(), None);
}

#[test]
fn a_claim_by_this_host_is_not_a_conflict() {
    let mut world = World::new();
    world.hold();
    let second_link = Mac([2, 0, 0, 0, 0, 6]);
    assert!(world.hear(second_link, true));
    assert_eq!(world.ownership.judge(BTreeSet::from([OWN, second_link])), []);
    assert!(!world.in_conflict() && !world.hear(second_link, true));
}

#[test]
fn vips_on_a_link_that_comes_back_are_probed_for_then_announced() {
    let mut world = World::new();
    world.hold();
    world.set_links(&[]);
    assert!(!world.pass(SECOND));
    world.set_links(&[("eth0", 2)]);
    assert_eq!(world.ownership.take_announcements(), [], "not before the probes have ended");
    assert!(world.pass(SECOND));
    assert_eq!((world.frames, world.ownership.take_announcements()), (3, vec![key(1)]));

    world.ownership.recheck("eth0", world.now);
    world.hear(OTHER, true);
    world.pass(SECOND);
    assert_eq!(world.ownership.take_announcements(), [], "another host has it now");
}

#[test]
fn a_lost_address_is_free_without_probes_unless_another_host_claims_it() {
    let mut world = World::new();
    world.hold();
    world.ownership.lost(&key(1), world.now);
    assert_eq!(world.ask(), ProbeResult::Free);
    world.hold();
    world.hear(OTHER, true);
    world.judge();
    world.ownership.lost(&key(1), world.now);
    assert_eq!(world.ask(), ProbeResult::Taken(OTHER));
}

#[test]
fn an_address_of_another_host_is_not_free_because_the_link_goes_down() {
    let mut world = World::new();
    world.ask();
    world.pass(Duration::from_millis(10));
    assert!(world.hear(OTHER, true));
    assert_eq!(world.ask(), ProbeResult::Taken(OTHER));
    world.set_links(&[]);
    for _ in 0..10 {
        world.pass(30 * SECOND);
        assert_eq!(world.ask(), ProbeResult::Taken(OTHER));
        assert!(!world.ownership.is_free(&key(1), world.now));
    }
    // When the link is up, the host can be asked again.
    world.set_links(&[("eth0", 2)]);
    assert_eq!(world.ask(), ProbeResult::Pending);
    world.pass(SECOND);
    assert_eq!(world.ask(), ProbeResult::Free);
    world.set_links(&[]);
    assert_eq!(world.ask(), ProbeResult::Free);
}

#[test]
fn probes_that_the_link_did_not_carry_show_nothing() {
    let mut world = World::new();
    world.ask();
    world.pass(Duration::from_millis(100));
    world.set_links(&[]);
    assert!(world.pass(SECOND));
    world.set_links(&[("eth0", 2)]);
    assert_eq!(world.ask(), ProbeResult::Pending);
}
