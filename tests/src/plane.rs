// SPDX-License-Identifier: Apache-2.0
//! The data planes on which tests run. Only this file knows which flags force a plane, and what a plane needs
//! from a lab.

use anyhow::Result;
use aya::Ebpf;

use crate::{Lab, object};

/// One way to forward traffic.
#[derive(Clone, Copy, Debug)]
pub enum Plane {
    /// Bytes are copied in user space.
    Userspace,
    /// Packets are rewritten at TC.
    Tc,
    /// The same as on kernels without tcx: the program is a filter of the clsact qdisc.
    TcClsact,
    /// XDP in the driver of the veth pair.
    XdpNative,
    /// XDP behind the driver (generic mode).
    XdpGeneric,
    /// The kernel moves the bytes from socket to socket, from the first byte on.
    Sockmap,
    /// The same, with sockets that a program registers when they are established.
    SockOps,
}

/// Keeps alive what a plane needs in a lab.
#[derive(Debug, Default)]
pub struct Prepared {
    _programs: Vec<Ebpf>,
}

impl Plane {
    /// The agent's flags that force this plane.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Userspace => &["--userspace"],
            Self::Tc => &["--datapath", "tc"],
            Self::TcClsact => &["--datapath", "tc", "--tc-attach", "clsact"],
            Self::XdpNative => &["--datapath", "xdp"],
            Self::XdpGeneric => &["--datapath", "xdp", "--xdp-mode", "generic"],
            Self::Sockmap => &["--datapath=sockmap", "--sockmap-after-reads=0", "--sockmap-join=calls"],
            Self::SockOps => &["--datapath=sockmap", "--sockmap-after-reads=0", "--sockmap-join=sock-ops"],
        }
    }

    /// The plane that `/state` names for a Service that every plane can serve.
    pub fn name(self, protocol: &str) -> &'static str {
        match self {
            // Sockmap is for streams only; datagrams are relayed.
            Self::Sockmap | Self::SockOps if protocol == "TCP" => "sockmap",
            Self::Userspace | Self::Sockmap | Self::SockOps => "userspace",
            Self::Tc | Self::TcClsact | Self::XdpNative | Self::XdpGeneric => "packet",
        }
    }

    /// Changes a lab so that this plane works in it. A veth pair lacks what network cards do. With XDP in the
    /// driver, nobody computes the checksums that the sender left to a card, and packets that XDP sends back
    /// arrive only if the other end has an XDP program too. And XDP behind the driver cannot tell a packet that
    /// the kernel will cut into segments from one that is too large.
    ///
    /// # Errors
    /// The lab's links refused.
    pub fn prepare(self, lab: &mut Lab) -> Result<Prepared> {
        self.prepare_for(lab, &["balancer"])
    }

    /// The same, with agents on these hosts.
    ///
    /// # Errors
    /// The lab's links refused.
    pub fn prepare_for(self, lab: &mut Lab, agents: &[&str]) -> Result<Prepared> {
        let mut programs = Vec::new();
        if matches!(self, Self::XdpNative | Self::XdpGeneric) {
            lab.without_offload()?;
        }
        if matches!(self, Self::XdpNative) {
            for name in agents {
                programs.push(lab.inside_segment(|| object::pass_at(name))??);
            }
        }
        Ok(Prepared { _programs: programs })
    }
}
