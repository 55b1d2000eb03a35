// SPDX-License-Identifier: Apache-2.0
//! Frames with VLAN tags. A VLAN is a link of its own: the program of the parent takes none of its frames.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use llb_tests::wait_until;

use super::DNS;
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// A MAC address that is locally administered, and nobody's.
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0x5e, 0, 0x53, 0xfe];

/// The frames look to llb as if they began a flow, but for the tag. They are processed in their order.
pub(crate) fn a_frame_in_a_vlan_begins_no_flow(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_udp(DNS.node_port);
    setup.serve("dns", &[setup.vip()], &[DNS]);
    let mut segment = setup.lab.open_segment("raw").unwrap();
    let IpAddr::V4(vip) = setup.vip() else { panic!("an IPv4 address") };
    let (client, balancer) = (setup.lab.black_hole(), setup.lab.balancer().mac());
    let mut send = |port, tags: &[u8]| {
        segment.write_all(&question(balancer, (client, vip), port, tags)).unwrap();
    };
    let flows = || setup.agent.connections().unwrap();
    let before = flows();
    send(5000, &[0x81, 0, 0, 100]);
    // Two tags: TC finds the inner one in the frame.
    send(5001, &[0x88, 0xa8, 0, 0, 0x81, 0, 0, 100]);
    // Number 0 is no VLAN; and a frame without a tag.
    send(5002, &[0x81, 0, 0xe0, 0]);
    send(5003, &[]);
    wait_until(LIMIT, "two flows", || Ok((flows() >= before + 2).then_some(()))).unwrap();
    assert_eq!(flows(), before + 2);
}

/// An Ethernet frame with an IPv4 UDP packet to the VIP. UDP over IPv4 needs no checksum (RFC 768).
fn question(mac: [u8; 6], (from, to): (Ipv4Addr, Ipv4Addr), port: u16, tags: &[u8]) -> Vec<u8> {
    let udp = [&port.to_be_bytes()[..], &DNS.port.to_be_bytes(), &[0, 12, 0, 0], b"llb?"].concat();
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend([from.octets(), to.octets()].concat());
    let mut sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    [&mac[..], &CLIENT_MAC, tags, &[0x08, 0], &ip, &udp].concat()
}
