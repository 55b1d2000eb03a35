// SPDX-License-Identifier: Apache-2.0
//! The keepalived of this group: whether it runs, and the signal after which it reads its configuration again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::clock;
use crate::model::{Problem, ProblemReason, Subject};

/// keepalived writes its process id there, if it is started as `llb-vrrp.service` does it.
const PID_FILE: &str = "vrrp.pid";

/// What `/proc/PID/comm` says.
const NAME: &str = "keepalived";

/// A keepalived that is younger may not be ready for a signal.
const YOUNG: Duration = Duration::from_secs(3);

/// The keepalived of one box.
#[derive(Debug)]
pub struct Keepalived {
    group: String,
    folder: PathBuf,
    /// The configuration has changed since it was told.
    is_to_be_told: bool,
    /// The process that could not be told.
    untold: Option<Pid>,
    /// How many looks in a row have not found it.
    missing: u32,
}

impl Keepalived {
    /// The one that `llb-vrrp.service` starts for this state folder.
    pub fn new(group: &str, folder: &Path) -> Self {
        Self {
            group: group.to_owned(),
            folder: folder.to_owned(),
            is_to_be_told: false,
            untold: None,
            missing: 0,
        }
    }

    /// Its configuration is another one now.
    pub fn changed(&mut self) {
        self.is_to_be_told = true;
    }

    /// Tells it what is to be told, and returns what is wrong.
    pub fn look(&mut self) -> Vec<Problem> {
        let Some(pid) = self.pid() else {
            // It reads everything when it starts.
            self.is_to_be_told = false;
            self.missing = self.missing.saturating_add(1);
            // The first look may be before it was started.
            return if self.missing > 1 { vec![self.not_seen()] } else { Vec::new() };
        };
        self.missing = 0;
        if self.untold.is_some_and(|before| before != pid) {
            // A new process has read all files when it started.
            (self.is_to_be_told, self.untold) = (false, None);
        }
        if self.is_to_be_told && age(pid).is_none_or(|age| age >= YOUNG) {
            match kill_process(pid, Signal::HUP) {
                Ok(()) => {
                    let pid = pid.as_raw_nonzero().get();
                    tracing::info!(pid, "keepalived reads its configuration again");
                    (self.is_to_be_told, self.untold) = (false, None);
                }
                Err(error) => {
                    self.untold = Some(pid);
                    return vec![self.problem(format!(
                        "the configuration of keepalived has changed, and it can't be told by SIGHUP ({error}): restart it"
                    ))];
                }
            }
        }
        Vec::new()
    }

    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.folder.join(PID_FILE)).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        // The file may be of a keepalived that was killed, and another program have the number by now.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if name.trim_end() == NAME { Pid::from_raw(pid) } else { None }
    }

    fn not_seen(&self) -> Problem {
        let folder = self.folder.display();
        self.problem(format!(
            "no keepalived is seen for this group, and without one this box gets no VIP: start llb-vrrp.service, or keepalived \
             with --use-file={folder}/vrrp.conf and --pid={folder}/vrrp.pid; if it ends by itself, its log says why. If it runs, \
             the agent is not allowed to see it: the agent of a group runs as root, and not with ProtectProc=invisible"
        ))
    }

    /// A problem with this keepalived.
    pub fn problem(&self, message: String) -> Problem {
        let subject = Subject::Object(format!("group {}", self.group));
        Problem { subject, reason: ProblemReason::VrrpDown, message }
    }
}

/// For how long a process has run; `None`: not known.
fn age(pid: Pid) -> Option<Duration> {
    let started = fs::metadata(format!("/proc/{}", pid.as_raw_nonzero())).ok()?.modified().ok()?;
    clock::time_of_day().duration_since(started).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_keepalived_is_a_problem_from_the_second_look_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut keepalived = Keepalived::new("edge", folder.path());
        assert_eq!(keepalived.look(), []);
        let problems = keepalived.look();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("llb-vrrp.service"), "{problems:?}");
        // Another program has the number by now.
        fs::write(folder.path().join(PID_FILE), std::process::id().to_string()).unwrap();
        assert_eq!(keepalived.look().len(), 1);
    }
}
