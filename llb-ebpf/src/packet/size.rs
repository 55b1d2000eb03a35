// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! How large the packets are that leave. At TC the kernel has joined packets of a TCP stream (GRO), and cuts the
//! result again when it sends it; each of these must fit.

use core::ffi::c_void;

use llb_common::frontend::TCP;
use llb_common::parse::Packet;

use crate::headers::offset;
use crate::hooks::Hook;
use crate::outcome::Done;

/// Offset of the byte of a TCP header that begins with its length in words of four bytes (RFC 9293, 3.1).
const DATA_OFFSET: usize = 12;
/// Bytes of a UDP header (RFC 768).
const UDP_BYTES: u32 = 8;

/// Whether a packet that is longer than `mtu`, or one of those into which it will be cut, is too large.
#[inline(never)]
pub(crate) fn exceeds<H: Hook>(context: *mut c_void, packet: &Packet, mtu: u32) -> Done {
    let hook = H::open(context);
    let payload = hook.segment_payload();
    if payload == 0 {
        return Done::Yes;
    }
    let l4_bytes = if packet.protocol == TCP {
        let Some(field) = hook.window::<2>(offset(packet.l4) + DATA_OFFSET) else { return Done::Yes };
        let [length, _] = field.load_16::<0>().to_ne_bytes();
        u32::from(length >> 4) * 4
    } else {
        UDP_BYTES
    };
    let l3_bytes = u32::from(packet.l4.wrapping_sub(packet.l3));
    Done::from(l3_bytes.wrapping_add(l4_bytes).wrapping_add(payload) > mtu)
}
