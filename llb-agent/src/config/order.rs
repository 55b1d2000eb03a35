// SPDX-License-Identifier: Apache-2.0
//! What people order for a box of a group: `drain`, `undrain`, `move`.

use std::path::PathBuf;

use clap::Args;

use super::defaults::DEFAULT_STATE_DIR;
use crate::model::SHARES;

/// What a box of a group is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Give all shares to other boxes.
    Drain {
        /// Return when that is done.
        wait: bool,
    },
    /// Take shares again.
    Undrain,
    /// A member is to have a share before all others.
    Move {
        /// The share.
        share: u8,
        /// The member.
        member: String,
    },
}

impl Order {
    /// The subcommand.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drain { .. } => "drain",
            Self::Undrain => "undrain",
            Self::Move { .. } => "move",
        }
    }
}

/// The agent that gets an order.
#[derive(Clone, Debug, Args)]
pub(super) struct Addressee {
    /// The agent's --state-dir
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub(super) state_dir: PathBuf,
}

/// The arguments of `drain`.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// Return when this box has no VIP any more; fails if no agent runs, or after 30 s
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pub(super) to: Addressee,
}

/// The arguments of `move`.
#[derive(Debug, Args)]
pub(super) struct MoveArgs {
    /// The share, of all link devices
    #[arg(value_name = "SHARE", value_parser = clap::value_parser!(u8).range(0..i64::from(SHARES)))]
    share: u8,
    /// The box
    #[arg(value_name = "MEMBER")]
    member: String,
    #[command(flatten)]
    pub(super) to: Addressee,
}

impl From<&DrainArgs> for Order {
    fn from(args: &DrainArgs) -> Self {
        Self::Drain { wait: args.wait }
    }
}

impl From<MoveArgs> for Order {
    fn from(MoveArgs { share, member, .. }: MoveArgs) -> Self {
        Self::Move { share, member }
    }
}
