// SPDX-License-Identifier: Apache-2.0
//! Sending and receiving the bytes of one direction, the same at both ends.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::net::TcpStream;

use super::script::Pattern;
use super::seen::Seen;

/// Bytes that a slow reader takes at a time.
const SIP: usize = 512;
/// A slow reader pauses after each of its first reads; this many.
const SIPS: u32 = 50;
/// The pause of a slow reader.
const REST: Duration = Duration::from_millis(2);

/// One direction.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    /// Number of the stream, which selects its bytes.
    pub(super) number: u64,
    pub(super) length: u64,
    pub(super) stalls: bool,
    pub(super) slow: bool,
}

pub(super) async fn send(stream: &TcpStream, pattern: &Pattern, transfer: Transfer) -> io::Result<()> {
    let mut sent = 0;
    while sent < transfer.length {
        let bytes = pattern.from(transfer.number, sent);
        let left = usize::try_from(transfer.length - sent).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(left)];
        write_all(stream, bytes).await?;
        if transfer.stalls && sent <= transfer.length / 2 {
            tokio::time::sleep(REST * 10).await;
        }
        sent += bytes.len() as u64;
    }
    Ok(())
}

/// Reads to the end and compares all bytes.
pub(super) async fn receive(stream: &TcpStream, pattern: &Pattern, transfer: Transfer) -> Seen {
    let mut buffer = vec![0; if transfer.slow { SIP } else { 64 << 10 }];
    let (mut received, mut sips) = (0u64, 0);
    loop {
        let count = match read_some(stream, &mut buffer).await {
            Ok(0) if received == transfer.length => return Seen::Complete,
            Ok(0) => return Seen::Torn(received),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Seen::Reset,
            Err(error) => return Seen::Wrong(error.to_string()),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let expected = pattern.from(transfer.number, received);
            let length = rest.len().min(expected.len());
            if rest[..length] != expected[..length] {
                return Seen::Wrong(format!("bytes differ from what was sent, at {received} or after"));
            }
            received += length as u64;
            rest = &rest[length..];
        }
        if transfer.slow && sips < SIPS {
            sips += 1;
            tokio::time::sleep(REST).await;
        } else if transfer.slow && buffer.len() == SIP {
            buffer = vec![0; 64 << 10];
        }
    }
}

pub(super) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) async fn read_some(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Makes the kernel ask the other end each second whether it is still there. A reset that is lost is not repeated (RFC
/// 9293, 3.10.7), and the rings of veth pairs with XDP lose packets under load: without this, the other end of such a
/// connection would stay open.
pub(super) fn keep_alive(stream: &TcpStream) {
    let second = Duration::from_secs(1);
    let pace = socket2::TcpKeepalive::new().with_time(second).with_interval(second);
    // Fails only if the connection is gone already.
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&pace);
}

/// Closes the connection with a reset.
pub(super) fn reset(stream: TcpStream) {
    // Fails only if the connection is gone already.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
