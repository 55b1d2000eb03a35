// SPDX-License-Identifier: Apache-2.0
//! What a test and `llb-guest` in its virtual machine say to each other: one line of JSON for each message.

use serde::{Deserialize, Serialize};

/// The name of the serial port.
pub const PORT: &str = "llb";

/// A command for the machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// A line of shell.
    pub command: String,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The exit status.
    pub status: i32,
    /// Both outputs.
    pub output: String,
}
