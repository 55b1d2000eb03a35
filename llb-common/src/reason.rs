// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Why a packet was not forwarded, or its flow not remembered. The programs count these reasons; their names
//! are labels of a metric.

/// A reason. The order matters: with those before [`Reason::SourceDenied`] the packet passes to the kernel
/// untouched, with those from it on the packet is dropped, and those from [`Reason::FlowsFull`] on are notes
/// about a packet that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Pass: a later fragment of a packet whose first fragment was not seen, or was not forwarded.
    UnknownFragment,
    /// Pass: a later fragment that comes before the first one. The agent gets a copy, and sends it once the first one
    /// was forwarded.
    EarlyFragment,
    /// Pass: to a frontend whose rule has no backends. The kernel answers with a TCP reset or port unreachable,
    /// since no socket listens there.
    NoBackends,
    /// Pass: an ICMP error about an unknown flow.
    UnknownError,
    /// Pass: a reply from a backend that was removed.
    StaleReply,
    /// Pass: a packet of an unknown flow that the frontend does not take. The frontend takes no new flows,
    /// because it ends or moved to another plane; or it takes only packets that open a connection, because
    /// the relay still has connections there.
    NotTaken,
    /// Pass: in mode DSR, a SYN from this machine itself that a Node without a rule for the VIP sent back. The agent
    /// looks for it, and the kernel drops what claims to come from itself.
    Canary,
    /// Drop: the client is not in the source ranges of the Service.
    SourceDenied,
    /// Drop: all backends that were tried are dead or can't be reached now, though still in the Maglev table.
    NoLiveBackend,
    /// Drop: a TCP reset of an unknown flow. There is nothing to reset.
    UnknownReset,
    /// Drop: a new flow beyond the budget of this CPU and tick, in mode NAT. In mode DSR the packet is
    /// forwarded by its hash alone, see [`Reason::NotRemembered`].
    OverBudget,
    /// Drop: none of the candidate source ports was free for the backend, nor for another one that was tried.
    PortsExhausted,
    /// Drop: the time to live, or hop limit, ends here.
    TimeToLive,
    /// Drop: larger than the MTU of the path to the backend.
    TooBig,
    /// Drop: the backend's or client's Ethernet address is not known. A known flow waits for its backend.
    NoNeighbour,
    /// Drop: UDP over IPv6 without a checksum (RFC 8200, 8.1).
    NoChecksum,
    /// Drop: the addresses of the backend's entry are not of the packet's family.
    BadBackend,
    /// Drop: the kernel refused to change the packet.
    Failed,
    /// Drop: a backend's refusal of a new connection. The client's next SYN goes to another backend.
    Refused,
    /// Drop: in mode DSR, a packet that was sent to a Node before. The Node has no rule for the VIP and routed it
    /// back.
    Returned,
    /// Drop: a packet that claims to refuse a new connection, but does not know its SYN.
    FalseRefusal,
    /// Drop: a new flow whose source is no address of another host.
    Martian,
    /// Note: the flow table is full. The flow stays pending, and may be forgotten.
    FlowsFull,
    /// Note: a new flow beyond the budget, in mode DSR. It is forwarded but not remembered.
    NotRemembered,
    /// Note: a Node sent the first packet of a flow in mode DSR back. The flow begins in mode NAT.
    NatInstead,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 25] = [
        Self::UnknownFragment,
        Self::EarlyFragment,
        Self::NoBackends,
        Self::UnknownError,
        Self::StaleReply,
        Self::NotTaken,
        Self::Canary,
        Self::SourceDenied,
        Self::NoLiveBackend,
        Self::UnknownReset,
        Self::OverBudget,
        Self::PortsExhausted,
        Self::TimeToLive,
        Self::TooBig,
        Self::NoNeighbour,
        Self::NoChecksum,
        Self::BadBackend,
        Self::Failed,
        Self::Refused,
        Self::Returned,
        Self::FalseRefusal,
        Self::Martian,
        Self::FlowsFull,
        Self::NotRemembered,
        Self::NatInstead,
    ];

    /// What happens to a packet with this reason.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        let number = self as u8;
        if number < Self::SourceDenied as u8 {
            Verdict::Pass
        } else if number < Self::FlowsFull as u8 {
            Verdict::Drop
        } else {
            Verdict::Forward
        }
    }

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownFragment => "unknown_fragment",
            Self::EarlyFragment => "early_fragment",
            Self::NoBackends => "no_backends",
            Self::UnknownError => "unknown_error",
            Self::StaleReply => "stale_reply",
            Self::NotTaken => "not_taken",
            Self::Canary => "canary",
            Self::SourceDenied => "source_denied",
            Self::NoLiveBackend => "no_live_backend",
            Self::UnknownReset => "unknown_reset",
            Self::OverBudget => "over_budget",
            Self::PortsExhausted => "ports_exhausted",
            Self::TimeToLive => "time_to_live",
            Self::TooBig => "too_big",
            Self::NoNeighbour => "no_neighbour",
            Self::NoChecksum => "no_checksum",
            Self::BadBackend => "bad_backend",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Returned => "returned",
            Self::FalseRefusal => "false_refusal",
            Self::Martian => "martian",
            Self::FlowsFull => "flows_full",
            Self::NotRemembered => "not_remembered",
            Self::NatInstead => "nat_instead",
        }
    }
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It goes to the kernel's network stack, untouched.
    Pass,
    /// It is dropped.
    Drop,
    /// It is rewritten and sent to a backend or a client.
    Forward,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_reasons_are_listed_in_order_and_have_unique_names() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
        assert_eq!(Reason::StaleReply.verdict(), Verdict::Pass);
        assert_eq!(Reason::Refused.verdict(), Verdict::Drop);
        assert_eq!(Reason::FlowsFull.verdict(), Verdict::Forward);
    }
}
