// SPDX-License-Identifier: Apache-2.0
//! `llb-agent trace`: asks the programs to show what they decide about one client's packets,
//! and prints it. It uses the pinned maps, so it works with or without a running agent.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, bail};
use aya::maps::{Map, RingBuf};
use llb_common::address::Address;
use llb_common::conntrack::{ACK, FIN, RST, SYN};
use llb_common::frontend::TCP;
use llb_common::maps;
use llb_common::parse::Shape;
use llb_common::reason::Reason;
use llb_common::settings::{LinkSettings, Settings};
use llb_common::trace::{NO_REASON, TraceEvent};
use tokio::signal::unix::{SignalKind, signal};

use super::pinned;
use super::pins::{SHARED, folders};
use super::ring;
use super::table::Table;
use crate::error_chain::ErrorChain;

/// After so many packets it looks for signals, however fast further ones come.
const PACKETS_AT_ONCE: u32 = 4096;

/// Prints until Ctrl-C, SIGTERM or SIGHUP, or until it has shown `count` packets.
///
/// # Errors
/// No packet plane is pinned in `bpf_dir`, or its maps can't be used.
pub async fn trace(bpf_dir: &Path, client: IpAddr, one_in: u32, count: Option<u64>) -> anyhow::Result<()> {
    let Some(layout) = pinned::layout_with(bpf_dir, maps::TRACE)? else {
        bail!(pinned::nothing_pinned(bpf_dir));
    };
    let mut left = count.unwrap_or(u64::MAX);
    // The signals are caught before the switch is turned on, so that it is not left on when the process is ended.
    let listen = |kind| signal(kind).context("cannot wait for signals");
    let (mut interrupted, mut terminated, mut hung_up) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    let switch = Switch::on(&layout, client, one_in)?;
    let mut ring = RingBuf::try_from(Map::RingBuf(pinned::shared(&layout, maps::TRACE)?))?;
    while left > 0 {
        tokio::select! {
            waited = ring::wait(&ring) => waited?,
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
            _ = hung_up.recv() => break,
        }
        let mut out = io::stdout().lock();
        for _ in 0..PACKETS_AT_ONCE {
            let Some(item) = ring.next() else { break };
            if left > 0
                && let Ok(event) = bytemuck::try_pod_read_unaligned::<TraceEvent>(&item)
            {
                writeln!(out, "{}", text(&event))?;
                left -= 1;
            }
        }
        out.flush()?;
    }
    drop(switch);
    Ok(())
}

/// While this lives, the programs show packets.
struct Switch {
    settings: Table<u32, Settings>,
    links: Vec<Table<u32, LinkSettings>>,
}

impl Switch {
    fn on(layout: &Path, client: IpAddr, one_in: u32) -> anyhow::Result<Self> {
        let settings = Table::new(pinned::shared(layout, maps::SETTINGS)?)?;
        let mut links = Vec::new();
        for folder in folders(layout)?.into_iter().filter(|folder| !folder.ends_with(SHARED)) {
            links.push(Table::new(pinned::open(&folder.join(maps::LINK.name))?)?);
        }
        let switch = Self { settings, links };
        switch.set(Address::from(client), one_in - 1, true)?;
        Ok(switch)
    }

    fn set(&self, client: Address, mask: u32, is_on: bool) -> anyhow::Result<()> {
        let mut settings = self.settings.get(&0)?.context("the map of settings is empty")?;
        (settings.trace_client, settings.trace_mask) = (client, mask);
        self.settings.insert(&0, &settings)?;
        for link in &self.links {
            let mut settings = link.get(&0)?.context("the map of a link's settings is empty")?;
            settings.traces = u8::from(is_on);
            link.insert(&0, &settings)?;
        }
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = self.set(Address::default(), 0, false) {
            tracing::warn!(
                error = %ErrorChain(error.as_ref()),
                "cannot switch the trace off: the programs go on showing packets"
            );
        }
    }
}

/// One line: seconds since the machine started, the packet, and what became of it.
fn text(event: &TraceEvent) -> String {
    let end = |address: Address, port: llb_common::address::WirePort| {
        SocketAddr::new(IpAddr::from(address), port.number())
    };
    let shape = match event.shape {
        shape if shape == Shape::Error as u8 => " icmp-error",
        shape if shape == Shape::LaterFragment as u8 => " fragment",
        _ => "",
    };
    let outcome = match Reason::ALL.get(usize::from(event.reason)) {
        Some(reason) if event.reason != NO_REASON => {
            format!("{} ({})", format!("{:?}", reason.verdict()).to_lowercase(), reason.name())
        }
        _ if event.is_reply != 0 => {
            format!("sent to the client of backend {} by link {}", event.backend.index(), event.out_ifindex)
        }
        _ => format!("sent to backend {} by link {}", event.backend.index(), event.out_ifindex),
    };
    format!(
        "{}.{:06} link {} {} {} -> {} {}{}{} {} bytes: {outcome}",
        event.nanoseconds / 1_000_000_000,
        event.nanoseconds / 1000 % 1_000_000,
        event.in_ifindex,
        if event.is_reply != 0 { "reply" } else { "forward" },
        end(event.source, event.source_port),
        end(event.destination, event.destination_port),
        if event.protocol == TCP { "tcp" } else { "udp" },
        flags(event),
        shape,
        event.length,
    )
}

fn flags(event: &TraceEvent) -> String {
    let names = [(SYN, "S"), (ACK, "."), (FIN, "F"), (RST, "R")];
    let set: String =
        names.iter().filter(|(flag, _)| event.tcp_flags & flag != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { set } else { format!(" [{set}]") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llb_common::address::WirePort;
    use llb_common::backend::BackendId;

    #[test]
    fn a_line_shows_a_packet_and_what_became_of_it() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let event = TraceEvent {
            nanoseconds: 1_500_000_000,
            source: address("198.51.100.10"),
            destination: address("192.0.2.100"),
            source_port: WirePort::new(40_000),
            destination_port: WirePort::new(80),
            backend: BackendId::new(3, 1),
            in_ifindex: 2,
            out_ifindex: 2,
            protocol: TCP,
            tcp_flags: SYN,
            reason: NO_REASON,
            length: 60,
            ..TraceEvent::default()
        };
        assert_eq!(
            text(&event),
            "1.500000 link 2 forward 198.51.100.10:40000 -> 192.0.2.100:80 tcp [S] 60 bytes: \
             sent to backend 3 by link 2"
        );
        let reply = TraceEvent { is_reply: 1, ..event };
        assert!(text(&reply).ends_with("sent to the client of backend 3 by link 2"), "{}", text(&reply));
        let dropped = TraceEvent { reason: Reason::TooBig as u8, ..event };
        assert!(text(&dropped).ends_with("drop (too_big)"), "{}", text(&dropped));
    }
}
