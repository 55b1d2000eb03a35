// SPDX-License-Identifier: Apache-2.0
//! Smoothed times of a backend: how long connecting takes, and the round trip
//! time that the kernel measures.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

/// Weight of the newest value (alpha of RFC 6298, section 2).
const NEWEST_WEIGHT: f64 = 0.125;

/// A smoothed time in seconds; 0 until there is a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Smoothed(Gauge<f64, AtomicU64>);

impl Smoothed {
    /// Of two values at the same moment, one may be lost.
    pub(super) fn observe(&self, time: Duration) {
        let (old, new) = (self.0.get(), time.as_secs_f64());
        self.0.set(if old == 0.0 { new } else { old + (new - old) * NEWEST_WEIGHT });
    }

    pub(super) fn gauge(&self) -> &Gauge<f64, AtomicU64> {
        &self.0
    }
}

/// The round trip time of a connection, which the kernel smooths over all its
/// segments (TCP_INFO, tcp(7)).
///
/// # Errors
/// `socket` is not a TCP socket.
pub(super) fn round_trip(socket: impl AsFd) -> io::Result<Duration> {
    // An older kernel has fewer fields and fills only those.
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "neither socket2 nor rustix has TCP_INFO")]
    // SAFETY: `to` points to `info`, which lives through the call and has `length` bytes,
    // and the kernel writes no more than that. `info` was zeroed and consists of plain
    // integers, for which every bit pattern is valid, so it is initialized whatever the
    // kernel has written.
    let info = unsafe {
        let socket = socket.as_fd().as_raw_fd();
        let to = info.as_mut_ptr().cast();
        if libc::getsockopt(socket, libc::SOL_TCP, libc::TCP_INFO, to, &raw mut length) != 0 {
            return Err(io::Error::last_os_error());
        }
        info.assume_init()
    };
    Ok(Duration::from_micros(info.tcpi_rtt.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_counts_in_full_and_later_ones_an_eighth() {
        let smoothed = Smoothed::default();
        smoothed.observe(Duration::from_secs(8));
        assert_eq!(smoothed.gauge().get(), 8.0);
        smoothed.observe(Duration::from_secs(16));
        assert_eq!(smoothed.gauge().get(), 9.0);
    }

    #[test]
    fn only_a_tcp_socket_has_a_round_trip_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(round_trip(&stream).unwrap() > Duration::ZERO);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(round_trip(&udp).is_err());
    }
}
