// SPDX-License-Identifier: Apache-2.0
//! Why a hand-over did not happen.

use std::io;
use std::path::PathBuf;

/// No agent took the other's place; both are as before, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Locked, and nobody answers.
    #[error(
        "another llb-agent uses {folder} and does not hand over; end that one, or give this one a folder of its own"
    )]
    Occupied {
        /// The state folder.
        folder: PathBuf,
        /// Why there is no conversation.
        #[source]
        source: io::Error,
    },
    /// The running agent won't.
    #[error("the llb-agent that runs does not hand over: {why}")]
    Refused {
        /// Its words.
        why: String,
    },
    /// The running agent is there, and has stopped the conversation.
    #[error("the llb-agent that runs does not hand over, so it goes on itself, or ends; try again")]
    Abandoned(#[source] io::Error),
    /// The successor is gone, or does not get on.
    #[error("the new llb-agent did not take over")]
    Lost(#[source] io::Error),
    /// The state folder itself.
    #[error("cannot hold --state-dir {folder}")]
    Folder {
        /// The state folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket in it.
    #[error("cannot listen on {path}, so a new agent can't take over without a gap")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
