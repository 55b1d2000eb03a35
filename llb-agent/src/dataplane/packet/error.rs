// SPDX-License-Identifier: Apache-2.0
//! Why the packet plane could not be started or removed. Each error names the object and says
//! what to do.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::ProgramError;

use crate::kernel::system_error;

/// How much of a verifier's log is shown: its end says what was refused, and the rest can be
/// megabytes.
const VERIFIER_LOG_TAIL_LINES: usize = 12;

/// The packet plane could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The agent was built without eBPF programs.
    #[error(
        "this llb-agent was built without eBPF programs: run `cargo xtask build-ebpf`, then build the agent again"
    )]
    NotBuilt,
    /// Another agent takes the links over.
    #[error("another llb-agent takes over")]
    HandedOver,
    /// Rights are missing.
    #[error(
        "no permission to {verb} on link {link}: run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// What was tried.
        verb: &'static str,
        /// The link.
        link: String,
        /// The kernel's error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The link does not exist.
    #[error("link {link} does not exist; `ip link` lists those that do")]
    NoSuchLink {
        /// Its name.
        link: String,
    },
    /// None of the links can have a program.
    #[error(
        "frames on {links} have no Ethernet header (as on tun, WireGuard, PPP and IP tunnels), which the packet plane \
         needs; name an Ethernet link as --linkdevice"
    )]
    NoEthernetHeader {
        /// Their names.
        links: String,
    },
    /// Another agent has the link.
    #[error(
        "another llb-agent uses link {link}: it holds the lock on {path}; stop it first, see `fuser {path}`"
    )]
    Busy {
        /// The link.
        link: String,
        /// The locked folder.
        path: PathBuf,
    },
    /// The kernel does not list its links.
    #[error("cannot list the links of this machine")]
    Netlink {
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// Pins need a file system of type bpf.
    #[error("{path} is not on a bpffs; mount one there: `mount -t bpf bpf {path}`")]
    NotBpffs {
        /// The folder for pins.
        path: PathBuf,
    },
    /// The file system for pins could not be mounted.
    #[error("cannot mount the bpffs at {path}; mount it yourself: `mount -t bpf bpf {path}`")]
    Mount {
        /// Where.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The object's maps can't be made, or maps of another version are pinned.
    #[error(
        "cannot load the eBPF object for link {link} with its maps in {path}; if another version of llb has \
         left maps there, `llb-agent detach` removes them"
    )]
    Load {
        /// The link.
        link: String,
        /// The folder of its pins.
        path: PathBuf,
        /// The loader's error.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The machine has too little memory for the maps.
    #[error("not enough memory for the eBPF maps of link {link}; use a smaller --max-flows")]
    NoMemory {
        /// The link.
        link: String,
        /// The loader's error.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The kernel's verifier rejected a program.
    #[error("the kernel rejected program {program} for link {link}; the end of its verifier's log:\n{log}")]
    Verify {
        /// The program.
        program: &'static str,
        /// The link.
        link: String,
        /// The last lines of the log.
        log: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The object and the agent do not belong together.
    #[error("the eBPF object has no {name}; build both again: `cargo xtask build-ebpf`, then the agent")]
    NotInObject {
        /// The missing program or map.
        name: &'static str,
    },
    /// The program could not be loaded or attached.
    #[error("cannot attach program {program} to link {link} (pin {path})")]
    Attach {
        /// The program.
        program: &'static str,
        /// The link.
        link: String,
        /// Its pin.
        path: PathBuf,
        /// The loader's error.
        #[source]
        source: Box<ProgramError>,
    },
    /// The driver does not let the XDP program go.
    #[error(
        "the driver of {link} keeps llb's XDP program (pin {path}); lower the link's MTU, then try again: `ip link set \
         {link} mtu 1500`"
    )]
    XdpKept {
        /// The link.
        link: String,
        /// Its pin.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A file or folder on the bpffs can't be used.
    #[error("cannot {verb} {path}; `llb-agent detach` removes all pins of llb")]
    Pin {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's error.
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

    /// The object or its maps could not be loaded.
    pub(super) fn load(link: &str, path: &Path, source: aya::EbpfError) -> Self {
        let link = link.to_owned();
        if is_not_permitted(&source) {
            return Self::NotPermitted { verb: "make eBPF maps", link, source: source.into() };
        }
        // The size can't be expressed, or there is not that much memory.
        if system_error(&source)
            .is_some_and(|error| matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::E2BIG)))
        {
            return Self::NoMemory { link, source: source.into() };
        }
        Self::Load { link, path: path.to_owned(), source: source.into() }
    }

    /// The link is not there, or went away while it was given its program. It may come back.
    pub fn is_link_away(&self) -> bool {
        let is_gone = |error: &io::Error| error.raw_os_error() == Some(libc::ENODEV);
        match self {
            Self::NoSuchLink { .. } => true,
            // This variant is transparent, so its chain does not have the kernel's error.
            Self::Attach { source, .. } if let ProgramError::IOError(error) = &**source => is_gone(error),
            _ => system_error(self).is_some_and(is_gone),
        }
    }

    /// A program could not be loaded or attached.
    pub(super) fn program(program: &'static str, link: &str, pin: &Path, source: ProgramError) -> Self {
        let link = link.to_owned();
        match source {
            // Without rights the verifier is not asked, so its log is empty.
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
    use super::*;

    #[test]
    fn a_link_that_went_away_is_told_from_other_failures() {
        let attach = |number| {
            let source = ProgramError::IOError(io::Error::from_raw_os_error(number));
            PacketError::program("llb_tc_ingress", "eth0", Path::new("pin"), source)
        };
        assert!(attach(libc::ENODEV).is_link_away());
        assert!(!attach(libc::EBUSY).is_link_away());
        assert!(PacketError::NoSuchLink { link: "eth0".to_owned() }.is_link_away());
    }

    #[test]
    fn the_last_lines_of_a_log_are_kept() {
        assert_eq!(last_lines("1\n2\n3\n\n", 2), "2\n3");
        assert_eq!(last_lines("1\n", 2), "1");
        assert_eq!(last_lines("", 2), "");
    }
}
