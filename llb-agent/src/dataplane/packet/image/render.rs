// SPDX-License-Identifier: Apache-2.0
//! The writes of an image as text, one line each, for tests that show what a change does
//! to the maps.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use llb_common::address::{Address, Mac};
use llb_common::backend::{ACTIVE, BackendEntry, BackendId, DEAD, DRAINING};
use llb_common::frontend::{
    Chunk, DSR, FrontendEntry, FrontendKey, MaglevTable, NAT_INSTEAD, RESTRICTED, SourceRangeKey, TCP,
};

use super::gate::Gate;
use super::map_image::{Limits, MapImage};
use super::next_hop::NextHop;
use super::write::Write;
use crate::model::{Frontend, Rule};

/// The writes that fill empty maps with `frontends`, in order, one line each. Every backend can
/// be reached directly, by link 2, and each rule gets the mode that it asks for.
pub fn render(frontends: &BTreeMap<Frontend, Arc<Rule>>) -> String {
    let mut image = MapImage::empty(Limits { frontends: 1024, backends: 1024, chunks: 1024 });
    let mut text = String::new();
    for (frontend, rule) in frontends {
        match image.upsert(*frontend, rule, (rule.mode, Gate::Open), next_hop, 1) {
            Ok(writes) => writes.iter().for_each(|write| text.push_str(&(line(write) + "\n"))),
            Err(limit) => drop(writeln!(text, "{frontend}: {limit}")),
        }
    }
    text
}

/// A next hop whose MAC address is made of the end of `address`.
fn next_hop(address: IpAddr) -> Option<NextHop> {
    let (end, source) = match address {
        IpAddr::V4(v4) => (v4.octets(), IpAddr::from([192, 0, 2, 20])),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            ([octets[12], octets[13], octets[14], octets[15]], "2001:db8::20".parse().ok()?)
        }
    };
    let mac = Mac::new([2, 0, end[0], end[1], end[2], end[3]]);
    let source_mac = Mac::new([2, 0, 0, 0, 0, 1]);
    Some(NextHop {
        ifindex: 2,
        source_mac,
        mac: Some(mac),
        source,
        mtu: 1500,
        is_lasting: true,
        waits: false,
    })
}

fn line(write: &Write) -> String {
    match write {
        Write::ResetTraffic(id) => format!("reset the counters of backend {}", name(*id)),
        Write::Backend(entry) => format!("backend {}: {}", name(entry.id), backend(entry)),
        Write::Chunk(number, chunk) => format!("chunk {number}: {}", slots(chunk)),
        Write::Member(key, id) => {
            format!("frontend {} on host {:08x}: backend {}", key.frontend, key.host, name(*id))
        }
        Write::SourceRange(key, admits) => {
            format!("{}: {}", range(key), if *admits == 1 { "admitted" } else { "refused" })
        }
        Write::Vip(vip) => format!("VIP {}", IpAddr::from(*vip)),
        Write::Frontend(key, entry) => format!("{}: {}", address(key), frontend(entry)),
        Write::RemoveFrontend(key) => format!("remove {}", address(key)),
        Write::RemoveVip(vip) => format!("remove VIP {}", IpAddr::from(*vip)),
        Write::RemoveMember(key) => format!("remove frontend {} on host {:08x}", key.frontend, key.host),
        Write::RemoveSourceRange(key) => format!("remove {}", range(key)),
    }
}

/// Index and generation.
fn name(id: BackendId) -> String {
    format!("{}.{}", id.index(), id.generation())
}

fn address(key: &FrontendKey) -> String {
    socket(key.vip, key.port.number(), key.protocol)
}

fn socket(address: Address, port: u16, protocol: u8) -> String {
    let protocol = if protocol == TCP { "TCP" } else { "UDP" };
    format!("{}/{protocol}", SocketAddr::new(address.into(), port))
}

fn backend(entry: &BackendEntry) -> String {
    let state = match entry.state {
        ACTIVE => "active",
        DRAINING => "draining",
        DEAD => "dead",
        _ => return "free".to_owned(),
    };
    format!(
        "{} of {}, {state}, host {:08x}, link {} from {} to {}, snat {}, mtu {}",
        socket(entry.address, entry.port.number(), entry.protocol),
        socket(entry.vip, entry.vip_port.number(), entry.protocol),
        entry.host,
        entry.ifindex,
        mac(entry.source_mac),
        mac(entry.mac),
        IpAddr::from(entry.snat),
        entry.mtu,
    )
}

fn mac(mac: Mac) -> String {
    mac.bytes().map(|byte| format!("{byte:02x}")).join(":")
}

/// How many slots each backend has.
fn slots(chunk: &Chunk) -> String {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for slot in chunk {
        *counts.entry(*slot).or_default() += 1;
    }
    let text = |(slot, count): (u32, usize)| match slot {
        0 => format!("{count} unused"),
        slot => format!("{count} for {}", name(BackendId(slot))),
    };
    counts.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

fn range(key: &SourceRangeKey) -> String {
    let bytes: Vec<u8> = key.address.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let address = Address::new(bytes.try_into().unwrap_or_default());
    let first_bit = if address.is_v4() { 32 + 96 } else { 32 };
    let length = key.prefix_bits - first_bit;
    format!("clients of service {:08x} in {}/{length}", key.service, IpAddr::from(address))
}

fn frontend(entry: &FrontendEntry) -> String {
    let mode = match entry.flags & (DSR | NAT_INSTEAD) {
        0 => "nat",
        DSR => "dsr",
        _ => "dsr or nat instead",
    };
    let mut text = format!("id {}, service {:08x}, {mode}, {}", entry.id, entry.service, table(entry.table));
    if entry.previous.slots != 0 {
        let _ = write!(text, ", before {} {}", entry.changed, table(entry.previous));
    }
    if entry.flags & RESTRICTED != 0 {
        text.push_str(", restricted");
    }
    match Gate::of(entry) {
        Gate::Open => {}
        Gate::OpeningsOnly => text.push_str(", openings only"),
        Gate::KnownFlowsOnly => text.push_str(", known flows only"),
    }
    if entry.affinity_secs != 0 {
        let _ = write!(text, ", affinity {} s", entry.affinity_secs);
    }
    text
}

fn table(table: MaglevTable) -> String {
    match table.slots {
        0 => "no table".to_owned(),
        slots => format!("table of {slots} slots from chunk {}", table.first_chunk),
    }
}
