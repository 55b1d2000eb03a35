// SPDX-License-Identifier: Apache-2.0
//! TCP flags, and what they say about the life of a connection: which resets and FINs are believed.

use super::wire::TCP;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;
/// The FIN or RST has a number that does not fit.
pub(super) const DOUBTED: u8 = 8;
/// Any flag that neither begins nor ends a connection.
pub(super) const DATA: u8 = 16;
/// The other side has reset the connection, and this side has said nothing since.
pub(super) const RESET_BY_OTHER: u8 = 32;

/// Distance of a number from the known one. `None`: it can hardly be the sender's.
pub(super) fn distance(known: u32, seq: u32) -> Option<i64> {
    let distance = i64::from(seq.wrapping_sub(known) as i32);
    match known {
        0 => Some(0),
        _ => (-(1 << 20)..1 << 26).contains(&distance).then_some(distance),
    }
}

pub(super) fn has(seen: u8, bits: u8) -> bool {
    seen & bits != 0
}

/// A side that has closed or reset the connection, and is believed.
fn is_sure(seen: u8) -> bool {
    has(seen, FIN | RST) && !has(seen, DOUBTED)
}

/// What was seen in one direction after one more packet. A connection that has ended begins again with a SYN.
pub(super) fn seen_after(seen: u8, tcp_flags: u8, distance: Option<i64>) -> u8 {
    let (begins, ends) = (tcp_flags & SYN, tcp_flags & (FIN | RST));
    if begins != 0 && is_sure(seen) {
        return begins | ends;
    }
    match (ends, distance) {
        (0, _) if begins != 0 => seen | SYN,
        (0, None) => seen | DATA,
        (0, Some(distance)) => {
            let goes_on = distance > 0 || has(seen, DOUBTED);
            let open = seen & !(RST | RESET_BY_OTHER) & if goes_on { !(FIN | DOUBTED) } else { !0 };
            open | DATA
        }
        (_, Some(_)) if has(seen, DOUBTED) => seen & !(FIN | RST | DOUBTED) | begins | ends,
        (_, Some(_)) => seen | begins | ends,
        (_, None) if is_sure(seen) || !has(seen, DATA) => seen,
        (_, None) => seen | begins | ends | DOUBTED,
    }
}

/// Whether both sides have closed the connection, or one has reset it without contradiction.
pub(super) fn has_ended(forward: u8, reply: u8) -> bool {
    let resets = |by: u8, other: u8| {
        has(by, RST) && !has(by, DOUBTED) && (!has(other, DATA) || has(other, RESET_BY_OTHER))
    };
    let both_close = has(forward, FIN) && has(reply, FIN);
    both_close && !(has(forward, DOUBTED) && has(reply, DOUBTED))
        || resets(forward, reply)
        || resets(reply, forward)
}

/// The same, with everything that is doubted.
pub(super) fn may_have_ended(forward: u8, reply: u8) -> bool {
    has(forward | reply, RST) || has(forward, FIN) && has(reply, FIN)
}

/// In TCP only a SYN without other flags opens a connection. Nothing tells which UDP packet opens a flow.
pub(crate) fn opens(protocol: u8, tcp_flags: u8) -> bool {
    protocol == TCP && tcp_flags & (SYN | ACK | RST | FIN) == SYN
}
