// SPDX-License-Identifier: Apache-2.0
//! What becomes of a frame, and the decisions that lead to it.

use llb_common::reason::Reason;

use super::rewrite::Target;
use super::world::Id;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Pass,
    Drop,
    /// The resulting bytes, and the link by which they leave.
    Sent(Vec<u8>, u32),
}

/// What becomes of a frame.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) verdict: Outcome,
    /// Exactly one of these is counted. If several apply, it may be any of them.
    pub(crate) reasons: Vec<Reason>,
    /// All of these are counted.
    pub(crate) notes: Vec<Reason>,
}

/// Why a packet is not forwarded; decided before anything is written.
pub(super) enum Stop {
    NotOurs,
    Because(Reason),
}

/// Where a packet of a flow goes, unless a reason is against it.
pub(super) struct Course {
    pub(super) target: Target,
    pub(super) backend: Id,
    pub(super) link: u32,
    pub(super) is_reply: bool,
    pub(super) against: Vec<Reason>,
}
