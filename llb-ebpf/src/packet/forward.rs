// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! A client's packet to a frontend: which backend it goes to, and with which addresses. The fast path, for
//! known flows, is here; how a flow becomes known is in `begin.rs`.
//!
//! ```text
//!   FLOWS --hit--> touch -----------------------------------------> backend
//!     `--miss--> begin: FRONTENDS, PENDING_FLOWS, ... ------------> backend, or a reason
//! ```

use core::ffi::c_void;

use llb_common::address::WirePort;
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{FIN, ForwardKey, RST, opens};
use llb_common::frontend::DSR_TIME_TO_LIVE;
use llb_common::parse::{Packet, Shape};
use llb_common::reason::Reason;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::decision::{Decision, Stop};
use crate::flow::{backend_of, key_of, touch};
use crate::flow_table::flows;
use crate::hooks::Hook;
use crate::maps::backend;
use crate::{begin, confirm, life, size};

/// Fills `decision` for a client's packet.
#[inline(always)]
pub(crate) fn decide<H: Hook>(
    hook: &H,
    packet: &Packet,
    decision: &mut Decision,
    link: &LinkSettings,
) -> Result<(), Stop> {
    let key = key_of(packet);
    let (backend, snat_port) = match find(hook.context(), &key, packet, decision.now, link) {
        Some(known) => known,
        None => {
            begin::find_or_begin(hook.context(), packet, decision, link)?;
            (backend(decision.backend).ok_or(Reason::NoLiveBackend)?, decision.source_port)
        }
    };
    let is_dsr = snat_port == WirePort::default();
    fill(decision, packet, backend, snat_port, is_dsr);
    if backend.mtu != 0
        && packet.length > backend.mtu
        && size::exceeds::<H>(hook.context(), packet, backend.mtu.into()).is_yes()
    {
        return Err(Reason::TooBig.into());
    }
    let fits = backend.address.is_v4() == (packet.is_v6 == 0) && backend.snat.is_v4() == (packet.is_v6 == 0);
    if is_dsr && packet.time_to_live < DSR_TIME_TO_LIVE {
        return Err(Reason::Returned.into());
    }
    if is_dsr || fits { Ok(()) } else { Err(Reason::BadBackend.into()) }
}

/// Backend and source port of a flow that is in `FLOWS`.
#[inline(always)]
fn find(
    context: *mut c_void,
    key: &ForwardKey,
    packet: &Packet,
    now: Tick,
    link: &LinkSettings,
) -> Option<(&'static BackendEntry, WirePort)> {
    let flow = flows().find(key)?;
    // SAFETY: `flow` points to a line of `FLOWS`, which is valid until the program returns. If the flow is
    // removed meanwhile, this may be a copy of another flow's entry; `backend_of` accepts it only with a
    // backend that exists.
    let entry = unsafe { *flow };
    let backend = backend_of(&entry, packet)?;
    if packet.shape != Shape::Error as u8 {
        let opens_again = opens(packet.tcp_flags) && entry.seen & (FIN | RST) != 0;
        if opens_again && confirm::release_ended(key, flow).is_yes() {
            return None;
        }
        touch(context, flow, &entry, backend, packet, link, now);
        life::follow(flow, &entry, backend, packet);
    }
    Some((backend, entry.snat_port))
}

/// Writes into `decision` what the packet to this backend looks like.
#[inline(always)]
fn fill(decision: &mut Decision, packet: &Packet, backend: &BackendEntry, snat_port: WirePort, is_dsr: bool) {
    if is_dsr {
        decision.source = packet.source.copied();
        decision.destination = packet.destination.copied();
    } else {
        decision.source = backend.snat.copied();
        decision.destination = backend.address.copied();
    }
    decision.backend = backend.id;
    decision.ifindex = backend.ifindex;
    decision.source_port = snat_port;
    decision.destination_port = backend.port;
    decision.destination_mac = backend.mac.copied();
    decision.source_mac = backend.source_mac.copied();
    decision.is_nat = u32::from(!is_dsr);
}
