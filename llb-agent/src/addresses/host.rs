// SPDX-License-Identifier: Apache-2.0
//! What this machine itself needs: gateways, name servers, addresses of other links and at the other ends of
//! links, and the ports of its own connections. Also to which Pods it has no route.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use rtnetlink::packet_route::address::AddressMessage;
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketType, socket};
use tokio::sync::watch;

use super::message;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::model::{Host, ReservedFor};
use crate::netlink::{Connection, LinkDevice};
use crate::ownership::is_marker;

/// Where name servers are listed. The second file has the servers behind the local
/// stub of systemd-resolved, which is all that the first one names then.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

const EPHEMERAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// kube-proxy in mode ipvs puts every published VIP on this link. These are not
/// addresses of the machine, although it is a Node.
const KUBE_IPVS: &str = "kube-ipvs0";

/// `lo` has this number in every network namespace.
const LOOPBACK: u32 = 1;

/// Gateways that were read within this time count as those of now.
const ROUTES_LIFETIME: Duration = Duration::from_secs(1);
/// Reading a million routes takes a second or more. It may take this part of the time.
const ROUTES_SHARE: u32 = 20;

/// The addresses of the Kubernetes API, which the machine does not tell, as they are at any time.
pub(super) type ApiServers = watch::Receiver<BTreeMap<IpAddr, ReservedFor>>;

/// Reads what the machine needs, and knows what is not read each time.
#[derive(Debug)]
pub(super) struct HostReader {
    pub(super) api_servers: ApiServers,
    /// The addresses of all links that are no link devices, by the name of the link.
    other_links: Vec<(String, IpAddr)>,
    /// The addresses at the other ends of links, by the name of the link.
    peers: Vec<(String, IpAddr)>,
    markers: BTreeSet<Ipv4Addr>,
    /// See [`Host::silent_links`].
    pub(super) silent_links: BTreeSet<String>,
    gateways: Option<Gateways>,
}

/// The gateways of all routes.
#[derive(Debug)]
struct Gateways {
    addresses: BTreeSet<IpAddr>,
    fresh_until: Instant,
}

impl HostReader {
    pub(super) fn new() -> Self {
        let (_, api_servers) = watch::channel(BTreeMap::new());
        Self {
            api_servers,
            other_links: Vec::new(),
            peers: Vec::new(),
            markers: BTreeSet::new(),
            silent_links: BTreeSet::new(),
            gateways: None,
        }
    }

    /// Takes in the addresses of all links, by the number of the link. A link that is gone by now is left out. If no
    /// names can be read, because the process has too many files open, what was reserved before counts.
    pub(super) fn see(&mut self, links: &BTreeMap<u32, Vec<AddressMessage>>, link_devices: &[LinkDevice]) {
        // Before any name is read: if names can't be read, the markers must still be known, or the box would lose its shares.
        let on_loopback = links.get(&LOOPBACK).into_iter().flatten().filter_map(message::net);
        self.markers = on_loopback.filter_map(|net| marker_of(net.addr())).collect();
        let Ok(any_socket) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return };
        self.other_links.clear();
        self.peers.clear();
        let is_link_device = |index| link_devices.iter().any(|link| link.ifindex == index);
        for (&index, here) in links {
            let peers: Vec<IpAddr> = here.iter().filter_map(message::peer).collect();
            if is_link_device(index) && peers.is_empty() {
                continue;
            }
            let Ok(name) = index_to_name(&any_socket, index) else { continue };
            self.peers.extend(peers.into_iter().map(|peer| (name.clone(), peer)));
            if !is_link_device(index) && name != KUBE_IPVS {
                let addresses = here.iter().filter_map(message::net).map(|net| net.addr());
                let others = addresses.filter(|address| index != LOOPBACK || marker_of(*address).is_none());
                self.other_links.extend(others.map(|address| (name.clone(), address)));
            }
        }
    }

    /// The markers that were there when the links were read last.
    pub(super) fn markers(&self) -> &BTreeSet<Ipv4Addr> {
        &self.markers
    }

    /// # Errors
    /// The kernel did not answer.
    pub(super) async fn read(
        &mut self,
        connection: &mut Connection,
        pods: BTreeSet<IpAddr>,
    ) -> io::Result<Host> {
        let mut reserved = BTreeMap::new();
        reserved.extend(self.peers.iter().map(|(name, peer)| (*peer, ReservedFor::Peer(name.clone()))));
        let others = self.other_links.iter();
        reserved.extend(others.map(|(name, address)| (*address, ReservedFor::Link(name.clone()))));
        for file in RESOLVER_FILES {
            reserved.extend(
                resolvers(Path::new(file)).into_iter().map(|address| (address, ReservedFor::Resolver)),
            );
        }
        let gateways = self.gateways(connection).await?;
        reserved.extend(gateways.iter().map(|&address| (address, ReservedFor::Gateway)));
        reserved.extend(self.api_servers.borrow().iter().map(|(address, what)| (*address, what.clone())));
        let mut unrouted_pods = BTreeSet::new();
        for pod in pods {
            if !connection.has_own_route(pod).await? {
                unrouted_pods.insert(pod);
            }
        }
        Ok(Host {
            reserved,
            ephemeral_ports: ephemeral_ports(Path::new(EPHEMERAL_PORTS)),
            unrouted_pods,
            markers: self.markers.clone(),
            silent_links: self.silent_links.clone(),
        })
    }

    async fn gateways(&mut self, connection: &mut Connection) -> io::Result<&BTreeSet<IpAddr>> {
        let begin = clock::now_std();
        let known = match self.gateways.take() {
            Some(known) if begin < known.fresh_until => known,
            before => {
                let addresses = match (connection.gateways().await, before) {
                    (Ok(addresses), _) => addresses,
                    // Routes may change faster than they can be read.
                    (Err(error), Some(before)) => {
                        tracing::debug!(error = %ErrorChain(&error), "cannot read the routes; the known gateways count");
                        before.addresses
                    }
                    (Err(error), None) => return Err(error),
                };
                let end = clock::now_std();
                let lifetime = ROUTES_LIFETIME.max((end - begin) * ROUTES_SHARE);
                Gateways { addresses, fresh_until: end + lifetime }
            }
        };
        Ok(&self.gateways.insert(known).addresses)
    }
}

fn marker_of(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) if is_marker(address) => Some(address),
        _ => None,
    }
}

/// A file that is not there names no server.
fn resolvers(file: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        // A link-local address is followed by `%` and its link.
        let address = words.nth(1)?.split('%').next()?;
        line.starts_with("nameserver").then(|| address.parse().ok())?
    });
    servers.collect()
}

fn ephemeral_ports(file: &Path) -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    Some(numbers.next()?..=numbers.next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_those_of_lo_and_nothing_else_of_it() {
        let of = |index, net: &str| (index, vec![message::vip(index, net.parse().unwrap(), false)]);
        let mut reader = HostReader::new();
        let (marker, no_link) = ("127.86.0.4/32", u32::MAX >> 1);
        reader.see(&[of(LOOPBACK, marker), of(no_link, "127.86.0.5/32")].into(), &[]);
        assert_eq!(reader.markers(), &["127.86.0.4".parse().unwrap()].into());
        assert_eq!(reader.other_links, [], "a marker is no address that anything needs");
        reader.see(&[of(LOOPBACK, "127.0.0.1/8")].into(), &[]);
        assert_eq!(reader.markers(), &BTreeSet::new());
        assert_eq!(reader.other_links, [("lo".to_owned(), "127.0.0.1".parse().unwrap())]);
    }

    #[test]
    fn name_servers_are_read_from_their_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        std::fs::write(
            &file,
            "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.3\nnameserver fe80::1%eth0 # router\nnameserver\n",
        )
        .unwrap();
        let expected: [IpAddr; 2] = ["192.0.2.3".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(resolvers(&file), expected);
        assert_eq!(resolvers(&folder.path().join("gone")), [] as [IpAddr; 0]);
    }

    #[test]
    fn ephemeral_ports_have_two_ends() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("range");
        std::fs::write(&file, "32768\t60999\n").unwrap();
        assert_eq!(ephemeral_ports(&file), Some(32_768..=60_999));
        std::fs::write(&file, "32768\n").unwrap();
        assert_eq!(ephemeral_ports(&file), None);
    }
}
