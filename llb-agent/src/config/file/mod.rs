// SPDX-License-Identifier: Apache-2.0
//! The configuration file: TOML with one key for each flag. Not: what the values mean, and whether they make
//! sense together (`validate.rs`); clap reads them as it reads flags.
//!
//! ```text
//! keys.rs         which keys there are: clap's definition of the flags says it
//! parse.rs        TOML --> Layer, or mistakes with their lines       pool_table.rs   [[pool]] <--> the text of --pool
//! value.rs        Layer: values with their origins                   mistakes.rs     what is wrong, one line each
//! effective.rs    the values that count, as TOML                     changes.rs      what differs between two of them
//! example.rs      deploy/llb.toml: all keys, commented out               pools_only.rs   the text of a ConfigMap
//! ```

mod changes;
mod effective;
mod example;
mod keys;
mod mistakes;
mod parse;
mod pool_table;
mod pools_only;
#[cfg(test)]
mod tests;
mod value;

pub(super) use changes::AT_START;
pub use changes::Change;
pub use effective::Effective;
pub use example::example;
pub(super) use keys::{Keys, argument, name};
pub use mistakes::{Mistake, Mistakes};
pub(super) use parse::parse;
pub(super) use pools_only::pools_in;
pub(super) use value::{Layer, Origin, Value};
