// SPDX-License-Identifier: Apache-2.0
//! Which clients of a frontend the relay serves. Who decides that is not here (`dataplane/planes.rs`).

/// Which clients of a frontend the relay serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// All.
    Main,
    /// Those whose packets no program of the packet plane sees: on this machine, in its Pods, and behind
    /// links without a program. The packet plane serves the others.
    Beside,
}
