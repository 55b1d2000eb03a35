// SPDX-License-Identifier: Apache-2.0
//! The machine, apart from its links: kernel, rights, limits, folders, settings. Changes nothing.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use super::super::facts::{BpfDir, Machine, StateDir};
use crate::config::Config;
use crate::dataplane::packet;
use crate::kernel::{BPFFS, Cap, KernelAbilities, LOOPBACK_INDEX, is_bpffs, missing_capabilities};
use crate::netlink::Connection;

pub(super) async fn read(config: &Config) -> Machine {
    let both = [true, false].into();
    let return_path = packet::return_path_problems(config.packet.return_path, &both);
    Machine {
        kernel: KernelAbilities::probe(),
        missing: missing_capabilities(&Cap::ALL),
        has_programs: packet::has_object(),
        bpf_dir: bpf_dir(&config.bpf_dir),
        memlock: getrlimit(Resource::Memlock).current,
        open_files: getrlimit(Resource::Nofile).maximum,
        state_dir: state_dir(&config.state_dir),
        is_loopback_up: is_loopback_up().await.unwrap_or(true),
        forwards: fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() != "0"),
        return_path: return_path.into_iter().map(|problem| problem.message).collect(),
    }
}

fn bpf_dir(folder: &Path) -> BpfDir {
    let existing = existing(folder).unwrap_or(folder);
    match is_bpffs(existing) {
        true if access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok() => BpfDir::OnBpffs,
        true => BpfDir::NotWritable,
        false if folder.starts_with(BPFFS) => BpfDir::NotMounted,
        false => BpfDir::Elsewhere,
    }
}

fn state_dir(folder: &Path) -> StateDir {
    let Some(existing) = existing(folder) else { return StateDir::Absent };
    if !existing.is_dir() {
        return StateDir::Unusable(format!("{} is no folder", existing.display()));
    }
    match access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if existing == folder => StateDir::Usable,
        Ok(()) => StateDir::Absent,
        Err(error) => StateDir::Unusable(format!("{}: {error}", existing.display())),
    }
}

/// The folder itself, or the nearest folder above it that exists.
fn existing(folder: &Path) -> Option<&Path> {
    // The folder above a relative name is the current one.
    let named = |path| if path == Path::new("") { Path::new(".") } else { path };
    folder.ancestors().map(named).find(|path| path.exists())
}

/// Asks the kernel rather than binding a socket, which succeeds while the link is down, because its address is still there.
async fn is_loopback_up() -> io::Result<bool> {
    let links = Connection::open()?.links().await?;
    Ok(links.iter().any(|link| link.ifindex == LOOPBACK_INDEX && link.is_up))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_looked_at_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("a/b");
        assert_eq!(state_dir(folder.path()), StateDir::Usable);
        assert_eq!(state_dir(&absent), StateDir::Absent);
        assert!(!absent.exists());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(state_dir(&file.join("c")), StateDir::Unusable(_)));
        assert_eq!(bpf_dir(&absent), BpfDir::Elsewhere);
        assert_eq!(existing(Path::new("absent/llb")), Some(Path::new(".")));
    }
}
