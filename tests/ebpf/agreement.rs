//! Random sequences of packets, some with bytes changed: both hooks must do
//! the same with each. It is no model of what is right: that a packet which is
//! right stays right is checked by its checksums, summed anew.
//!
//! `LLB_PACKETS` sets how many; the seed is printed, and `LLB_SEED` sets it.

use llb_common::frontend::{TCP, UDP};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::frames::{Frame, checksum, l4_checksum};
use crate::plane::{
    BACKEND_PORT, CLIENT_MAC, DSR_PORT, EMPTY_PORT, Family, Hook, LB_MAC, NAT_PORT, Outcome, Plane,
};

/// Enough to reach every kind of packet in a few seconds.
const PACKETS: u64 = 20_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn both_hooks_do_the_same_with_random_packets() {
    let number = |name| std::env::var_os(name).and_then(|text| text.to_str()?.parse().ok());
    let seed: u64 = number("LLB_SEED").unwrap_or_else(rand::random);
    println!("LLB_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for family in [Family::V4, Family::V6] {
        let (xdp, tc) = (Plane::new(Hook::Xdp, family), Plane::new(Hook::Tc, family));
        let mut sent = 0_u64;
        let count = number("LLB_PACKETS").unwrap_or(PACKETS);
        for n in 0..count {
            let frame = packet(&xdp, &mut random);
            let mut bytes = frame.bytes();
            let is_changed = random.random_ratio(1, 4);
            if is_changed {
                change(&mut bytes, &mut random);
            }
            let outcome = xdp.run(&bytes);
            assert_eq!(outcome, tc.run(&bytes), "packet {n}: {bytes:02x?}");
            if let Outcome::Sent(after) = outcome {
                sent += 1;
                if !is_changed {
                    assert_right(family, &after);
                }
            }
        }
        assert!(sent > count / 8, "{sent} of {count} were sent: too few to say something");
    }
}

/// Of few clients, so that their flows go on; both directions.
fn packet(plane: &Plane, random: &mut StdRng) -> Frame {
    let client = (plane.address(random.random_range(10..14)), random.random_range(40_000..40_004));
    let vip = (plane.vip(), [NAT_PORT, DSR_PORT, EMPTY_PORT, 9][random.random_range(0..4)]);
    let backend = (plane.backend_address(), BACKEND_PORT);
    let (from, to) = match random.random_range(0..3) {
        0 => (backend, (plane.snat(), client.1)),
        _ => (client, vip),
    };
    Frame {
        macs: (LB_MAC, CLIENT_MAC),
        from,
        to,
        protocol: if random.random_ratio(1, 4) { UDP } else { TCP },
        tcp_flags: [0x02, 0x10, 0x12, 0x11, 0x04, 0x18][random.random_range(0..6)],
        time_to_live: random.random_range(1..65),
        payload: vec![0x5a; random.random_range(0..64)],
    }
}

/// A few bytes of the headers, or the end is cut off.
fn change(bytes: &mut Vec<u8>, random: &mut StdRng) {
    if random.random_ratio(1, 3) {
        // The kernel tests with no frame that is shorter than its IP header.
        bytes.truncate(random.random_range(54.min(bytes.len())..=bytes.len()));
    }
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len().min(80));
        // What TC takes from its frame before the program sees it.
        if !(12..14).contains(&at) {
            bytes[at] = random.random();
        }
    }
}

/// All checksums of a whole TCP or UDP packet.
fn assert_right(family: Family, frame: &[u8]) {
    let (l4, protocol, addresses) = match family {
        Family::V4 => (34, frame[23], 12..20),
        Family::V6 => (54, frame[20], 8..40),
    };
    if family == Family::V4 {
        assert_eq!(checksum(&frame[14..34]), 0, "IPv4 header");
    }
    let addresses = &frame[14..][addresses];
    let (from, to) = addresses.split_at(addresses.len() / 2);
    let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => std::net::IpAddr::from(v4).into(),
        Err(_) => llb_common::address::Address::new(bytes.try_into().unwrap()),
    };
    let sum = l4_checksum(address(from), address(to), protocol, &frame[l4..]);
    assert!(matches!(sum, 0 | 0xffff), "protocol {protocol}: {sum:#x}");
}
