// SPDX-License-Identifier: Apache-2.0
//! Parses what a frame of another host says about an address. Pure; what follows
//! from it is decided in `ownership`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::frame::{
    ETHERTYPE_ARP, ETHERTYPE_IPV6, HOP_LIMIT, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION,
    NEXT_HEADER_ICMPV6,
};
use crate::model::Mac;

/// Another host claims an address, or probes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Heard {
    /// The address.
    pub(in super::super) address: IpAddr,
    /// The MAC of that host.
    pub(in super::super) mac: Mac,
    /// True for a claim ("I have it"), false for a probe ("does a host have it?").
    pub(in super::super) claims: bool,
}

impl Heard {
    /// `None` for a frame that is neither, and for a malformed one.
    pub(in super::super) fn parse(frame: &[u8]) -> Option<Self> {
        match u16::from_be_bytes(part(frame, 12)?) {
            ETHERTYPE_ARP => arp(frame),
            ETHERTYPE_IPV6 => neighbor_discovery(frame),
            _ => None,
        }
    }
}

/// The sender of an ARP request or reply claims the sender address (RFC 826).
/// Without a sender address it probes for the target address (RFC 5227 section 1.1).
fn arp(frame: &[u8]) -> Option<Heard> {
    let header: [u8; 6] = part(frame, 14)?;
    if header != [0x00, 0x01, 0x08, 0x00, 6, 4] {
        return None; // Not ARP for IPv4 on Ethernet.
    }
    let mac = Mac(part(frame, 22)?);
    let sender = Ipv4Addr::from(part::<4>(frame, 28)?);
    let target = Ipv4Addr::from(part::<4>(frame, 38)?);
    let claims = !sender.is_unspecified();
    Some(Heard { address: if claims { sender } else { target }.into(), mac, claims })
}

/// A Neighbor Advertisement claims its target (RFC 4861 section 4.4). A Neighbor
/// Solicitation without a source address probes for its target (RFC 4862 section
/// 5.4.3).
fn neighbor_discovery(frame: &[u8]) -> Option<Heard> {
    const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
    let [next_header, hop_limit] = part(frame, 20)?;
    let source = Ipv6Addr::from(part::<16>(frame, 22)?);
    let [kind, code] = part(frame, 54)?;
    if next_header != NEXT_HEADER_ICMPV6 || hop_limit != HOP_LIMIT || code != 0 {
        return None;
    }
    let address = IpAddr::from(part::<16>(frame, 62)?);
    let sender = Mac(part(frame, 6)?);
    match kind {
        NEIGHBOR_ADVERTISEMENT => {
            let option = part(frame, 78).filter(|option| *option == TARGET_LINK_LAYER_ADDRESS);
            let mac = option.and_then(|_| part(frame, 80)).map_or(sender, Mac);
            Some(Heard { address, mac, claims: true })
        }
        NEIGHBOR_SOLICITATION if source.is_unspecified() => {
            Some(Heard { address, mac: sender, claims: false })
        }
        _ => None,
    }
}

fn part<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::super::frame;
    use super::*;

    const MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x07]);

    #[test]
    fn claims_and_probes_of_both_families_are_parsed() {
        for vip in ["192.0.2.5", "2001:db8::5"] {
            let address: IpAddr = vip.parse().unwrap();
            let heard = |claims| Some(Heard { address, mac: MAC, claims });
            assert_eq!(Heard::parse(&frame::announcement(MAC, address)), heard(true));
            assert_eq!(Heard::parse(&frame::probe(MAC, address)), heard(false));
        }
        // A host that asks by ARP claims the address that it asks with. One that asks by NDP does not.
        let ask = |vip: &str, router: &str| {
            frame::request(MAC, vip.parse().unwrap(), router.parse().unwrap(), None).unwrap()
        };
        let asked = Heard::parse(&ask("192.0.2.5", "192.0.2.1")).unwrap();
        assert_eq!((asked.address.to_string().as_str(), asked.claims), ("192.0.2.5", true));
        assert_eq!(Heard::parse(&ask("2001:db8::5", "2001:db8::1")), None);
    }

    #[test]
    fn a_frame_that_came_through_a_router_is_not_a_claim() {
        let mut frame = frame::announcement(MAC, "2001:db8::5".parse().unwrap());
        frame[21] = HOP_LIMIT - 1;
        assert_eq!(Heard::parse(&frame), None);
    }

    #[test]
    fn a_truncated_frame_is_ignored() {
        for vip in ["192.0.2.5", "2001:db8::5"] {
            let frame = frame::announcement(MAC, vip.parse().unwrap());
            for length in 0..42.min(frame.len()) {
                assert_eq!(Heard::parse(&frame[..length]), None, "{length}");
            }
        }
    }
}
