// SPDX-License-Identifier: Apache-2.0
//! Looks at this machine and its segment for a process that serves nothing (`llb-agent doctor`). It adds no address and
//! takes no lock. Only [`owners`] and [`is_believed`] send frames.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::packet_route::address::AddressMessage;

use super::announce::packet::{self, HEARD_LENGTH, Listener};
use super::frame;
use super::guard::{Heard, PROBE_INTERVAL, PROBES};
use super::host::HostReader;
use super::message;
use crate::clock;
use crate::model::{Facts, Family, Link, LinkAddress, Mac};
use crate::netlink::{Connection, LinkDevice};
use crate::packet_socket;

/// Frames are sent in bursts of this many, with this pause between bursts.
const BURST: usize = 64;
const BURST_PAUSE: Duration = Duration::from_millis(5);

/// How often a neighbour is asked before it counts as silent.
const QUESTIONS: usize = 3;
/// How long to wait for an answer. A neighbour that has to look for the address first needs longer than one that
/// answers a probe.
const QUESTION_INTERVAL: Duration = Duration::from_millis(300);

/// What [`is_believed`] has found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Belief {
    /// The neighbour has answered a question from this machine's own address.
    pub(crate) answers_own: bool,
    /// It has also answered a question from the other address.
    pub(crate) answers_other: bool,
}

/// The link devices with these names that exist, their addresses, and what the machine needs.
///
/// # Errors
/// The kernel does not answer.
pub(crate) async fn survey(names: &[String]) -> io::Result<(Vec<LinkDevice>, Facts)> {
    let mut connection = Connection::open()?;
    let mut links = Vec::new();
    for name in names {
        // The kernel also finds a link by an alternative name.
        let found = connection.link(name).await?;
        links.extend(found.map(|link| LinkDevice { name: name.clone(), ..link }));
    }
    let mut all: BTreeMap<u32, Vec<AddressMessage>> = BTreeMap::new();
    for message in connection.addresses().await? {
        all.entry(message.header.index).or_default().push(message);
    }
    let mut reader = HostReader::new();
    reader.see(&all, &links);
    let host = reader.read(&mut connection, BTreeSet::new()).await?;
    let described = links.iter().map(|link| Link {
        name: link.name.clone(),
        addresses: all.get(&link.ifindex).into_iter().flatten().filter_map(described).collect(),
    });
    let facts = Facts { links: described.collect(), host, vip_link: None };
    Ok((links, facts))
}

fn described(message: &AddressMessage) -> Option<LinkAddress> {
    let (ours, primary) = (message::has_tag(message), message::is_primary(message));
    Some(LinkAddress { net: message::net(message)?, ours, primary })
}

/// Which of these addresses other hosts have. It asks on one link, from one of the link's own addresses. `own` are the MACs of
/// this machine. A probe (RFC 5227) is sent only on a link without an address: another host that probes for the same address
/// would take it as a sign that this machine wants the address.
///
/// # Errors
/// CAP_NET_RAW is missing, or the link is down.
pub(crate) async fn owners(
    index: u32,
    mac: Mac,
    own: &BTreeSet<Mac>,
    link: &Link,
    addresses: &BTreeSet<IpAddr>,
) -> io::Result<BTreeMap<IpAddr, Mac>> {
    let segment = Segment::open(index)?;
    let mut found = BTreeMap::new();
    for _ in 0..PROBES {
        let left: Vec<IpAddr> = addresses.iter().copied().filter(|one| !found.contains_key(one)).collect();
        for burst in left.chunks(BURST) {
            for address in burst {
                segment.send(&question(mac, link, *address))?;
            }
            tokio::time::sleep(BURST_PAUSE).await;
        }
        let hear = |frame: &[u8]| {
            let heard = Heard::parse(frame).filter(|heard| heard.claims && !own.contains(&heard.mac));
            let owner = heard.filter(|heard| addresses.contains(&heard.address));
            found.extend(owner.map(|heard| (heard.address, heard.mac)));
            false
        };
        segment.hear(PROBE_INTERVAL, hear).await?;
    }
    Ok(found)
}

fn question(mac: Mac, link: &Link, address: IpAddr) -> Vec<u8> {
    let sender = link.primary_address(Family::of(address));
    let request = sender.and_then(|sender| frame::request(mac, sender, address, None));
    request.unwrap_or_else(|| frame::probe(mac, address))
}

/// Announces `other` as an address of this machine, and finds out whether `neighbour` accepts it. The neighbour is asked for
/// its MAC, once with `own` as the sender and once with `other`. Where a switch or a hypervisor lets only known addresses
/// pass, the second question or its answer is lost.
///
/// # Errors
/// CAP_NET_RAW is missing, or the link is down.
pub(crate) async fn is_believed(
    index: u32,
    mac: Mac,
    own: IpAddr,
    other: IpAddr,
    neighbour: IpAddr,
) -> io::Result<Belief> {
    let segment = Segment::open(index)?;
    let mut belief = Belief::default();
    segment.send(&frame::announcement(mac, other))?;
    for _ in 0..QUESTIONS {
        for sender in [own, other] {
            if let Some(question) = frame::request(mac, sender, neighbour, None) {
                segment.send(&question)?;
            }
        }
        let hear = |answer: &[u8]| {
            belief.answers_own |= frame::is_answer(answer, neighbour, own);
            belief.answers_other |= frame::is_answer(answer, neighbour, other);
            belief.answers_own && belief.answers_other
        };
        if segment.hear(QUESTION_INTERVAL, hear).await? {
            break;
        }
    }
    Ok(belief)
}

/// The sockets of one link.
struct Segment {
    index: u32,
    sender: socket2::Socket,
    arp: Listener,
    ndp: Listener,
}

impl Segment {
    fn open(index: u32) -> io::Result<Self> {
        let (arp, ndp) = (packet::arp(index)?, packet::neighbor_discovery(index)?);
        Ok(Self { index, sender: packet_socket::sender()?, arp, ndp })
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        packet_socket::send(&self.sender, self.index, frame)
    }

    /// Passes all frames that arrive within `limit` to `hear`, until `hear` says that it has enough. Returns whether it did.
    async fn hear(&self, limit: Duration, mut hear: impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
        let end = clock::now() + limit;
        let (mut arp, mut ndp) = ([0; HEARD_LENGTH], [0; HEARD_LENGTH]);
        loop {
            let next = async {
                tokio::select! {
                    frame = self.arp.next(&mut arp) => frame,
                    frame = self.ndp.next(&mut ndp) => frame,
                }
            };
            let Ok(frame) = tokio::time::timeout_at(end, next).await else { return Ok(false) };
            if hear(frame?) {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_asked_from_an_own_address_so_that_nobody_takes_it_for_a_probe() {
        let own = LinkAddress { net: "192.0.2.20/24".parse().unwrap(), ours: false, primary: true };
        let link = Link { name: "eth0".to_owned(), addresses: vec![own] };
        let (mac, address) = (Mac([2; 6]), "192.0.2.30".parse().unwrap());
        assert!(Heard::parse(&question(mac, &link, address)).unwrap().claims);
        let bare = Link { addresses: Vec::new(), ..link };
        assert!(!Heard::parse(&question(mac, &bare, address)).unwrap().claims);
    }
}
