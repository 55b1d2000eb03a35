// SPDX-License-Identifier: Apache-2.0
//! The data planes that the scenarios run on. Which flags choose one, and what it
//! needs of a lab, is known only here.

use aya::Ebpf;
use llb_tests::{Lab, object};

/// A way of forwarding.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plane {
    /// Bytes are copied in user space.
    Userspace,
    /// Packets are rewritten at TC.
    Tc,
    /// In the driver of the veth pair.
    XdpNative,
    /// Behind the driver.
    XdpGeneric,
    /// The kernel moves bytes from socket to socket, from the first one on.
    Sockmap,
}

/// Keeps what a plane needs of a lab.
pub(crate) struct Prepared {
    _programs: Vec<Ebpf>,
}

impl Plane {
    /// The agent's arguments that force this plane.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Userspace => &["--userspace"],
            Self::Tc => &["--datapath", "tc"],
            Self::XdpNative => &["--datapath", "xdp"],
            Self::XdpGeneric => &["--datapath", "xdp", "--xdp-mode", "generic"],
            Self::Sockmap => &["--datapath=sockmap", "--sockmap-after-reads=0"],
        }
    }

    /// The plane that `/state` names for a Service that any plane can serve.
    pub(crate) fn name(self, protocol: &str) -> &'static str {
        match self {
            // The kernel moves streams; datagrams are relayed.
            Self::Sockmap if protocol == "TCP" => "sockmap",
            Self::Userspace | Self::Sockmap => "userspace",
            Self::Tc | Self::XdpNative | Self::XdpGeneric => "packet",
        }
    }

    /// Makes a lab fit for it. A veth pair with XDP in its driver is no whole
    /// network card: it leaves checksums to a card that is not there, and what XDP
    /// sends back arrives only if the other end has an XDP program too. And XDP
    /// behind the driver can't tell many segments in one from one that is too big.
    pub(crate) fn prepare(self, lab: &mut Lab) -> Prepared {
        let mut programs = Vec::new();
        if matches!(self, Self::XdpNative | Self::XdpGeneric) {
            lab.without_offload().unwrap();
        }
        if matches!(self, Self::XdpNative) {
            programs.push(lab.inside_segment(|| object::pass_at(lab.balancer().name())).unwrap().unwrap());
        }
        Prepared { _programs: programs }
    }
}
