// SPDX-License-Identifier: Apache-2.0
//! A lab: hosts as network namespaces, joined by one bridge ("the segment")
//! that lives in a namespace of its own. What the hosts do is not decided here.

mod host;
mod namespace;

pub use host::Host;
pub use namespace::remove_all;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

/// The hosts of [`Lab::new`] with the last number of their addresses.
const DEFAULT_HOSTS: [(&str, u8); 4] = [("client", 10), ("balancer", 20), ("node-1", 31), ("node-2", 32)];

/// The last number of the first added host; they end before [`FIRST_VIP`].
const FIRST_ADDED_HOST: u8 = 40;

/// From here on, addresses are free for VIPs.
const FIRST_VIP: u8 = 100;

/// The bridge's name inside the segment's namespace.
const BRIDGE: &str = "segment";

/// Link names end here (IFNAMSIZ), and each host's port on the bridge has its name.
const MAX_NAME_LENGTH: usize = 15;

/// Hosts on one segment. Dropping it ends every process inside and removes
/// everything. Several can exist at once, with the same addresses.
#[derive(Debug)]
pub struct Lab {
    name: String,
    segment: String,
    hosts: BTreeMap<String, Host>,
    added_hosts: u8,
    has_offload: bool,
    directory: PathBuf,
}

impl Lab {
    /// The default lab: `client`, `balancer`, `node-1`, `node-2`.
    ///
    /// # Errors
    /// Not root, or `ip` failed.
    pub fn new() -> Result<Self> {
        let mut lab = Self::empty()?;
        for (name, number) in DEFAULT_HOSTS {
            lab.create_host(name, number)?;
        }
        Ok(lab)
    }

    /// A segment without hosts.
    ///
    /// # Errors
    /// Not root, or `ip` failed.
    pub fn empty() -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        ensure!(
            rustix::process::geteuid().is_root(),
            "a lab needs root, to create network namespaces: run it with sudo"
        );
        namespace::sweep_dead();
        let name = namespace::lab_name(NUMBER.fetch_add(1, Ordering::Relaxed));
        let segment = format!("{name}-segment");
        let directory = namespace::create_directory(&name)?;
        let lab =
            Self { name, segment, hosts: BTreeMap::new(), added_hosts: 0, has_offload: true, directory };
        namespace::create(&lab.segment)?;
        // Snooping would drop neighbour discovery of hosts that did not join
        // the group yet; a forward delay would eat the first seconds.
        namespace::ip(
            Some(&lab.segment),
            &format!(
                "link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0\nlink set {BRIDGE} up\n"
            ),
        )?;
        Ok(lab)
    }

    /// `llb-<pid>-<number>`: the start of the names of its namespaces. Unique
    /// on this machine, so also good for a directory of pinned eBPF maps.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host of this name.
    ///
    /// # Panics
    /// There is none.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| {
            panic!("no host {name}; there are: {:?}", self.hosts.keys().collect::<Vec<_>>())
        })
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// Runs `work` on a new thread in the namespace of the bridge, where each
    /// host's port has the host's name.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn inside_segment<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        namespace::run_inside(&namespace::path(&self.segment), work)
    }

    /// From now on each host sums its own checksums, as one without a network card
    /// that does must.
    ///
    /// # Errors
    /// `ethtool` failed.
    pub fn without_offload(&mut self) -> Result<()> {
        self.has_offload = false;
        self.hosts().try_for_each(Host::turn_offload_off)
    }

    /// The host on which the agent runs.
    pub fn balancer(&self) -> &Host {
        self.host("balancer")
    }

    /// The host from which requests come.
    pub fn client(&self) -> &Host {
        self.host("client")
    }

    /// Adds a host with addresses of its own (the next free ones).
    ///
    /// # Errors
    /// The name is taken or longer than 15 bytes, or `ip` failed.
    pub fn add_host(&mut self, name: &str) -> Result<Host> {
        let number = FIRST_ADDED_HOST + self.added_hosts;
        ensure!(number < FIRST_VIP, "a lab has at most {} added hosts", FIRST_VIP - FIRST_ADDED_HOST);
        self.create_host(name, number)?;
        self.added_hosts += 1;
        Ok(self.host(name).clone())
    }

    /// The `index`-th address that no host has: for VIPs, IPv4.
    ///
    /// # Panics
    /// Above 99.
    pub fn vip(&self, index: u8) -> IpAddr {
        assert!(index < 100, "the lab's VIPs are number 0 to 99");
        IpAddr::V4(ipv4(FIRST_VIP + index))
    }

    /// The `index`-th address that no host has: for VIPs, IPv6.
    ///
    /// # Panics
    /// Above 99.
    pub fn vip_v6(&self, index: u8) -> IpAddr {
        assert!(index < 100, "the lab's VIPs are number 0 to 99");
        IpAddr::V6(ipv6(FIRST_VIP + index))
    }

    /// An address on the segment that nobody ever has: packets to it vanish.
    pub fn black_hole(&self) -> Ipv4Addr {
        ipv4(254)
    }

    /// As [`Lab::black_hole`], IPv6.
    pub fn black_hole_v6(&self) -> Ipv6Addr {
        ipv6(254)
    }

    /// Logs, and room for a test's files; removed with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn create_host(&mut self, name: &str, number: u8) -> Result<()> {
        ensure!(!self.hosts.contains_key(name), "there is a host {name} already");
        ensure!(name.len() <= MAX_NAME_LENGTH, "the host name {name} is longer than {MAX_NAME_LENGTH}");
        ensure!(name != BRIDGE, "{BRIDGE} is the name of the bridge");
        let host = Host {
            name: name.to_owned(),
            namespace: format!("{}-{name}", self.name),
            segment: self.segment.clone(),
            ipv4: ipv4(number),
            ipv6: ipv6(number),
            // The unicast range for documentation (RFC 9542 section 2.1.4).
            mac: [0x00, 0x00, 0x5e, 0x00, 0x53, number],
            directory: self.directory.clone(),
        };
        namespace::create(&host.namespace)?;
        // Known from here on, so that it is removed even if the rest fails.
        self.hosts.insert(name.to_owned(), host.clone());
        host.run_inside(set_sysctls)??;
        add_link(&host)?;
        if self.has_offload { Ok(()) } else { host.turn_offload_off() }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in self.hosts.values() {
            namespace::remove(&host.namespace);
        }
        namespace::remove(&self.segment);
        namespace::remove_directory(&self.directory);
    }
}

/// The link between a host and the segment, and the host's addresses on it.
fn add_link(host: &Host) -> Result<()> {
    let (name, link) = (&host.name, Host::LINK);
    let mac = host.mac.map(|byte| format!("{byte:02x}")).join(":");
    namespace::ip(
        Some(&host.segment),
        &format!(
            "link add {name} type veth peer name {link} address {mac} netns {}\nlink set {name} master {BRIDGE} up\n",
            host.namespace,
        ),
    )?;
    host.ip(&format!(
        "link set lo up\nlink set {link} up\naddr add {}/24 dev {link}\naddr add {}/64 dev {link} nodad\n",
        host.ipv4, host.ipv6,
    ))
}

/// Runs inside a host's namespace, before it has a link.
fn set_sysctls() -> Result<()> {
    for (path, value) in [
        // No duplicate address detection: an address is usable at once.
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
        // Only the addresses that the lab gives.
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/autoconf", "0"),
    ] {
        let path = Path::new("/proc/sys/net").join(path);
        fs::write(&path, value).with_context(|| format!("cannot set {}", path.display()))?;
    }
    Ok(())
}

/// TEST-NET-1 (RFC 5737).
fn ipv4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// The documentation prefix (RFC 3849); `number` in decimal digits, so that
/// both addresses of a host end alike.
fn ipv6(number: u8) -> Ipv6Addr {
    let digits = number.to_string();
    let last = u16::from_str_radix(&digits, 16).unwrap_or_default();
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}
