// SPDX-License-Identifier: Apache-2.0
//! A link with a program: its switch and its counters.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use aya::maps::{MapData, PerCpuArray};
use llb_common::counters::LinkCounters;
use llb_common::settings::LinkSettings;

use super::ladder::Conditions;
use super::link_facts::LinkFacts;
use super::pins::PinFolder;
use super::table::Table;
use crate::config::ReturnPath;
use crate::model::{Hook, HookReason};

/// A link with a program.
pub(super) struct PacketLink {
    pub(super) facts: LinkFacts,
    pub(super) hook: Hook,
    /// Why it is at this hook.
    pub(super) why: HookReason,
    /// What its hooks were tried with; `None` if they have just been tried.
    pub(super) tried_with: Option<Conditions>,
    /// Why the kernel did not take the program again when that had changed. The old one is still there.
    pub(super) refusal: Option<String>,
    /// False after the link was made anew, until a look has brought the backends there.
    pub(super) is_followed: bool,
    /// Why the driver keeps an XDP program of llb beside the one at [`Hook::Tc`].
    pub(super) kept_xdp: Option<String>,
    /// The driver has kept one since this link was made or the agent was started, and may do so again.
    pub(super) has_kept_xdp: bool,
    pub(super) folder: PinFolder,
    pub(super) return_path: ReturnPath,
    pub(super) settings: Table<u32, LinkSettings>,
    pub(super) counters: PerCpuArray<MapData, [u8; size_of::<LinkCounters>()]>,
}

impl fmt::Debug for PacketLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.facts.name, self.hook)
    }
}

impl PacketLink {
    /// Tells the programs this link's MAC address, and lets its own program handle packets.
    ///
    /// # Errors
    /// A map can't be written.
    pub(super) fn switch_on(&self, links: &Table<u32, [u8; 8]>) -> io::Result<()> {
        let mut mac = [0; 8];
        mac[..6].copy_from_slice(&self.facts.mac.bytes());
        links.insert(&self.facts.ifindex, &mac)?;
        tell(&self.settings, &self.facts, self.return_path)
    }

    /// Frames that came in, summed over all CPUs; `None` if the map can't be read.
    pub(super) fn counters(&self) -> Option<LinkCounters> {
        let values = self.counters.get(&0, 0).ok()?;
        let values = values.iter().map(|bytes| bytemuck::pod_read_unaligned(bytes));
        Some(values.fold(LinkCounters::default(), LinkCounters::plus))
    }
}

/// Makes room in the table of links: forgets all but `present`. A link that was made anew has another number.
pub(super) fn forget_others(links: &Table<u32, [u8; 8]>, present: &BTreeSet<u32>) -> io::Result<()> {
    let mut gone = Vec::new();
    links.for_each(|ifindex, _| {
        if !present.contains(&ifindex) {
            gone.push(ifindex);
        }
    })?;
    gone.iter().try_for_each(|ifindex| links.remove(ifindex).map(drop))
}

/// Tells a program on which link it is. Until then it passes all packets to the kernel.
pub(super) fn tell(
    settings: &Table<u32, LinkSettings>,
    link: &LinkFacts,
    return_path: ReturnPath,
) -> io::Result<()> {
    let old = settings.get(&0)?.unwrap_or_default();
    let returns_by_routes = u8::from(return_path == ReturnPath::Routes);
    let new = LinkSettings { ifindex: link.ifindex, mac: link.mac, returns_by_routes, ..old };
    settings.insert(&0, &new)
}
