// SPDX-License-Identifier: Apache-2.0
//! The ways of forwarding that are compared. `stage.rs` sets them up.

/// A way from the client to the server and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    Direct,
    Routing,
    RoutingOnXdp,
    Nftables,
    Haproxy,
    Nginx,
    XdpNat,
    XdpDsr,
    TcNat,
    TcDsr,
    Userspace,
}

/// What the kernel itself reaches on one machine.
pub(crate) const BASELINE: Contender = Contender::Routing;

/// Plain routing on links that are set up as for llb's rows of XDP. The difference between it and [`BASELINE`]
/// is the cost of XDP in the driver of a veth pair, whoever uses it.
pub(crate) const XDP_BASELINE: Contender = Contender::RoutingOnXdp;

/// Balancers that terminate connections.
pub(crate) const PROXIES: [Contender; 2] = [Contender::Haproxy, Contender::Nginx];

impl Contender {
    const ALL: [Self; 11] = [
        Self::Direct,
        Self::Routing,
        Self::RoutingOnXdp,
        Self::Nftables,
        Self::Haproxy,
        Self::Nginx,
        Self::XdpNat,
        Self::XdpDsr,
        Self::TcNat,
        Self::TcDsr,
        Self::Userspace,
    ];

    /// XDP in the driver of a veth pair works only if nobody leaves checksums to the other end.
    pub(crate) fn all(has_offload: bool) -> Vec<Self> {
        let suits = |contender: &Self| !(has_offload && contender.is_on_xdp());
        Self::ALL.into_iter().filter(suits).collect()
    }

    /// The contender with this name.
    pub(crate) fn by_name(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|contender| contender.name() == name).ok_or_else(|| {
            format!("there is no such contender; they are: {}", Self::ALL.map(Self::name).join(", "))
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Routing => "routing",
            Self::RoutingOnXdp => "routing on xdp links",
            Self::Nftables => "nftables",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::XdpNat => "llb xdp nat",
            Self::XdpDsr => "llb xdp dsr",
            Self::TcNat => "llb tc nat",
            Self::TcDsr => "llb tc dsr",
            Self::Userspace => "llb userspace",
        }
    }

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Direct => "no balancer: the client asks the server's host",
            Self::Routing => {
                "the kernel routes both ways through the balancer's host: ip_forward, no NAT, no conntrack"
            }
            Self::RoutingOnXdp => {
                "the same on links made as those of llb xdp, with an XDP program that lets all pass"
            }
            Self::Nftables => "nftables: dnat to the node port, masquerade",
            Self::Haproxy => "HAProxy, mode tcp, a thread for each core, splice-auto; it has no UDP",
            Self::Nginx => "nginx stream, a worker for each core, reuseport",
            Self::XdpNat => "llb, --datapath xdp, native, mode nat: both ways through llb",
            Self::XdpDsr => "llb, --datapath xdp, native, mode dsr: the node answers the client itself",
            Self::TcNat => "llb, --datapath tc, mode nat: both ways through llb",
            Self::TcDsr => "llb, --datapath tc, mode dsr: the node answers the client itself",
            Self::Userspace => "llb, --datapath userspace: the relay",
        }
    }

    pub(crate) fn is_llb(self) -> bool {
        matches!(self, Self::XdpNat | Self::XdpDsr | Self::TcNat | Self::TcDsr | Self::Userspace)
    }

    pub(crate) fn is_on_xdp(self) -> bool {
        matches!(self, Self::RoutingOnXdp | Self::XdpNat | Self::XdpDsr)
    }

    pub(crate) fn has_udp(self) -> bool {
        self != Self::Haproxy
    }

    /// The number of its VIP in the lab.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }
}
