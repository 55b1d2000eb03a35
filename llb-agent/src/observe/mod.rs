// SPDX-License-Identifier: Apache-2.0
//! What operators see: one read model that the commands and the HTTP API share. It only reads what the loop reports,
//! so it decides nothing and delays nothing.
//!
//! ```text
//!   reports of the loop --> follow.rs    a task: keeps what has changed from one report to the next
//!                             differences.rs   two reports -> changes               pure
//!                             history.rs       the last changes; since when a backend is as it is
//!   counters of planes ---> sample.rs    a task: asks for them each second
//!                             meter/         samples -> totals, rates, and the last ten minutes   pure
//!   admin/v1.rs ---------> services.rs   a report -> rows                           pure
//!                            rows.rs     the rows, as the API has them
//!                            traffic.rs  totals and rates in them; links, maps, pools; the last ten minutes
//!   /metrics ------------> exposition.rs   the meter and the report as metrics; process.rs: metrics that every program has
//!   llb-agent list ------> table.rs, quantity.rs   rows -> aligned text             pure
//!   llb-agent flows -----> flows/        flows -> rows, counts, aligned text        pure
//! ```

mod differences;
mod exposition;
mod flows;
mod follow;
mod history;
mod meter;
mod process;
mod quantity;
mod rows;
mod sample;
mod services;
mod table;
mod traffic;

pub(crate) use exposition::register;
pub use flows::{CLIENTS_COUNTED, CountRow, FlowRow, FlowSummary, Flows, flows_table, summary_table};
pub(crate) use flows::{Counts, FlowFilter, Listing, Names};
pub use follow::follow;
pub use history::{CHANGES, SharedHistory};
pub(crate) use meter::WINDOW;
pub use rows::{BackendRow, Change, Changes, FrontendRow, ProblemRow, ServiceRow, Services, Standing};
pub use sample::{SharedMeter, sample};
pub(crate) use services::{Look, services};
pub use table::{changes_table, details_table, services_table};
pub use traffic::{FillRow, LinkRow, Links, Past, PerSecond, PoolRow, ReasonRow, Traffic};
pub(crate) use traffic::{links, past};
