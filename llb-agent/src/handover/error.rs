// SPDX-License-Identifier: Apache-2.0
//! Why a handover failed.

use std::io;
use std::path::PathBuf;

/// The handover failed. The running agent serves as before, unless the variant
/// says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Another agent has the lock of the state folder, and does not answer.
    #[error(
        "another llb-agent uses {folder} and cannot hand over; stop it, or give this one another --state-dir"
    )]
    Occupied {
        /// The state folder.
        folder: PathBuf,
        /// Why it cannot be reached.
        #[source]
        source: io::Error,
    },
    /// The running agent refuses.
    #[error("the running llb-agent refuses to hand over: {why}")]
    Refused {
        /// The reason that it gives.
        why: String,
    },
    /// The running agent ended the conversation. It may itself be about to end.
    #[error("the running llb-agent ended the handover; start this one again")]
    Abandoned(#[source] io::Error),
    /// The new agent ended, or did not serve in time.
    #[error("the new llb-agent did not take over")]
    Lost(#[source] io::Error),
    /// The state folder cannot be locked.
    #[error("cannot lock --state-dir {folder}")]
    Folder {
        /// The state folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The socket for new agents cannot be opened.
    #[error("cannot listen on {path}, so no new agent can take over without a gap")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}
