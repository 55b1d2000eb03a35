// SPDX-License-Identifier: Apache-2.0
//! Offloads and queues of links, as ethtool shows and sets them. The kernel tells them over generic netlink.

use std::io;

use super::generic::{Family, attribute, values};

// linux/ethtool_netlink.h
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const CHANNELS_GET: u8 = 17;
/// The header is the first attribute of each question and answer.
const HEADER: u16 = 1;
const HEADER_IFINDEX: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
// linux/netlink.h
const NESTED: u16 = 1 << 15;

/// The offloads by which a card takes VLAN tags out of the frames that it receives.
const TAKES_TAGS_OUT: [&[u8]; 2] = [b"rx-vlan-hw-parse\0", b"rx-vlan-stag-hw-parse\0"];

/// The offload by which a card puts packets of a TCP stream together before it hands them over (LRO).
const LRO: &[u8] = b"rx-lro\0";

/// The same, done by a card that keeps what is needed to send the packets on (hardware GRO).
const GRO_HW: &[u8] = b"rx-gro-hw\0";

/// What of a link's offloads and queues matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offloads {
    /// The card takes VLAN tags out of the frames that it receives, so XDP does not see them.
    pub(crate) hides_vlan_tags: bool,
    /// All that are on, and the number of queues, in the kernel's words. Only good to see whether something changed.
    pub(crate) all: Vec<u8>,
}

/// The offloads of the link with this interface index.
///
/// # Errors
/// There is no such link, or the kernel does not tell.
pub(super) async fn ask(ethtool: &mut Family, ifindex: u32) -> io::Result<Offloads> {
    let active = active(ethtool, ifindex).await?;
    let queues = or_nothing(ethtool.ask(CHANNELS_GET, &header(ifindex)).await)?;
    Ok(Offloads { hides_vlan_tags: has_any(&active, &TAKES_TAGS_OUT)?, all: [active, queues].concat() })
}

/// Whether LRO of the link with this interface index is on.
///
/// # Errors
/// There is no such link, or the kernel does not tell.
pub(crate) async fn has_lro(ifindex: u32) -> io::Result<bool> {
    // Without ethtool's family nobody can tell.
    let Some(mut ethtool) = Family::open("ethtool").await? else { return Ok(false) };
    has_any(&active(&mut ethtool, ifindex).await?, &[LRO])
}

/// Whether hardware GRO of the link with this interface index is on.
///
/// # Errors
/// There is no such link, or the kernel does not tell.
pub(crate) async fn has_hardware_gro(ifindex: u32) -> io::Result<bool> {
    let Some(mut ethtool) = Family::open("ethtool").await? else { return Ok(false) };
    has_any(&active(&mut ethtool, ifindex).await?, &[GRO_HW])
}

/// Turns LRO of the link with this interface index off.
///
/// # Errors
/// It stays on, or there is no such link.
pub(crate) async fn turn_lro_off(ifindex: u32) -> io::Result<()> {
    let Some(mut ethtool) = Family::open("ethtool").await? else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let bit = attribute(BITS_BIT | NESTED, &attribute(BIT_NAME, LRO));
    let off = attribute(FEATURES_WANTED | NESTED, &attribute(BITSET_BITS | NESTED, &bit));
    ethtool.ask(FEATURES_SET, &[header(ifindex), off].concat()).await?;
    // The kernel does not say that a driver insists on it.
    if has_any(&active(&mut ethtool, ifindex).await?, &[LRO])? {
        return Err(io::Error::other("the driver keeps it on"));
    }
    Ok(())
}

fn header(ifindex: u32) -> Vec<u8> {
    attribute(HEADER | NESTED, &attribute(HEADER_IFINDEX, &ifindex.to_ne_bytes()))
}

/// The offloads that are on, as a set of names.
async fn active(ethtool: &mut Family, ifindex: u32) -> io::Result<Vec<u8>> {
    let answer = or_nothing(ethtool.ask(FEATURES_GET, &header(ifindex)).await)?;
    Ok(values(&answer, FEATURES_ACTIVE)?.concat())
}

/// Nothing if the driver or the kernel does not have what was asked for. Any other error says nothing about the link.
fn or_nothing(answer: io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        answer => answer,
    }
}

/// Whether this set of names has one of `wanted`.
fn has_any(active: &[u8], wanted: &[&[u8]]) -> io::Result<bool> {
    for bits in values(active, BITSET_BITS)? {
        for bit in values(&bits, BITS_BIT)? {
            if values(&bit, BIT_NAME)?.iter().any(|name| wanted.contains(&&name[..])) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_supported_counts_as_nothing() {
        let refused = |code| or_nothing(Err(io::Error::from_raw_os_error(code)));
        assert_eq!(refused(libc::EOPNOTSUPP).unwrap(), [0; 0]);
        assert_eq!(refused(libc::EBUSY).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        assert!(or_nothing(Err(io::ErrorKind::TimedOut.into())).is_err());
        assert_eq!(or_nothing(Ok(vec![1])).unwrap(), [1]);
    }

    #[tokio::test]
    async fn loopback_has_no_lro_that_could_be_turned_off() {
        const LOOPBACK: u32 = 1;
        assert!(!has_lro(LOOPBACK).await.unwrap());
        let error = has_lro(u32::MAX >> 1).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn an_offload_is_found_by_its_name() {
        let set = |names: &[&[u8]]| {
            let bits = names.iter().map(|name| attribute(BITS_BIT, &attribute(BIT_NAME, name)));
            attribute(BITSET_BITS | NESTED, &bits.collect::<Vec<_>>().concat())
        };
        let hides_tags = |names: &[&[u8]]| has_any(&set(names), &TAKES_TAGS_OUT).unwrap();
        assert!(!hides_tags(&[b"tx-vlan-hw-insert\0", b"rx-gro\0"]));
        assert!(hides_tags(&[b"rx-gro\0", b"rx-vlan-hw-parse\0"]));
        assert!(!has_any(&[], &[LRO]).unwrap());
    }
}
