// SPDX-License-Identifier: Apache-2.0
//! The checks of `llb-agent doctor`: the name of each, what it looks at, and why that matters. Names never change. What a
//! check has found is in `finding.rs`.

use std::fmt;

use serde::{Serialize, Serializer};

/// One check. It can have several findings, for instance one for each link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckId {
    /// Capabilities.
    Rights,
    /// Its release.
    Kernel,
    /// Maps and programs.
    KernelBpf,
    /// BTF.
    KernelBtf,
    /// XDP programs.
    KernelXdp,
    /// tcx links.
    KernelTcx,
    /// Sockmap.
    KernelSockmap,
    /// The mark on addresses.
    KernelIfaProto,
    /// The programs in the binary.
    Programs,
    /// The file system of pins.
    Bpffs,
    /// RLIMIT_MEMLOCK.
    Memlock,
    /// RLIMIT_NOFILE.
    OpenFiles,
    /// The state folder.
    StateDir,
    /// The loopback link.
    Loopback,
    /// The link exists.
    Link,
    /// The link is up and has a carrier.
    LinkCarrier,
    /// The link is no port of another one.
    LinkPort,
    /// The hook that it gets.
    LinkXdp,
    /// Its MTU.
    LinkMtu,
    /// What the card merges.
    LinkOffloads,
    /// Other agents.
    OtherAgent,
    /// Reverse path filter.
    RpFilter,
    /// Forwarding of the kernel.
    IpForward,
    /// Pools and subnets.
    PoolSubnet,
    /// Pools and addresses in use.
    PoolReserved,
    /// Other hosts.
    AddressConflict,
    /// The API server, or the manifests.
    Source,
    /// Rights in the cluster.
    ApiRights,
    /// The clock.
    Clock,
    /// kube-proxy of the Nodes.
    KubeProxy,
    /// Nodes answer.
    Nodes,
    /// A nodePort answers.
    NodePort,
    /// Protection against spoofing.
    AntiSpoofing,
}

/// Each check with its name, what it looks at, and why that matters, in the order in which they are shown. Names do not
/// change in later versions.
const TEXTS: [(CheckId, &str, &str, &str); 33] = [
    (
        CheckId::Rights,
        "rights",
        "the capabilities of the process",
        "the kernel refuses what the process has no right for",
    ),
    (CheckId::Kernel, "kernel", "the release of the kernel", "the packet plane needs Linux 5.15"),
    (
        CheckId::KernelBpf,
        "kernel-bpf",
        "whether eBPF maps can be made",
        "without them there is no packet plane: every connection is relayed, and Nodes see this \
                 machine's address",
    ),
    (
        CheckId::KernelBtf,
        "kernel-btf",
        "type information (BTF) of maps and programs",
        "the packet programs are not loaded without it",
    ),
    (
        CheckId::KernelXdp,
        "kernel-xdp",
        "XDP programs, which the packet plane uses since Linux 5.18",
        "packets are forwarded at TC instead, which costs more CPU time for each packet",
    ),
    (
        CheckId::KernelTcx,
        "kernel-tcx",
        "tcx links, by which programs are attached at TC",
        "without them, a filter of the clsact qdisc is used, which other programs may remove",
    ),
    (
        CheckId::KernelSockmap,
        "kernel-sockmap",
        "maps of sockets, with --datapath sockmap",
        "the relay moves all bytes itself, which costs more CPU time for each byte",
    ),
    (
        CheckId::KernelIfaProto,
        "kernel-ifa-proto",
        "the mark by which the kernel knows the addresses of llb",
        "llb keeps the list of its addresses in a file, which must survive a restart",
    ),
    (
        CheckId::Programs,
        "programs",
        "whether this llb-agent contains the packet programs",
        "without them every connection is relayed",
    ),
    (
        CheckId::Bpffs,
        "bpffs",
        "the file system of --bpf-dir",
        "programs that are not pinned there end with the agent, so there is no packet plane",
    ),
    (
        CheckId::Memlock,
        "memlock",
        "the limit of locked memory (RLIMIT_MEMLOCK)",
        "before Linux 5.11 it limits eBPF maps, and those of llb take tens of megabytes",
    ),
    (
        CheckId::OpenFiles,
        "open-files",
        "the hard limit of open files (RLIMIT_NOFILE)",
        "a relayed connection takes two, a UDP session one; further ones are refused",
    ),
    (
        CheckId::StateDir,
        "state-dir",
        "the folder of --state-dir",
        "it has what must survive a restart, and its lock; without it the agent does not start",
    ),
    (
        CheckId::Loopback,
        "loopback",
        "whether the loopback link is up",
        "the admin endpoint and the relay use 127.0.0.1; without it the agent does not start",
    ),
    (
        CheckId::Link,
        "link",
        "whether each --linkdevice exists",
        "VIPs are added to it; the agent waits for it under systemd, and does not start without it otherwise",
    ),
    (
        CheckId::LinkCarrier,
        "link-carrier",
        "whether the link is up and has a carrier",
        "nobody can reach VIPs on it",
    ),
    (
        CheckId::LinkPort,
        "link-port",
        "whether the link is a port of a bond, a bridge or a VRF",
        "frames that a port receives belong to the link above it",
    ),
    (
        CheckId::LinkXdp,
        "link-xdp",
        "the hook that the link gets, and what its driver says about XDP",
        "at XDP, packets are forwarded before the kernel's stack sees them, which costs the least",
    ),
    (
        CheckId::LinkMtu,
        "link-mtu",
        "the MTU, if XDP is tried",
        "many drivers take no XDP program if a frame does not fit into one page",
    ),
    (
        CheckId::LinkOffloads,
        "link-offloads",
        "LRO, and hardware GRO if XDP is tried",
        "what a card has put together may not be forwarded, and drivers refuse XDP with it",
    ),
    (
        CheckId::OtherAgent,
        "other-agent",
        "whether another llb-agent has the link, or another program its XDP hook",
        "two agents on one link undo each other's work, and an XDP hook has one program",
    ),
    (
        CheckId::RpFilter,
        "rp-filter",
        "the reverse path filter of the link (net.ipv4.conf.LINK.rp_filter)",
        "if it is strict, the kernel drops packets of clients to which another link leads",
    ),
    (
        CheckId::IpForward,
        "ip-forward",
        "forwarding of the kernel, which llb needs only for --return-path routes",
        "the kernel tells packet programs no routes if it is off for lo",
    ),
    (
        CheckId::PoolSubnet,
        "pool-subnet",
        "whether pools are in subnets of the links; with --announce routed, whether they are in none",
        "a VIP outside all subnets needs a route to this machine; inside a subnet, routers ask for it by ARP",
    ),
    (
        CheckId::PoolReserved,
        "pool-reserved",
        "addresses of pools that this machine, its gateway, the API server or Nodes have",
        "llb never gives them to Services, so the pool is smaller than it looks",
    ),
    (
        CheckId::AddressConflict,
        "address-conflict",
        "whether other hosts have addresses of pools, by ARP and NDP",
        "two hosts with one address take each other's packets; llb does not use such an address",
    ),
    (
        CheckId::Source,
        "source",
        "whether the Kubernetes API answers, or the manifests can be read",
        "from there llb knows what to serve",
    ),
    (
        CheckId::ApiRights,
        "api-rights",
        "the rights of llb's user in the cluster, one by one",
        "the API server refuses what the user has no right for",
    ),
    (
        CheckId::Clock,
        "clock",
        "this machine's clock against that of the API server",
        "certificates and tokens count as expired or not yet valid, and logs do not fit together",
    ),
    (
        CheckId::KubeProxy,
        "kube-proxy",
        "mode and strictARP in the ConfigMap kube-system/kube-proxy",
        "in mode ipvs without strictARP, Nodes answer ARP for VIPs, and take their packets",
    ),
    (
        CheckId::Nodes,
        "nodes",
        "whether Nodes answer, by TCP",
        "a Node that can't be reached serves no client",
    ),
    (
        CheckId::NodePort,
        "node-port",
        "whether a nodePort of a Service that llb serves takes connections on the Nodes",
        "llb sends clients there",
    ),
    (
        CheckId::AntiSpoofing,
        "anti-spoofing",
        "with --try-address: whether a neighbour believes that the address is here",
        "switches and hypervisors may drop frames from addresses that they do not know, and so those of VIPs",
    ),
];

impl CheckId {
    /// All, in the order in which they are shown.
    pub fn all() -> impl Iterator<Item = Self> {
        TEXTS.iter().map(|(check, ..)| *check)
    }

    /// Its name in the output.
    pub const fn name(self) -> &'static str {
        TEXTS[self as usize].1
    }

    /// What it looks at.
    pub const fn looks_at(self) -> &'static str {
        TEXTS[self as usize].2
    }

    /// Why that matters.
    pub const fn why(self) -> &'static str {
        TEXTS[self as usize].3
    }
}

impl fmt::Display for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for CheckId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_there_once_and_in_the_order_of_the_checks() {
        let mut names: Vec<&str> = CheckId::all().map(CheckId::name).collect();
        assert!(CheckId::all().enumerate().all(|(place, check)| check as usize == place));
        assert!(names.iter().all(|name| name.len() <= 16), "the table has 16 columns for them");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TEXTS.len());
    }
}
