// SPDX-License-Identifier: Apache-2.0
//! What the running kernel supports, and what it allows this process to do. It
//! is probed where it can be, never guessed from the name of a distribution.
//! Nothing is decided or changed here.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::{ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{is_btf_supported, is_map_supported, is_program_supported};
use caps::{CapSet, Capability};
use serde::Serialize;

use crate::error_chain::ErrorChain;

/// Where tools expect the file system of pinned eBPF objects.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The first kernel that stores with an address who added it (`IFA_PROTO`).
pub const IFA_PROTO_SINCE: Release = Release { major: 5, minor: 18 };

/// The number of the loopback link in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;

/// `BPF_FS_MAGIC` in linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// What the kernel supports, as plain data. `Display` prints one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelAbilities {
    /// `uname -r`.
    pub release: String,
    /// eBPF maps.
    pub bpf: Ability,
    /// Type information (BTF), which llb's maps and programs have.
    pub btf: Ability,
    /// XDP programs, which run when a frame is received.
    pub xdp: Ability,
    /// tcx links, which attach programs to the TC hooks without a qdisc, and can be pinned and updated.
    pub tcx: Ability,
    /// Maps of sockets, and programs that redirect the data of their streams.
    pub sockmap: Ability,
    /// [`BPFFS`] is mounted.
    pub bpffs: Ability,
    /// A mark on each address that says who added it.
    pub ifa_proto: Ability,
}

/// Whether something can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ability {
    /// The kernel supports and allows it.
    Yes,
    /// The kernel does not support it, or does not allow it.
    No(Reason),
}

/// Why something cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The probe was not allowed, so it is unknown whether the kernel supports it.
    NotPermitted,
    /// The kernel is too old, or was built without it.
    NotInKernel,
    /// Only this release and newer ones support it.
    Since(Release),
    /// The file system is not mounted.
    NotMounted,
    /// The probe failed for another reason: the error with its causes.
    Failed(String),
}

/// The first two numbers of a kernel's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Release {
    /// 6 in 6.18.
    pub major: u32,
    /// 18 in 6.18.
    pub minor: u32,
}

/// A capability that llb may need (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cap {
    /// Add and remove addresses; attach eBPF programs to links.
    NetAdmin,
    /// Raw sockets.
    NetRaw,
    /// Listen on low ports.
    NetBindService,
    /// Load eBPF programs.
    Bpf,
    /// Load eBPF programs that compute with pointers, as llb's do.
    Perfmon,
    /// Mount file systems.
    SysAdmin,
}

impl KernelAbilities {
    /// Probes the kernel by creating small maps and programs, which are dropped at once.
    pub fn probe() -> Self {
        let release = release();
        let number = Release::parse(&release);
        Self {
            bpf: answer(is_map_supported(MapType::Array)),
            btf: answer(is_btf_supported()),
            xdp: answer(is_program_supported(ProgramType::Xdp)),
            tcx: tcx(),
            sockmap: answer(is_map_supported(MapType::SockHash))
                .and(|| answer(is_program_supported(ProgramType::SkSkb))),
            bpffs: if is_bpffs(Path::new(BPFFS)) { Ability::Yes } else { Ability::No(Reason::NotMounted) },
            ifa_proto: since(number, IFA_PROTO_SINCE),
            release,
        }
    }
}

impl fmt::Display for KernelAbilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { release, bpf, btf, xdp, tcx, sockmap, bpffs, ifa_proto } = self;
        write!(
            f,
            "kernel {release}: bpf {bpf}, btf {btf}, xdp {xdp}, tcx {tcx}, sockmap {sockmap}, \
             bpffs {bpffs}, ifa_proto {ifa_proto}"
        )
    }
}

// === impl Ability ===

impl Ability {
    /// Whether it can be used.
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }

    fn and(self, next: impl FnOnce() -> Self) -> Self {
        if self.is_yes() { next() } else { self }
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::No(reason) => write!(f, "no ({reason})"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted => f.write_str("not permitted: needs root, or CAP_BPF and CAP_NET_ADMIN"),
            Self::NotInKernel => f.write_str("not in this kernel"),
            Self::Since(release) => write!(f, "needs kernel {release}"),
            Self::NotMounted => write!(f, "not mounted at {BPFFS}"),
            Self::Failed(error) => write!(f, "the probe failed: {error}"),
        }
    }
}

// === impl Release ===

impl Release {
    /// The release of the running kernel; `None` if its name has no version.
    pub fn running() -> Option<Self> {
        Self::parse(&release())
    }

    /// From the name of a kernel, as in `6.12.1-amd64`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self { major, minor })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

// === impl Cap ===

impl Cap {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::NetAdmin, Self::NetBindService, Self::Bpf, Self::Perfmon, Self::NetRaw, Self::SysAdmin];

    /// Each of these is enough. The first one is the capability's own name.
    fn granted_by(self) -> &'static [Capability] {
        match self {
            Self::NetAdmin => &[Capability::CAP_NET_ADMIN],
            Self::NetRaw => &[Capability::CAP_NET_RAW],
            Self::NetBindService => &[Capability::CAP_NET_BIND_SERVICE],
            // Split off from CAP_SYS_ADMIN in 5.8, which still includes it (capabilities(7)).
            Self::Bpf => &[Capability::CAP_BPF, Capability::CAP_SYS_ADMIN],
            Self::Perfmon => &[Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN],
            Self::SysAdmin => &[Capability::CAP_SYS_ADMIN],
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Self::NetAdmin => "to change addresses",
            Self::NetRaw => "to announce VIPs",
            Self::NetBindService => "to listen on ports below 1024",
            Self::Bpf => "to load eBPF programs; CAP_SYS_ADMIN before kernel 5.8",
            Self::Perfmon => {
                "to load eBPF programs that compute with pointers; CAP_SYS_ADMIN before kernel 5.8"
            }
            Self::SysAdmin => "to mount the file system of pinned eBPF objects",
        }
    }
}

/// As in `CAP_NET_ADMIN (to change addresses)`.
impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.granted_by().first() {
            write!(f, "{name} ({})", self.purpose())?;
        }
        Ok(())
    }
}

/// The capabilities in `wanted` that this thread does not have.
pub fn missing_capabilities(wanted: &[Cap]) -> Vec<Cap> {
    match caps::read(None, CapSet::Effective) {
        Ok(effective) => missing(wanted, &effective),
        // Unknown. The kernel will refuse what it does not allow.
        Err(_) => Vec::new(),
    }
}

/// Whether `path` is on a file system for pinned eBPF objects.
pub fn is_bpffs(path: &Path) -> bool {
    // The type of f_type differs between architectures: some have it signed, some longer.
    rustix::fs::statfs(path).is_ok_and(|statfs| statfs.f_type as u32 == BPF_FS_MAGIC)
}

/// The last [`io::Error`] in the chain of causes: the error of the system call.
pub fn system_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.filter_map(|error| error.downcast_ref()).last()
}

fn missing(wanted: &[Cap], effective: &HashSet<Capability>) -> Vec<Cap> {
    let is_missing = |cap: &Cap| !cap.granted_by().iter().any(|granting| effective.contains(granting));
    wanted.iter().copied().filter(is_missing).collect()
}

/// The release of the running kernel, as `uname -r` prints it.
fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Asks for the programs at a tcx hook, which a kernel without tcx refuses.
pub fn tcx() -> Ability {
    match SchedClassifier::query_tcx(LOOPBACK_INDEX, TcAttachType::Ingress) {
        Ok(_) => Ability::Yes,
        Err(error) => refusal(&error),
    }
}

/// Yes if the release of the running kernel is unknown.
fn since(running: Option<Release>, first: Release) -> Ability {
    match running {
        Some(running) if running < first => Ability::No(Reason::Since(first)),
        _ => Ability::Yes,
    }
}

fn answer<E: Error + 'static>(probe: Result<bool, E>) -> Ability {
    match probe {
        Ok(true) => Ability::Yes,
        Ok(false) => Ability::No(Reason::NotInKernel),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &(dyn Error + 'static)) -> Ability {
    let reason = match system_error(error).map(io::Error::kind) {
        Some(io::ErrorKind::PermissionDenied) => Reason::NotPermitted,
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Reason::NotInKernel,
        _ => Reason::Failed(ErrorChain(error).to_string()),
    };
    Ability::No(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_number() {
        let parsed =
            ["6.18.44", "5.18", "5.15.0-91-generic", "6.1-rc1"].map(|text| Release::parse(text).unwrap());
        assert_eq!(parsed.map(|release| release >= IFA_PROTO_SINCE), [true, true, false, true]);
        assert_eq!(Release::parse("strange"), None);
        assert!(since(None, IFA_PROTO_SINCE).is_yes());
    }

    #[test]
    fn the_reason_is_the_error_of_the_system_call() {
        let refused = |errno: rustix::io::Errno| refusal(&io::Error::from(errno));
        assert_eq!(refused(rustix::io::Errno::PERM), Ability::No(Reason::NotPermitted));
        assert_eq!(refused(rustix::io::Errno::NOSYS), Ability::No(Reason::NotInKernel));
        assert!(matches!(refused(rustix::io::Errno::NOMEM), Ability::No(Reason::Failed(_))));
    }

    #[test]
    fn a_failed_probe_keeps_all_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot create a map")]
        struct MapError(#[source] io::Error);
        let error = MapError(io::Error::from_raw_os_error(libc::ENOMEM));
        let expected = "cannot create a map: Cannot allocate memory (os error 12)";
        assert_eq!(refusal(&error), Ability::No(Reason::Failed(expected.to_owned())));
    }

    #[test]
    fn a_probe_without_capabilities_succeeds_and_prints_one_line() {
        let line = KernelAbilities::probe().to_string();
        assert!(line.starts_with("kernel ") && line.contains("ifa_proto ") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn missing_capabilities_are_named_with_their_purpose() {
        let wanted = [Cap::NetAdmin, Cap::Bpf, Cap::Perfmon];
        let missing_with = |caps: &[Capability]| missing(&wanted, &caps.iter().copied().collect());
        assert_eq!(missing_with(&[Capability::CAP_SYS_ADMIN]), [Cap::NetAdmin]);
        assert_eq!(missing_with(&[Capability::CAP_NET_ADMIN, Capability::CAP_BPF]), [Cap::Perfmon]);
        assert_eq!(Cap::NetAdmin.to_string(), "CAP_NET_ADMIN (to change addresses)");
    }
}
