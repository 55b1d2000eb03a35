// SPDX-License-Identifier: Apache-2.0
//! What operators see: one read model that the commands and the HTTP API share. It only reads what the loop reports,
//! so it decides nothing and delays nothing.
//!
//! ```text
//!   reports of the loop --> follow.rs    a task: keeps what has changed from one report to the next
//!                             differences.rs   two reports -> changes               pure
//!                             history.rs       the last changes; since when a backend is as it is
//!   admin/v1.rs ---------> services.rs   a report -> rows                           pure
//!                            rows.rs     the rows, as the API has them
//!   llb-agent list ------> table.rs      rows -> aligned text                       pure
//!   llb-agent flows -----> flows/        flows -> rows, counts, aligned text        pure
//! ```

mod differences;
mod flows;
mod follow;
mod history;
mod rows;
mod services;
mod table;

pub use flows::{CLIENTS_COUNTED, CountRow, FlowRow, FlowSummary, Flows, flows_table, summary_table};
pub(crate) use flows::{Counts, FlowFilter, Listing, Names};
pub use follow::follow;
pub use history::{CHANGES, SharedHistory};
pub use rows::{BackendRow, Change, Changes, FrontendRow, ProblemRow, ServiceRow, Services, Standing};
pub(crate) use services::{Look, services};
pub use table::{changes_table, details_table, services_table};
