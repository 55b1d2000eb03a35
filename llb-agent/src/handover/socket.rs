// SPDX-License-Identifier: Apache-2.0
//! Where the two agents meet.

use std::path::{Path, PathBuf};

/// In the state folder.
const SOCKET: &str = "handover.sock";

pub(super) fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}
