// SPDX-License-Identifier: Apache-2.0
//! The state of the model. The files around it have its rules.

use super::flows::Memory;

/// What the model remembers, and the time in seconds.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) memory: Memory,
    pub(crate) now: u64,
}
