// SPDX-License-Identifier: Apache-2.0
//! The limits of the relay, and their defaults.

use std::num::NonZeroUsize;
use std::time::Duration;

/// The limits of the proxy plane. They hold for all its frontends together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// For one attempt to connect to one backend.
    pub connect_timeout: Duration,
    /// How long connections of a removed frontend may go on.
    pub drain_timeout: Duration,
    /// Without a byte in either direction for so long, a TCP connection is reset.
    pub tcp_idle_timeout: Duration,
    /// Data unacknowledged for so long ends a TCP connection; absent: as the kernel says.
    pub tcp_user_timeout: Option<Duration>,
    /// Without a datagram in either direction for so long, a UDP session ends.
    pub udp_idle_timeout: Duration,
    /// TCP connections open at one time; each takes two file descriptors.
    pub max_connections: NonZeroUsize,
    /// UDP sessions open at one time; each takes one file descriptor and one
    /// local port.
    pub max_udp_sessions: NonZeroUsize,
    /// Threads that relay.
    pub workers: NonZeroUsize,
    /// Bulk data is spliced, not copied.
    pub splice: bool,
    /// Absent: all bytes are moved in user space.
    pub sockmap: Option<SockmapConfig>,
}

/// When the kernel goes on with the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockmapConfig {
    /// After so many small reads of the relay.
    pub after_reads: u32,
    /// Connections at one time; all others are relayed in user space.
    pub max_pairs: NonZeroUsize,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            // Room for one lost SYN, which is repeated after 1 s (RFC 6298), and still
            // time for a second backend before a client loses patience.
            connect_timeout: Duration::from_secs(3),
            // Kubernetes kills a pod 30 s after SIGTERM; be done before.
            drain_timeout: Duration::from_secs(25),
            // Linux' connection tracking (`nf_conntrack_tcp_timeout_established`) as
            // kube-proxy sets it; ending connections sooner would surprise.
            tcp_idle_timeout: Duration::from_secs(24 * 60 * 60),
            tcp_user_timeout: None,
            // Linux forgets a one-sided UDP flow after 30 s and a two-sided one after
            // 120 s; one value between them, since a session can't tell which it is.
            udp_idle_timeout: Duration::from_secs(60),
            // With the sessions 49152 file descriptors, below the usual 65536; at most
            // 512 MiB of buffers if every connection is stuck in both directions.
            max_connections: const { NonZeroUsize::new(16_384).expect("not 0") },
            // More than half of the 28232 local ports (`net.ipv4.ip_local_port_range`)
            // would leave too few for everybody else.
            max_udp_sessions: const { NonZeroUsize::new(16_384).expect("not 0") },
            workers: default_workers(),
            splice: true,
            sockmap: None,
        }
    }
}

/// One for each core that this process may use; beyond 16 the listening sockets
/// (one for each worker and frontend) cost more than another thread brings.
pub(super) fn default_workers() -> NonZeroUsize {
    const MOST: NonZeroUsize = NonZeroUsize::new(16).expect("not 0");
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(MOST)
}
