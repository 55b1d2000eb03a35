// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What a step returns to its caller.
//!
//! A function that is not inlined returns one register, and a global function (see `flow_table.rs`) must
//! return what BTF calls a scalar. An enum of four bytes is both.

/// Whether a step did what its name says.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use = "the caller decides what follows if the step was not done"]
#[repr(u32)]
pub(crate) enum Done {
    No = 0,
    Yes = 1,
}

impl Done {
    #[inline(always)]
    pub(crate) const fn is_yes(self) -> bool {
        self as u32 != 0
    }
}

impl From<bool> for Done {
    #[inline(always)]
    fn from(is_done: bool) -> Self {
        if is_done { Self::Yes } else { Self::No }
    }
}
