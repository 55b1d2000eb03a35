// SPDX-License-Identifier: Apache-2.0
//! The path of the socket on which the running agent listens.

use std::path::{Path, PathBuf};

/// The name in the state folder.
const SOCKET: &str = "handover.sock";

pub(super) fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}
