// SPDX-License-Identifier: Apache-2.0
//! What workers tell the thread that prints.

use std::time::Duration;

/// Something that happened to a test.
pub(super) enum Event {
    /// A process has started, by the name of its test, or of its program if it runs several.
    Started(String),
    /// A test has ended.
    Ended(Outcome),
    /// A process has ended, by the same name.
    Stopped(String),
}

/// One test that has ended.
pub(super) struct Outcome {
    pub(super) test: Test,
    pub(super) has_passed: bool,
    pub(super) took: Duration,
    /// Everything that it printed.
    pub(super) output: String,
}

/// Which test.
#[derive(Clone, Debug)]
pub(super) struct Test {
    /// What `--only` calls it.
    pub(super) tier: &'static str,
    /// As its program calls it.
    pub(super) name: String,
}
