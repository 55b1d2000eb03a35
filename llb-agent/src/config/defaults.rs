// SPDX-License-Identifier: Apache-2.0
//! Defaults that several flags or subcommands share.

pub(super) const DEFAULT_ADMIN: &str = "127.0.0.1:9660";
pub(super) const DEFAULT_ADMIN_SOCKET: &str = "/run/llb/admin.sock";
pub(super) const DEFAULT_STATE_DIR: &str = "/var/lib/llb";
pub(super) const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/llb";
