// SPDX-License-Identifier: Apache-2.0
//! The flags and limits of the relay, and their defaults.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::count::{parse_count, parse_most_open};
use super::datapath::Datapath;
use super::duration::{parse_duration, parse_limit};

/// The raw flags of the relay.
#[derive(Debug, Args)]
pub(super) struct RelayArgs {
    /// Most TCP connections at one time, over all Services; further ones are reset
    #[arg(long, value_name = "N", default_value = "16384", value_parser = parse_most_open)]
    max_connections: NonZeroUsize,

    /// Most UDP sessions at one time, over all Services; datagrams of further ones are dropped
    #[arg(long, value_name = "N", default_value = "16384", value_parser = parse_most_open)]
    max_udp_sessions: NonZeroUsize,

    /// Most that the Services of one namespace can have of the open files, of --max-connections and of
    /// --max-udp-sessions, in percent; further connections and listeners of the namespace are refused
    #[arg(long, value_name = "PERCENT", default_value_t, value_parser = parse_share)]
    namespace_share: NamespaceShare,

    /// How long to wait for a connection to one backend before trying the next one
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_limit)]
    connect_timeout: Duration,

    /// Reset a TCP connection after this time without data in either direction
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_limit)]
    tcp_idle_timeout: Duration,

    /// End a TCP connection if sent data is not acknowledged within this time [default: net.ipv4.tcp_retries2]
    ///
    /// This also ends connections whose peer pauses reading for this time. The default, the kernel's limit, does not.
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    tcp_user_timeout: Option<Duration>,

    /// End a UDP session after this time without a datagram in either direction
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_limit)]
    udp_idle_timeout: Duration,

    /// How long old connections may continue after their Service or port was removed, or the agent was stopped
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = parse_duration)]
    drain_timeout: Duration,

    /// Number of relay threads [default: one for each core, at most 16]
    ///
    /// Each thread has a listening socket for each frontend.
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroUsize>)]
    workers: Option<NonZeroUsize>,

    /// Move bulk data with splice(2); false: copy all data
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    splice: bool,

    /// With --datapath sockmap: small reads in a row after which the kernel moves a connection's data
    ///
    /// Bulk data in between starts the count again.
    #[arg(long, value_name = "N", default_value = "32")]
    sockmap_after_reads: u32,

    /// With --datapath sockmap: most connections at one time whose data the kernel moves [default: --max-connections]
    ///
    /// Further connections are relayed in user space.
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroUsize>)]
    sockmap_max_pairs: Option<NonZeroUsize>,
}

impl RelayArgs {
    pub(super) fn into_config(self, datapath: Datapath) -> RelayConfig {
        RelayConfig {
            drain_timeout: self.drain_timeout,
            connect_timeout: self.connect_timeout,
            tcp_idle_timeout: self.tcp_idle_timeout,
            tcp_user_timeout: self.tcp_user_timeout,
            udp_idle_timeout: self.udp_idle_timeout,
            max_connections: self.max_connections,
            max_udp_sessions: self.max_udp_sessions,
            namespace_share: self.namespace_share,
            workers: self.workers.unwrap_or_else(default_workers),
            splice: self.splice,
            sockmap: (datapath == Datapath::Sockmap).then_some(SockmapConfig {
                after_reads: self.sockmap_after_reads,
                max_pairs: self.sockmap_max_pairs.unwrap_or(self.max_connections),
            }),
        }
    }
}

/// The limits of the relay. They hold for all its frontends together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// For one attempt to connect to one backend.
    pub connect_timeout: Duration,
    /// How long connections of a removed frontend may continue.
    pub drain_timeout: Duration,
    /// A TCP connection is reset after this time without a byte in either direction.
    pub tcp_idle_timeout: Duration,
    /// A TCP connection ends if data is not acknowledged for this time; `None`: the kernel decides.
    pub tcp_user_timeout: Option<Duration>,
    /// A UDP session ends after this time without a datagram in either direction.
    pub udp_idle_timeout: Duration,
    /// TCP connections open at one time; each takes two file descriptors.
    pub max_connections: NonZeroUsize,
    /// UDP sessions open at one time; each takes one file descriptor and one
    /// local port.
    pub max_udp_sessions: NonZeroUsize,
    /// The part of the open files, connections and sessions that one namespace can have.
    pub namespace_share: NamespaceShare,
    /// The number of relay threads.
    pub workers: NonZeroUsize,
    /// Bulk data is spliced, not copied.
    pub splice: bool,
    /// When the kernel moves the data of connections; `None`: never.
    pub sockmap: Option<SockmapConfig>,
}

/// A part of a limit, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceShare(u8);

impl NamespaceShare {
    /// This part of `amount`, at least 1.
    pub fn of(self, amount: usize) -> usize {
        let part = amount as u128 * u128::from(self.0) / 100;
        usize::try_from(part).unwrap_or(usize::MAX).max(1)
    }
}

impl Default for NamespaceShare {
    /// A half: a tenant can't leave the others without anything, and still has most of what is there.
    fn default() -> Self {
        Self(50)
    }
}

impl fmt::Display for NamespaceShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn parse_share(text: &str) -> Result<NamespaceShare, String> {
    let percent = text.parse().ok().filter(|percent| (1..=100).contains(percent));
    percent
        .map(NamespaceShare)
        .ok_or_else(|| "give a whole number from 1 to 100; it is in percent".to_owned())
}

/// When the kernel takes over moving the data of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockmapConfig {
    /// After this many small reads of the relay in a row.
    pub after_reads: u32,
    /// Connections at one time; further ones are relayed in user space.
    pub max_pairs: NonZeroUsize,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            // A lost SYN is repeated after 1 s (RFC 6298), so one may be lost. A client
            // still waits long enough for an attempt with a second backend.
            connect_timeout: Duration::from_secs(3),
            // Kubernetes kills a Pod 30 s after SIGTERM; the agent must be done before.
            drain_timeout: Duration::from_secs(25),
            // The limit of Linux' connection tracking (`nf_conntrack_tcp_timeout_established`)
            // as kube-proxy sets it. Applications do not expect an earlier end.
            tcp_idle_timeout: Duration::from_secs(24 * 60 * 60),
            tcp_user_timeout: None,
            // Linux forgets a UDP flow after 30 s if only one side sent, and after 120 s
            // if both did. A session does not know which it is, so the value is between them.
            udp_idle_timeout: Duration::from_secs(60),
            // Together with the sessions these take 49152 file descriptors, fewer than the
            // usual limit of 65536. If every connection is stuck in both directions, they
            // take at most 512 MiB of buffers.
            max_connections: const { NonZeroUsize::new(16_384).expect("not 0") },
            // There are 28232 local ports (`net.ipv4.ip_local_port_range`). Others on this
            // machine need the rest.
            max_udp_sessions: const { NonZeroUsize::new(16_384).expect("not 0") },
            namespace_share: NamespaceShare::default(),
            workers: default_workers(),
            splice: true,
            sockmap: None,
        }
    }
}

/// One for each core that this process may use, but at most 16: each worker has a
/// listening socket for each frontend, and with more than 16 workers these cost more
/// than another thread gains.
fn default_workers() -> NonZeroUsize {
    const MOST: NonZeroUsize = NonZeroUsize::new(16).expect("not 0");
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(MOST)
}
