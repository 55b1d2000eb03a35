// SPDX-License-Identifier: Apache-2.0
//! Flows as rows: which ones are wanted, the first of them in a stable order, and how many there are of what. Who reads
//! them is elsewhere: `agent/flows.rs`.
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
