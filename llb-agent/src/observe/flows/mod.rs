// SPDX-License-Identifier: Apache-2.0
//! Flows as rows: picks the flows that are asked for, keeps the first ones in a stable order, and counts them. It does not
//! read flows: `agent/flows.rs` does.
//!
//! ```text
//!   flows, one by one --filter.rs--> those that are wanted --listing.rs--> the first ones --rows.rs--> rows --table.rs--> text
//!                                                          `-counts.rs---> counts ----------------> rows
//! ```

mod counts;
mod filter;
mod listing;
mod rows;
mod table;

pub use counts::CLIENTS_COUNTED;
pub(crate) use counts::Counts;
pub(crate) use filter::FlowFilter;
pub(crate) use listing::Listing;
pub(crate) use rows::Names;
pub use rows::{CountRow, FlowRow, FlowSummary, Flows};
pub use table::{flows_table, summary_table};
