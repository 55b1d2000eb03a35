// SPDX-License-Identifier: Apache-2.0
//! The processes of this service, as systemd sees them: those in the same control group (cgroups(7)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where control groups are seen.
const ROOT: &str = "/sys/fs/cgroup";

/// The processes of this process's control group, without itself.
///
/// # Errors
/// The group can't be read.
pub(super) fn other_processes() -> io::Result<Vec<u32>> {
    let memberships = fs::read_to_string("/proc/self/cgroup")?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "this process is in no control group");
    for folder in folders(&memberships) {
        match fs::read_to_string(folder.join("cgroup.procs")) {
            Ok(list) => return Ok(others(&list, std::process::id())),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The unit of systemd that this process belongs to; `None` if it belongs to none.
///
/// # Errors
/// The group can't be read.
pub(super) fn unit() -> io::Result<Option<String>> {
    Ok(unit_in(&fs::read_to_string("/proc/self/cgroup")?))
}

fn unit_in(memberships: &str) -> Option<String> {
    // In a container, the hierarchy of the host's systemd may be seen beside that of its own.
    let mut names =
        folders(memberships).into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    names.find(|name| name.ends_with(".service"))
}

/// Where the group may be seen, most likely first. systemd has one hierarchy for all, or beside
/// those of the controllers one of its own.
fn folders(memberships: &str) -> Vec<PathBuf> {
    let under = |root: &str, path: &str| Path::new(ROOT).join(root).join(path.trim_start_matches('/'));
    let groups =
        memberships.lines().filter_map(|line| line.splitn(3, ':').collect::<Vec<_>>().try_into().ok());
    groups
        .flat_map(|[_, controllers, path]: [&str; 3]| match controllers {
            "" => vec![under("", path), under("unified", path)],
            "name=systemd" => vec![under("systemd", path)],
            _ => Vec::new(),
        })
        .collect()
}

fn others(list: &str, own: u32) -> Vec<u32> {
    list.lines().filter_map(|line| line.parse().ok()).filter(|number| *number != own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_in_both_layouts() {
        let shown = |text| folders(text).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let unified =
            ["/sys/fs/cgroup/system.slice/llb.service", "/sys/fs/cgroup/unified/system.slice/llb.service"];
        assert_eq!(shown("0::/system.slice/llb.service\n"), unified);
        let hybrid = "4:memory:/system.slice\n1:name=systemd:/system.slice/llb.service\n";
        assert_eq!(shown(hybrid), ["/sys/fs/cgroup/systemd/system.slice/llb.service"]);
        assert!(shown("").is_empty());
        assert_eq!(unit_in(hybrid).as_deref(), Some("llb.service"));
        let in_container = "1:name=systemd:/\n0::/system.slice/llb.service\n";
        assert_eq!(unit_in(in_container).as_deref(), Some("llb.service"));
        assert_eq!((unit_in("0::/user.slice/session-3.scope\n"), unit_in("0::/\n")), (None, None));
    }

    #[test]
    fn the_own_process_is_left_out() {
        assert_eq!(others("12\n7\n31\n", 7), [12, 31]);
    }
}
