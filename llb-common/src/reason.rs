// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Why a packet was not forwarded, or not remembered: what the programs count,
//! as a bounded list whose names are metric labels.

/// A reason. Those before [`Reason::SourceDenied`] pass the packet on untouched,
/// those from it on drop it, those from [`Reason::FlowsFull`] on are notes
/// about a packet that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Pass: a later fragment whose first one was not seen.
    UnknownFragment,
    /// Pass: to a frontend that has no backends. The kernel answers with a
    /// reset or port unreachable, as nobody listens there.
    NoBackends,
    /// Pass: an ICMP error about a flow that is not known.
    UnknownError,
    /// Pass: a reply of a backend that is no more.
    StaleReply,
    /// Pass: of no known flow, to a frontend that takes no more, or not such a
    /// packet: it ends, or the relay has connections there.
    NotTaken,
    /// Drop: the client is in none of the Service's source ranges.
    SourceDenied,
    /// Drop: every backend that was tried is dead, though still in the table.
    NoLiveBackend,
    /// Drop: a TCP reset of an unknown flow; there is nothing to reset.
    UnknownReset,
    /// Drop: new flows beyond the budget of this second and CPU (mode NAT; in
    /// mode DSR the packet is forwarded by its hash alone).
    OverBudget,
    /// Drop: no source port was free for the backend, or none of those tried.
    PortsExhausted,
    /// Drop: its time to live, or hop limit, ends here.
    TimeToLive,
    /// Drop: larger than the way to the backend takes.
    TooBig,
    /// Drop: the backend's or client's Ethernet address is not known.
    NoNeighbour,
    /// Drop: UDP over IPv6 without a checksum (RFC 8200, 8.1).
    NoChecksum,
    /// Drop: the backend's entry does not fit to its frontend's family.
    BadBackend,
    /// Drop: the kernel refused a change of the packet.
    Failed,
    /// Drop: a backend refused a new connection: the client's next SYN goes to another one.
    Refused,
    /// Note: the flow table is full; the flow stays pending and may be forgotten.
    FlowsFull,
    /// Note: new flows beyond the budget, in mode DSR.
    NotRemembered,
}

impl Reason {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::UnknownFragment,
        Self::NoBackends,
        Self::UnknownError,
        Self::StaleReply,
        Self::NotTaken,
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
        Self::FlowsFull,
        Self::NotRemembered,
    ];

    /// What happens to the packet.
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

    /// For metrics and people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownFragment => "unknown_fragment",
            Self::NoBackends => "no_backends",
            Self::UnknownError => "unknown_error",
            Self::StaleReply => "stale_reply",
            Self::NotTaken => "not_taken",
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
            Self::FlowsFull => "flows_full",
            Self::NotRemembered => "not_remembered",
        }
    }
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Untouched, to the kernel's stack.
    Pass,
    /// Nowhere.
    Drop,
    /// Rewritten, to a backend or a client.
    Forward,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed_in_order_with_names_of_their_own() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
        assert_eq!(Reason::StaleReply.verdict(), Verdict::Pass);
        assert_eq!(Reason::Refused.verdict(), Verdict::Drop);
        assert_eq!(Reason::FlowsFull.verdict(), Verdict::Forward);
    }
}
