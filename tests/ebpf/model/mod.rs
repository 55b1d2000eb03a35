// SPDX-License-Identifier: Apache-2.0
//! A slow and simple model of the packet plane, written from its documentation. It says for each frame what
//! becomes of it, to the last byte, and what is remembered. It shares with the programs only the contract with
//! other machines (hash, order of source ports), the names of reasons, and the algorithm of the flow table,
//! which decides which flow finds room.
//!
//! A green test with it does not prove that the documentation is right: where both are wrong in the same way,
//! they agree.
//!
//! ```text
//!   receive -> wire::read -> to a frontend -> known flow, else begin (select) -> judge -> rewrite
//!                    `-----> to a source address -> reply entry ---------------'
//! ```

mod arrival;
pub(crate) mod ends;
mod failing;
pub(crate) mod flows;
mod forward;
mod life;
mod outcome;
pub(crate) mod placed;
mod receive;
mod rewrite;
mod select;
mod state;
pub(crate) mod wire;
pub(crate) mod world;

pub(crate) use outcome::{Outcome, Said};
pub(crate) use rewrite::is_right;
pub(crate) use state::Model;
