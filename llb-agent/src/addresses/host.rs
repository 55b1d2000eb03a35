// SPDX-License-Identifier: Apache-2.0
//! What this machine itself needs, read anew each time: gateways, name servers,
//! addresses on other links, and the ports of its own connections. Also to which Pods
//! it has no route.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::Path;

use rtnetlink::packet_route::address::AddressMessage;
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketType, socket};
use tokio::sync::watch;

use super::message;
use crate::model::{Host, ReservedFor};
use crate::netlink::{Connection, LinkDevice, Route};

/// Where name servers are listed. The second file has the servers behind the local
/// stub of systemd-resolved, which is all that the first one names then.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

const EPHEMERAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// kube-proxy in mode ipvs puts every published VIP on this link. These are not
/// addresses of the machine, although it is a Node.
const KUBE_IPVS: &str = "kube-ipvs0";

/// The addresses of the Kubernetes API, which the machine does not tell, as they are at any time.
pub(super) type ApiServers = watch::Receiver<BTreeMap<IpAddr, ReservedFor>>;

/// An address for each family that no host has (RFC 6666, RFC 5737): the way to it is the default route.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 0)), IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0))];

/// The addresses of links with these numbers, by the links' names. A link that is gone by now is left out.
pub(super) fn addresses_by_link(links: &BTreeMap<u32, Vec<AddressMessage>>) -> Vec<(String, IpAddr)> {
    let Ok(any_socket) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return Vec::new() };
    let named =
        links.iter().filter_map(|(&index, here)| Some((index_to_name(&any_socket, index).ok()?, here)));
    let addresses = named.flat_map(|(name, here)| {
        let nets = here.iter().filter_map(message::net);
        nets.map(move |net| (name.clone(), net.addr()))
    });
    addresses.collect()
}

/// `other_links`: the addresses of links that are no link devices, by the name of the link.
///
/// # Errors
/// The kernel did not answer.
pub(super) async fn read(
    connection: &mut Connection,
    link_devices: &[LinkDevice],
    other_links: &[(String, IpAddr)],
    api_servers: &ApiServers,
    pods: BTreeSet<IpAddr>,
) -> io::Result<Host> {
    let mut reserved = BTreeMap::new();
    let others = other_links.iter().filter(|(name, _)| name != KUBE_IPVS);
    reserved.extend(others.map(|(name, address)| (*address, ReservedFor::Link(name.clone()))));
    for file in RESOLVER_FILES {
        reserved
            .extend(resolvers(Path::new(file)).into_iter().map(|address| (address, ReservedFor::Resolver)));
    }
    for address in ELSEWHERE {
        for link in link_devices {
            if let Some((gateway, _)) = connection.gateway(link.ifindex, address).await? {
                reserved.insert(gateway, ReservedFor::Gateway);
            }
        }
        if let Route::Via(way) = connection.route(address).await?
            && let Some(gateway) = way.gateway
        {
            reserved.insert(gateway, ReservedFor::Gateway);
        }
    }
    reserved.extend(api_servers.borrow().iter().map(|(address, what)| (*address, what.clone())));
    let mut unrouted_pods = BTreeSet::new();
    for pod in pods {
        if !connection.has_own_route(pod).await? {
            unrouted_pods.insert(pod);
        }
    }
    Ok(Host { reserved, ephemeral_ports: ephemeral_ports(Path::new(EPHEMERAL_PORTS)), unrouted_pods })
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
