// SPDX-License-Identifier: Apache-2.0
//! The maps as the plane's logic needs them: it writes them, and after a failure it reads
//! them back. In the kernel these are [`Maps`](super::maps::Maps); tests have a faulty
//! implementation.

use std::io;

use llb_common::frontend::MaglevTable;

use super::image::{Restored, Write};

/// Maps that can be written and read back.
pub(super) trait MapStore {
    /// Carries out one write.
    ///
    /// # Errors
    /// The write may or may not have happened.
    fn write(&self, write: &Write) -> io::Result<()>;

    /// Reads all that an image is made of, except the tables.
    ///
    /// # Errors
    /// A map can't be read.
    fn restore(&self) -> io::Result<Restored>;

    /// Reads the slots of a selection table.
    ///
    /// # Errors
    /// A chunk can't be read.
    fn slots(&self, table: MaglevTable) -> io::Result<Vec<u32>>;
}
