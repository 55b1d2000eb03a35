// SPDX-License-Identifier: Apache-2.0
//! A lab: hosts as network namespaces, joined by one bridge ("the segment") that has a namespace of its own.
//! The tests decide what the hosts do.
//!
//! A green test in a lab does not prove that llb works with real network cards, switches and several kernels.
//! All hosts share one kernel and its tables; links are veth pairs, which lose nothing, delay nothing and
//! offload in their own way; nobody but the test sends anything.

mod host;
mod namespace;
mod pod;
mod tunnel;

pub use host::{BRIDGE, Host};
pub use namespace::{clean_up_on_signal, remove_all};
pub use pod::PodNetwork;
pub use tunnel::{connect as connect_by_tunnel, open_tap};

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

/// The hosts of [`Lab::new`], each with the last number of its addresses.
const DEFAULT_HOSTS: [(&str, u8); 4] = [("client", 10), ("balancer", 20), ("node-1", 31), ("node-2", 32)];

/// The last numbers of the addresses of added hosts, in the order in which they are given.
const ADDED_HOSTS: [RangeInclusive<u8>; 2] = [40..=99, 200..=253];

/// Addresses from this last number on are free for VIPs, 100 of them.
const FIRST_VIP: u8 = 100;

/// The longest name of a link (IFNAMSIZ). Each host's port on the bridge has the host's name.
const MAX_NAME_LENGTH: usize = 15;

/// Hosts on one segment. Dropping it ends every process in them and removes everything, also after a panic.
/// Several labs can exist at the same time, with the same addresses.
#[derive(Debug)]
pub struct Lab {
    name: String,
    segment: String,
    hosts: BTreeMap<String, Host>,
    added_hosts: usize,
    has_offload: bool,
    directory: PathBuf,
}

impl Lab {
    /// The usual lab: `client`, `balancer`, `node-1`, `node-2`.
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
        // Snooping would drop neighbour discovery for hosts that have not joined the group yet. A forward delay
        // would drop all packets of the first seconds.
        namespace::ip(
            Some(&lab.segment),
            &format!(
                "link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0\nlink set {BRIDGE} up\n"
            ),
        )?;
        Ok(lab)
    }

    /// `llb-<pid>-<number>`, with which the names of all its namespaces begin. It is unique on this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host with this name.
    ///
    /// # Panics
    /// There is no such host.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| {
            panic!("no host {name}; there are: {:?}", self.hosts.keys().collect::<Vec<_>>())
        })
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// Runs `work` on a new thread in the namespace of the bridge, in which each host's port has the host's
    /// name.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn inside_segment<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        namespace::run_inside(&namespace::path(&self.segment), work)
    }

    /// As [`Host::command`], in the namespace of the bridge.
    pub fn segment_command(&self, program: impl AsRef<OsStr>) -> Command {
        namespace::command(&namespace::path(&self.segment), program)
    }

    /// Runs lines of `ip` commands in the namespace of the bridge. Links that they add there and give the bridge as
    /// master are ports of the segment.
    ///
    /// # Errors
    /// `ip` refused one of the lines.
    pub fn segment_ip(&self, commands: &str) -> Result<()> {
        namespace::ip(Some(&self.segment), commands)
    }

    /// A device on the segment. Each write to the file puts one Ethernet frame there. VLAN tags in it arrive at the
    /// balancer in the frame, as from a card that leaves them there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open_segment(&self, name: &str) -> Result<fs::File> {
        let tap = self.inside_segment(|| {
            let keep_tags = ["-K", self.balancer().name(), "txvlan", "off"];
            let status = Command::new("ethtool").args(keep_tags).status().context("cannot start ethtool")?;
            ensure!(status.success(), "ethtool {}: {status}", keep_tags.join(" "));
            open_tap(name).context("cannot open a tap device")
        })??;
        namespace::ip(Some(&self.segment), &format!("link set {name} master {BRIDGE} up\n"))?;
        Ok(tap)
    }

    /// From now on each host computes its checksums itself, as without a network card that does it.
    ///
    /// # Errors
    /// `ethtool` failed.
    pub fn without_offload(&mut self) -> Result<()> {
        self.has_offload = false;
        self.hosts().try_for_each(Host::turn_offload_off)
    }

    /// The host of the agent.
    pub fn balancer(&self) -> &Host {
        self.host("balancer")
    }

    /// The host that sends the requests.
    pub fn client(&self) -> &Host {
        self.host("client")
    }

    /// Adds a host with the next free addresses.
    ///
    /// # Errors
    /// The name is taken or longer than 15 bytes, or `ip` failed.
    pub fn add_host(&mut self, name: &str) -> Result<Host> {
        let mut numbers = ADDED_HOSTS.into_iter().flatten();
        let number = numbers.nth(self.added_hosts).context("the lab has no addresses for more hosts")?;
        self.create_host(name, number)?;
        self.added_hosts += 1;
        Ok(self.host(name).clone())
    }

    /// The IPv4 address for the VIP number `index`. No host has it.
    ///
    /// # Panics
    /// `index` is above 99.
    pub fn vip(&self, index: u8) -> IpAddr {
        assert!(index < 100, "the lab's VIPs are number 0 to 99");
        IpAddr::V4(ipv4(FIRST_VIP + index))
    }

    /// The IPv6 address for the VIP number `index`. No host has it.
    ///
    /// # Panics
    /// `index` is above 99.
    pub fn vip_v6(&self, index: u8) -> IpAddr {
        assert!(index < 100, "the lab's VIPs are number 0 to 99");
        IpAddr::V6(ipv6(FIRST_VIP + index))
    }

    /// An IPv4 address of the segment that nobody ever has: packets to it get no answer.
    pub fn black_hole(&self) -> Ipv4Addr {
        ipv4(254)
    }

    /// An IPv6 address like [`Lab::black_hole`].
    pub fn black_hole_v6(&self) -> Ipv6Addr {
        ipv6(254)
    }

    /// A folder for logs and the test's files. It is removed with the lab.
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
            // From the unicast range for documentation (RFC 9542, section 2.1.4).
            mac: [0x00, 0x00, 0x5e, 0x00, 0x53, number],
            directory: self.directory.clone(),
        };
        namespace::create(&host.namespace)?;
        // From here on the lab knows it, and removes it even if the rest fails.
        self.hosts.insert(name.to_owned(), host.clone());
        host.run_inside(set_sysctls)??;
        host.add_link()?;
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

/// Runs inside a host's namespace before the host has a link.
fn set_sysctls() -> Result<()> {
    for (path, value) in [
        // Without duplicate address detection an address can be used at once.
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
        // Only addresses that the lab has given.
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

/// The documentation prefix (RFC 3849). The last group shows `number` in decimal digits, so both addresses of a
/// host end alike.
fn ipv6(number: u8) -> Ipv6Addr {
    let digits = number.to_string();
    let last = u16::from_str_radix(&digits, 16).unwrap_or_default();
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}
