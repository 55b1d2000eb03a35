// SPDX-License-Identifier: Apache-2.0
//! Finds the cgroup of this process. A program on it sees the sockets that the process creates. Changes nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Opens the folder of this process's cgroup (version 2).
///
/// # Errors
/// There is no cgroup file system of version 2 that has it.
pub(super) fn open_own() -> io::Result<File> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    File::open(folder(&groups, &mounts).ok_or(io::ErrorKind::NotFound)?)
}

/// The folder of the cgroup that `/proc/self/cgroup` names, by the mounts of `/proc/self/mountinfo`
/// (cgroups(7), proc_pid_mountinfo(5)).
fn folder(groups: &str, mounts: &str) -> Option<PathBuf> {
    // Version 2 has the number 0 and no controllers.
    let group = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let inside = group.strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ").then(|| Path::new(point).join(inside))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_below_the_mount_that_has_the_cgroup() {
        let v2 = "22 1 0:21 / /proc rw - proc proc rw\n31 22 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let both = "40 30 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 30 0:44 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let inner = "31 22 0:27 /pods/a /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        for (groups, mounts, expected) in [
            ("0::/system.slice/llb.service\n", v2, Some("/sys/fs/cgroup/system.slice/llb.service")),
            ("9:name=systemd:/\n0::/\n", both, Some("/sys/fs/cgroup/unified")),
            ("0::/pods/a/b\n", inner, Some("/sys/fs/cgroup/b")),
            ("0::/pods/b\n", inner, None),
            ("1:cpu:/\n", both, None),
            ("0::/\n", "", None),
        ] {
            assert_eq!(folder(groups, mounts).as_deref(), expected.map(Path::new), "{groups}");
        }
    }
}
