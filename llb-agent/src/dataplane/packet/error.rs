// SPDX-License-Identifier: Apache-2.0
//! Why the packet plane is not there. Each names the object and the way out.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::ProgramError;

use crate::kernel::{Release, TCX_SINCE, system_error};

/// The end of a verifier's log says what it refused; the start is often megabytes.
const VERIFIER_LOG_TAIL_LINES: usize = 12;

/// The packet plane could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The agent was built alone.
    #[error("this llb-agent has no eBPF programs inside: run `cargo xtask build-ebpf`, then build it again")]
    NotBuilt,
    /// No tcx.
    #[error("the packet plane needs kernel {TCX_SINCE} or newer, this is {running}; run without it")]
    KernelTooOld {
        /// What runs.
        running: Release,
    },
    /// Missing rights.
    #[error(
        "no permission to {verb} on link {link}: run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// What was tried.
        verb: &'static str,
        /// The link.
        link: String,
        /// The kernel's word.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The link went away, or never was.
    #[error("link {link} does not exist; `ip link` lists those that do")]
    NoSuchLink {
        /// Its name.
        link: String,
    },
    /// Another agent.
    #[error(
        "another llb-agent has the programs of link {link} (it holds {path}); stop it first, see `fuser {path}`"
    )]
    Busy {
        /// The link.
        link: String,
        /// What is locked.
        path: PathBuf,
    },
    /// Links can't be looked at.
    #[error("cannot ask the kernel for its links")]
    Netlink {
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// Pins need a file system of their own.
    #[error("{path} is not on a bpffs; mount one there: `mount -t bpf bpf {path}`")]
    NotBpffs {
        /// The folder for pins.
        path: PathBuf,
    },
    /// Mounting failed.
    #[error("cannot mount the bpffs at {path}; mount it before: `mount -t bpf bpf {path}`")]
    Mount {
        /// Where.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The object's maps can't be made, or those of another version are pinned.
    #[error(
        "cannot load the eBPF object for link {link} with its maps in {path}; where another version of llb \
         has left them, `llb-agent detach` removes them"
    )]
    Load {
        /// The link.
        link: String,
        /// The folder of its pins.
        path: PathBuf,
        /// What aya says.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The maps are larger than the machine has memory for.
    #[error("no memory for the eBPF maps of link {link}; give a smaller --max-flows")]
    NoMemory {
        /// The link.
        link: String,
        /// What aya says.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The kernel's verifier refused a program.
    #[error("the kernel refused program {program} for link {link}; the end of its verifier's log:\n{log}")]
    Verify {
        /// The program.
        program: &'static str,
        /// The link.
        link: String,
        /// The last lines of the log.
        log: String,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The object has other contents than this agent expects.
    #[error("the eBPF object has no {name}; build both anew: `cargo xtask build-ebpf`, then the agent")]
    NotInObject {
        /// A program or a map.
        name: &'static str,
    },
    /// The program is loaded, but not at the link.
    #[error("cannot attach program {program} to link {link} (pin {path})")]
    Attach {
        /// The program.
        program: &'static str,
        /// The link.
        link: String,
        /// Its pin.
        path: PathBuf,
        /// What aya says.
        #[source]
        source: Box<ProgramError>,
    },
    /// A file or folder of the bpffs.
    #[error("cannot {verb} {path}; `llb-agent detach` removes all pins of llb")]
    Pin {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl PacketError {
    pub(super) fn pin(
        verb: &'static str,
        path: impl Into<PathBuf>,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        Self::Pin { verb, path: path.into(), source: source.into() }
    }

    /// The object, or its maps.
    pub(super) fn load(link: &str, path: &Path, source: aya::EbpfError) -> Self {
        let link = link.to_owned();
        if is_not_permitted(&source) {
            return Self::NotPermitted { verb: "make eBPF maps", link, source: source.into() };
        }
        // Too large to be counted, or to be had.
        if system_error(&source)
            .is_some_and(|error| matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::E2BIG)))
        {
            return Self::NoMemory { link, source: source.into() };
        }
        Self::Load { link, path: path.to_owned(), source: source.into() }
    }

    /// A program that was not loaded, or not attached.
    pub(super) fn program(program: &'static str, link: &str, pin: &Path, source: ProgramError) -> Self {
        let link = link.to_owned();
        match source {
            // Without rights the verifier is not even asked, so its log is empty.
            ProgramError::LoadError { io_error, verifier_log } if !verifier_log.to_string().is_empty() => {
                let log = last_lines(&verifier_log.to_string(), VERIFIER_LOG_TAIL_LINES);
                Self::Verify { program, link, log, source: io_error }
            }
            source if is_not_permitted(&source) => {
                Self::NotPermitted { verb: "use eBPF programs", link, source: source.into() }
            }
            source => Self::Attach { program, link, path: pin.to_owned(), source: source.into() },
        }
    }
}

fn is_not_permitted(error: &(dyn Error + 'static)) -> bool {
    system_error(error).is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_end_of_a_log_is_kept() {
        assert_eq!(last_lines("1\n2\n3\n\n", 2), "2\n3");
        assert_eq!(last_lines("1\n", 2), "1");
        assert_eq!(last_lines("", 2), "");
    }
}
