// SPDX-License-Identifier: Apache-2.0
//! Programs of llb that are still on links after [`super::detach`]: those that
//! another folder of pins keeps there.

use std::io;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use llb_common::programs::{TC_INGRESS_PROGRAM, XDP_PROGRAM};

use super::clsact;
use super::error::PacketError;
use super::link_facts::LinkFacts;
use crate::clock;
use crate::netlink::Connection;

/// The kernel takes a program off its link shortly after its pin was removed.
const REMOVAL_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Those of `links` on which a program of llb still is.
///
/// # Errors
/// The kernel does not list its links.
pub async fn still_forwarding(links: &[String]) -> Result<Vec<String>, PacketError> {
    let failed = |source: io::Error| PacketError::Netlink { source };
    let mut connection = Connection::open().map_err(failed)?;
    let give_up = clock::now() + REMOVAL_LIMIT;
    loop {
        let found = LinkFacts::read(&mut connection).await.map_err(failed)?;
        let left = found.iter().filter(|link| links.contains(&link.name) && has_program(link));
        let left: Vec<String> = left.map(|link| link.name.clone()).collect();
        if left.is_empty() || clock::now() >= give_up {
            return Ok(left);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What cannot be asked, for example on an old kernel, is not there.
fn has_program(link: &LinkFacts) -> bool {
    let at_tc = SchedClassifier::query_tcx(link.ifindex, TcAttachType::Ingress);
    let at_tc = at_tc.map(|(_, programs)| programs).unwrap_or_default();
    let at_xdp = link.xdp.and_then(|(id, _)| loaded_programs().flatten().find(|program| program.id() == id));
    let names = [XDP_PROGRAM, TC_INGRESS_PROGRAM];
    clsact::has_filter(link.ifindex)
        || at_tc
            .iter()
            .chain(&at_xdp)
            .any(|program| program.name_as_str().is_some_and(|name| names.contains(&name)))
}
