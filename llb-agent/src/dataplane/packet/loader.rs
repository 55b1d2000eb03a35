//! Loads the embedded object for each link, puts its program there, and reads
//! its counters. Where things are pinned is in `pins.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use aya::EbpfLoader;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttach, TcAttachType};
use llb_common::counters::{LINK_COUNTERS_MAP, LinkCounters};
use llb_common::programs::TC_INGRESS_PROGRAM;
use prometheus_client::registry::Registry;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use super::pins::{PinFolder, provide_bpffs};
use super::{PacketError, metrics};
use crate::kernel::{Release, TCX_SINCE, system_error};

/// What `cargo xtask build-ebpf` has built, where it had before the agent was.
#[cfg(packet_object)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("LLB_PACKET_OBJECT")));
#[cfg(not(packet_object))]
const OBJECT: Option<&[u8]> = None;

/// Name of the pin that keeps the program at TC ingress of the link.
const TC_INGRESS_PIN: &str = "tc_ingress";

/// The value of a map as bytes, so that no type of ours must promise aya anything.
type CounterBytes = [u8; size_of::<LinkCounters>()];

/// The lock of each link's folder of pins, by the link's name.
pub type LinkLocks = BTreeMap<String, File>;

/// Whether this agent was built with eBPF programs inside.
pub const fn has_object() -> bool {
    OBJECT.is_some()
}

/// Programs at links that count what comes in. Dropping it leaves them there;
/// [`detach`](super::detach) takes them off.
pub struct PacketObserver {
    links: Vec<ObservedLink>,
}

struct ObservedLink {
    name: String,
    counters: PerCpuArray<MapData, CounterBytes>,
    folder: PinFolder,
}

impl PacketObserver {
    /// Puts the program at TC ingress of each link and pins it in `bpf_dir`,
    /// which is on a bpffs; one is mounted where it is missing at
    /// `/sys/fs/bpf`. Programs of a predecessor are replaced without a gap, and
    /// its counts go on. `locks` are those that a living one gave.
    ///
    /// # Errors
    /// The first link that can't be observed. Then none is: the programs are
    /// taken off those before it in `links`.
    pub fn attach(links: &[String], bpf_dir: &Path, mut locks: LinkLocks) -> Result<Self, PacketError> {
        let object = OBJECT.ok_or(PacketError::NotBuilt)?;
        if let Some(running) = Release::running().filter(|running| *running < TCX_SINCE) {
            return Err(PacketError::KernelTooOld { running });
        }
        provide_bpffs(bpf_dir)?;
        let mut observer = Self { links: Vec::with_capacity(links.len()) };
        for link in links {
            match observe(object, link, bpf_dir, locks.remove(link)) {
                Ok(observed) => observer.links.push(observed),
                Err(error) => {
                    if let Err(error) = observer.detach() {
                        tracing::warn!(%error, "programs stay on links that are not observed");
                    }
                    return Err(error);
                }
            }
        }
        Ok(observer)
    }

    /// The locks on its links, for the agent that takes over. When this one is
    /// dropped then, the programs and the locks stay.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn locks(&self) -> io::Result<LinkLocks> {
        self.links.iter().map(|link| Ok((link.name.clone(), link.folder.lock()?))).collect()
    }

    /// Takes its programs off their links and forgets the counts: the end that
    /// is wanted, unlike a crash.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach(&self) -> Result<(), PacketError> {
        self.links.iter().try_for_each(|link| link.folder.remove())
    }

    /// Shows the counts as metrics of `registry`.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        metrics::register(self, registry);
    }

    /// What each link has counted since its program was first attached, over
    /// all CPUs, in the order of [`PacketObserver::attach`]. A link whose map
    /// can't be read is left out, with a line in the log.
    pub fn counters(&self) -> Vec<(String, LinkCounters)> {
        let read = |link: &ObservedLink| match link.counters.get(&0, 0) {
            Ok(values) => {
                let values = values.iter().map(|bytes| bytemuck::pod_read_unaligned(bytes));
                Some((link.name.clone(), values.fold(LinkCounters::default(), LinkCounters::plus)))
            }
            Err(error) => {
                tracing::warn!(link = %link.name, %error, "cannot read the counters");
                None
            }
        };
        self.links.iter().filter_map(read).collect()
    }
}

impl fmt::Debug for PacketObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.links.iter().map(|link| &link.name)).finish()
    }
}

fn observe(
    object: &[u8],
    link: &str,
    bpf_dir: &Path,
    lock: Option<File>,
) -> Result<ObservedLink, PacketError> {
    let index = link_index(link)?;
    let folder = PinFolder::open(bpf_dir, link, lock)?;
    let map_pin = folder.pin(LINK_COUNTERS_MAP);
    let mut ebpf = EbpfLoader::new()
        .map_pin_path(LINK_COUNTERS_MAP, &*map_pin)
        .load(object)
        .map_err(|error| PacketError::load(link, &map_pin, error))?;

    let program: &mut SchedClassifier = ebpf
        .program_mut(TC_INGRESS_PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(PacketError::NotInObject { name: TC_INGRESS_PROGRAM })?;
    let pin = folder.pin(TC_INGRESS_PIN);
    let failed = |error| PacketError::program(TC_INGRESS_PROGRAM, link, &pin, error);
    program.load().map_err(failed)?;
    if !take_over(program, index, &pin).map_err(failed)? {
        remove_stale(&pin)?;
        let attached = attach(program, index).map_err(failed)?;
        attached.pin(&pin).map_err(|error| PacketError::pin("pin", &pin, error))?;
    }

    #[cfg(feature = "ebpf-log")]
    super::log::follow(&mut ebpf, link);

    let map = ebpf.take_map(LINK_COUNTERS_MAP).ok_or(PacketError::NotInObject { name: LINK_COUNTERS_MAP })?;
    let counters =
        PerCpuArray::try_from(map).map_err(|error| PacketError::load(link, &map_pin, error.into()))?;
    Ok(ObservedLink { name: link.to_owned(), counters, folder })
}

/// Puts `program` in the place of a predecessor's. `false` where there is
/// none at this link: no pin, or one of a link that was removed or renamed.
fn take_over(program: &mut SchedClassifier, index: u32, pin: &Path) -> Result<bool, ProgramError> {
    let pinned = match PinnedLink::from_pin(pin) {
        Ok(pinned) => pinned,
        Err(error) if has_errno(&error, Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let old = SchedClassifierLink::try_from(FdLink::from(pinned))?;
    let new = match program.attach_to_link(old) {
        Ok(new) => new,
        // The kernel detached it when its link device was removed.
        Err(error) if has_errno(&error, Errno::NOLINK) => return Ok(false),
        Err(error) => return Err(error),
    };
    let id = program.info()?.id();
    let (_, at_link) = SchedClassifier::query_tcx(index, TcAttachType::Ingress)?;
    let is_here = at_link.iter().any(|other| other.id() == id);
    // The handle is dropped; what is pinned stays.
    program.take_link(new)?;
    Ok(is_here)
}

/// First at the hook, so that it also counts what other programs drop.
fn attach(program: &mut SchedClassifier, index: u32) -> Result<FdLink, ProgramError> {
    let hook = TcAttach::Tcx { attach_type: TcAttachType::Ingress, order: LinkOrder::first() };
    let id = program.attach(index, hook)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

fn remove_stale(pin: &Path) -> Result<(), PacketError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PacketError::pin("remove", pin, error)),
        _ => Ok(()),
    }
}

/// The index of the link device in this thread's network namespace.
fn link_index(link: &str) -> Result<u32, PacketError> {
    let find = || {
        let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
        name_to_index(&socket, link)
    };
    find().map_err(|_: Errno| PacketError::NoSuchLink { link: link.to_owned() })
}

fn has_errno(error: &(dyn std::error::Error + 'static), errno: Errno) -> bool {
    system_error(error).and_then(Errno::from_io_error) == Some(errno)
}
