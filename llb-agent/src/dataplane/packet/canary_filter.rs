// SPDX-License-Identifier: Apache-2.0
//! The socket filter by which the kernel gives the agent only frames that can be about a canary. Pure: which of them
//! are is found out in `canary.rs`.

use std::ops::RangeInclusive;

use llb_common::conntrack::{RST, SYN};
use llb_common::frontend::{DSR_TIME_TO_LIVE, TCP};

/// Source ports of canaries: above those that Linux gives to sockets by itself, so few other packets have them.
pub(super) const CANARY_PORTS: RangeInclusive<u16> = 61_000..=65_535;
/// So many bytes of a frame are read: enough for an ICMPv6 error about a canary.
pub(super) const HEARD_BYTES: usize = 256;

/// An instruction of a socket filter: code, jump if true, jump if false, number.
pub(super) type Instruction = (u16, u8, u8, u32);

/// Where the headers of one family have what the filter looks at, by the start of the frame.
struct Family {
    protocol_at: u32,
    time_to_live_at: u32,
    /// Loads the length of the IP header.
    load_length: (u16, u32),
    icmp: u32,
    unreachable: u32,
}

/// Lets those frames of a family through that can be about a canary: TCP with SYN or RST to a port of canaries, or
/// from one with so low a time to live that it was at a Node; and ICMP errors that say that something can't be reached.
/// Extension headers of IPv6 are not looked behind: nobody adds them to such packets.
pub(super) fn filter(is_v6: bool) -> [Instruction; 17] {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const LOAD_BEHIND: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
    const LOAD_HALF_BEHIND: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
    const LOAD_V4_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    const LOAD_NUMBER: u16 = (libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const ETHERNET: u32 = 14;
    let new = |code: u16, then: u8, otherwise: u8, number: u32| (code, then, otherwise, number);
    let family = if is_v6 {
        let load_length = (LOAD_NUMBER, 40);
        Family { protocol_at: 20, time_to_live_at: 21, load_length, icmp: 58, unreachable: 1 }
    } else {
        let load_length = (LOAD_V4_LENGTH, ETHERNET);
        Family { protocol_at: 23, time_to_live_at: 22, load_length, icmp: 1, unreachable: 3 }
    };
    let load_length = || new(family.load_length.0, 0, 0, family.load_length.1);
    let first_port = u32::from(*CANARY_PORTS.start());
    [
        new(LOAD, 0, 0, family.protocol_at),
        new(IF_EQUAL, 0, 9, TCP.into()), // else to "ICMP"
        load_length(),
        new(LOAD_BEHIND, 0, 0, ETHERNET + 13), // flags
        new(IF_ANY_BIT, 0, 10, (SYN | RST).into()),
        new(LOAD_HALF_BEHIND, 0, 0, ETHERNET + 2), // destination port
        new(IF_AT_LEAST, 9, 0, first_port),
        new(LOAD_HALF_BEHIND, 0, 0, ETHERNET), // source port
        new(IF_AT_LEAST, 0, 6, first_port),
        new(LOAD, 0, 0, family.time_to_live_at),
        new(IF_AT_LEAST, 4, 5, DSR_TIME_TO_LIVE.into()),
        new(IF_EQUAL, 0, 3, family.icmp), // "ICMP"
        load_length(),
        new(LOAD_BEHIND, 0, 0, ETHERNET), // type
        new(IF_EQUAL, 1, 0, family.unreachable),
        new(RETURN, 0, 0, 0),
        new(RETURN, 0, 0, HEARD_BYTES as u32),
    ]
}

/// Runs a filter as the kernel does.
#[cfg(test)]
pub(super) fn passes(filter: &[Instruction], frame: &[u8]) -> bool {
    let byte = |at: u32| u32::from(frame[at as usize]);
    let (mut a, mut x, mut at) = (0, 0, 0);
    loop {
        let (code, then, otherwise, k) = filter[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { then } else { otherwise });
        match code {
            0x30 => a = byte(k),
            0x50 => a = byte(x + k),
            0x48 => a = byte(x + k) << 8 | byte(x + k + 1),
            0xb1 => x = (byte(k) & 15) * 4,
            0x01 => x = k,
            0x15 => jump(a == k),
            0x45 => jump(a & k != 0),
            0x35 => jump(a >= k),
            0x06 => return k != 0,
            _ => panic!("{code:x}"),
        }
    }
}
