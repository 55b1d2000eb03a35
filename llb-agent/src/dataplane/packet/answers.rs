// SPDX-License-Identifier: Apache-2.0
//! Sends ICMP errors about packets that the programs dropped, because they are too large for
//! the way to the backend or their time to live has ended. Path MTU discovery (RFC 1191,
//! RFC 8201) and traceroute depend on these errors.
//!
//! One task. Input: the programs' ring of notices. Output: raw sockets. While no agent runs,
//! no errors are sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use etherparse::checksum::u32_16bit_word;
use llb_common::address::Address;
use llb_common::notice::Notice;
use llb_common::reason::Reason;
use socket2::{Domain, Protocol, Socket, Type};

use super::ring;
use crate::clock;
use crate::error_chain::ErrorChain;

/// The most answers in one second; as many as Linux itself sends (`net.ipv4.icmp_msgs_per_sec`).
const MOST_PER_SECOND: u32 = 1000;
/// The pause after a failure to wait.
const PAUSE: Duration = Duration::from_secs(1);

/// Type and code of RFC 792.
const V4_TOO_BIG: [u8; 2] = [3, 4];
const V4_TIME_EXCEEDED: [u8; 2] = [11, 0];
/// Type and code of RFC 4443.
const V6_TOO_BIG: [u8; 2] = [2, 0];
const V6_TIME_EXCEEDED: [u8; 2] = [3, 0];

/// An answer before it is sent. The kernel adds the checksum of ICMPv6.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    to: IpAddr,
    bytes: Vec<u8>,
}

/// Runs until it is aborted.
pub(super) async fn run(mut ring: RingBuf<MapData>) {
    let sockets = (raw(Domain::IPV4, Protocol::ICMPV4), raw(Domain::IPV6, Protocol::ICMPV6));
    for error in [sockets.0.as_ref().err(), sockets.1.as_ref().err()].into_iter().flatten() {
        tracing::warn!(%error, "no raw socket: senders of packets that are too large get no ICMP error");
    }
    let (mut second, mut sent) = (clock::now(), 0);
    loop {
        if let Err(error) = ring::wait(&ring).await {
            tracing::warn!(error = %ErrorChain(&error), "cannot wait for the programs' notices");
            tokio::time::sleep(PAUSE).await;
        }
        if second.elapsed() >= Duration::from_secs(1) {
            (second, sent) = (clock::now(), 0);
        }
        while let Some(item) = ring.next() {
            let Ok(notice) = bytemuck::try_pod_read_unaligned::<Notice>(&item) else { continue };
            let Some(answer) = answer(&notice).filter(|_| sent < MOST_PER_SECOND) else { continue };
            sent += 1;
            let socket = if answer.to.is_ipv4() { &sockets.0 } else { &sockets.1 };
            if let Ok(socket) = socket
                && let Err(error) = socket.send_to(&answer.bytes, &SocketAddr::new(answer.to, 0).into())
            {
                tracing::debug!(%error, to = %answer.to, "cannot send an ICMP error");
            }
        }
    }
}

fn raw(domain: Domain, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))
}

/// `None`: the packet is too short, or its source is not one host, which nothing may be sent to (RFC 1122, 3.2.2;
/// RFC 4443, 2.4 (e)).
fn answer(notice: &Notice) -> Option<Answer> {
    answer_to_any(notice).filter(|answer| Address::from(answer.to).may_be_a_source())
}

fn answer_to_any(notice: &Notice) -> Option<Answer> {
    let packet = notice.packet.get(..notice.length as usize)?;
    let is_too_big = notice.reason == Reason::TooBig as u32;
    match packet.first()? >> 4 {
        4 => {
            let to = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
            let kind = if is_too_big { V4_TOO_BIG } else { V4_TIME_EXCEEDED };
            let [high, low] = (notice.mtu.min(u16::MAX.into()) as u16).to_be_bytes();
            let mtu = if is_too_big { [0, 0, high, low] } else { [0; 4] };
            let mut bytes = [&kind[..], &[0, 0], &mtu, packet].concat();
            let sum = u32_16bit_word::ones_complement(u32_16bit_word::add_slice(0, &bytes)).to_be();
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
            Some(Answer { to: to.into(), bytes })
        }
        6 => {
            let to = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
            let kind = if is_too_big { V6_TOO_BIG } else { V6_TIME_EXCEEDED };
            let mtu = if is_too_big { notice.mtu.to_be_bytes() } else { [0; 4] };
            Some(Answer { to: to.into(), bytes: [&kind[..], &[0, 0], &mtu, packet].concat() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::Icmpv4Slice;
    use llb_common::notice::NOTICE_BYTES;

    use super::*;

    fn notice(reason: Reason, packet: &[u8]) -> Notice {
        let mut bytes = [0; NOTICE_BYTES];
        bytes[..packet.len()].copy_from_slice(packet);
        Notice { reason: reason as u32, mtu: 1300, length: packet.len() as u32, ifindex: 2, packet: bytes }
    }

    #[test]
    fn an_ipv4_sender_learns_the_size_that_fits() {
        let mut packet = [0x45_u8; 28];
        packet[12..16].copy_from_slice(&[198, 51, 100, 10]);
        let sent = answer(&notice(Reason::TooBig, &packet)).unwrap();
        assert_eq!(sent.to, IpAddr::from([198, 51, 100, 10]));
        assert_eq!(sent.bytes[..2], V4_TOO_BIG);
        assert_eq!(sent.bytes[6..8], 1300_u16.to_be_bytes());
        assert_eq!(sent.bytes[8..], packet);
        let slice = Icmpv4Slice::from_slice(&sent.bytes).unwrap();
        assert_eq!(slice.icmp_type().calc_checksum(slice.payload()), slice.checksum());
    }

    #[test]
    fn an_ipv6_sender_learns_where_its_time_to_live_ended() {
        let mut packet = [0x60_u8; 48];
        packet[8..24].fill(7);
        let sent = answer(&notice(Reason::TimeToLive, &packet)).unwrap();
        assert_eq!(sent.to, IpAddr::from([7; 16]));
        assert_eq!(sent.bytes[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer(&notice(Reason::TooBig, &[])), None);
        assert_eq!(answer(&notice(Reason::TooBig, &[0x45; 8])), None);
    }

    #[test]
    fn nothing_is_sent_to_what_is_not_one_host() {
        for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 5], [255; 4]] {
            let mut packet = [0x45_u8; 28];
            packet[12..16].copy_from_slice(&source);
            assert_eq!(answer(&notice(Reason::TimeToLive, &packet)), None, "{source:?}");
        }
        for source in [[0; 16], [0xff; 16]] {
            let mut packet = [0x60_u8; 48];
            packet[8..24].copy_from_slice(&source);
            assert_eq!(answer(&notice(Reason::TooBig, &packet)), None, "{source:?}");
        }
    }
}
