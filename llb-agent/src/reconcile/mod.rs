// SPDX-License-Identifier: Apache-2.0
//! The loop: read everything that is known, compute what should be, plan, act,
//! read again, until nothing is left to do.
//!
//! It is one task. Inputs: the source's watch channel, two wake-ups (data plane,
//! links), status writes that ended, timers, and the stop signal. Outputs:
//! changes of the plane, the links and the statuses, and a [`Report`] for the
//! admin endpoint.
//!
//! ```text
//!   run.rs          when the next round starts; hand-over and shut-down; reads the clock
//!     round.rs      one round: observe, decide, settle, report
//!       settle.rs   plan and act until nothing is due        executor.rs   one call per action
//!       machine.rs  retries and back-off                     writes.rs     status writes that run beside the loop
//!       repetitions.rs, overwrites.rs   back-off for addresses that others remove, for statuses that others write
//!       standby.rs       what an agent leaves to the writer of its group
//!       membership.rs    the shares of a group that this box has    shares.rs   the look at them
//!       dead_backends.rs  what is said about them            line_limit.rs  how many lines the log gets
//!       reporter.rs, placements.rs   which Events            owners.rs     the Services that an object is for
//!       conditions.rs    which conditions Services have, and when they are written
//!       lasting.rs       what is told, and what is over too soon
//!       kube_proxy.rs    VIPs that kube-proxy on this machine takes from the relay
//!   reconciler.rs   the state of the loop                    progress.rs   how far it is
//! ```
//!
//! Invariants: nothing is decided before the first whole snapshot; a source
//! that cannot be reached changes nothing; every round starts from what was
//! read back.

#[cfg(test)]
mod condition_tests;
mod conditions;
mod dead_backends;
mod executor;
mod kube_proxy;
mod lasting;
mod line_limit;
mod machine;
mod membership;
mod metrics;
mod outcome;
mod overwrites;
mod owners;
mod placements;
mod problem_log;
mod progress;
mod reconciler;
mod repetitions;
mod report;
mod reporter;
mod resting;
mod round;
mod routed;
mod run;
mod settle;
mod shares;
mod standby;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod writer_tests;
mod writes;

pub use executor::Rooms;
pub use machine::{FIRST_RETRY, LAST_RETRY};
pub use metrics::ReconcileMetrics;
pub use reconciler::Reconciler;
pub use repetitions::{FIRST_PAUSE, LAST_PAUSE};
pub use report::Report;
pub use run::{RESYNC, Wakeups};
pub use settle::ACTIONS;
