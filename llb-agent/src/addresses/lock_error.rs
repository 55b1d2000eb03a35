// SPDX-License-Identifier: Apache-2.0
//! Why the lock of a link cannot be had, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::lock_holder::Holder;
use crate::error_chain::ErrorChain;
use crate::model::{Problem, ProblemReason, Subject};

/// A link cannot be used, because its lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AgentLockError {
    /// Another process has it.
    #[error("{holder} has link {link}, and two agents on one link undo each other's work; {}", way_out(.holder, .own_state_dir))]
    Taken {
        /// The link.
        link: String,
        /// The other process.
        holder: Holder,
        /// The state folder of this process.
        own_state_dir: PathBuf,
    },
    /// The kernel does not provide the socket.
    #[error("cannot take the lock of link {link}, by which other agents are kept off it")]
    Unusable {
        /// The link.
        link: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl AgentLockError {
    /// The link.
    pub fn link(&self) -> &str {
        match self {
            Self::Taken { link, .. } | Self::Unusable { link, .. } => link,
        }
    }

    /// The problem of the link, on which nothing is changed meanwhile.
    pub(super) fn problem(&self) -> Problem {
        Problem {
            subject: Subject::Link(self.link().to_owned()),
            reason: ProblemReason::LinkBusy,
            message: ErrorChain(self).to_string(),
        }
    }
}

fn way_out(holder: &Holder, own_state_dir: &Path) -> &'static str {
    match &holder.state_dir {
        None => "stop it: `ss -xlp` shows it with the socket @llb-agent/",
        Some(folder) if folder == own_state_dir => {
            "stop it: it cannot hand over, because its --state-dir is another folder with the same name"
        }
        Some(_) => "stop it, or start this one with its --state-dir to take over from it without a gap",
    }
}
