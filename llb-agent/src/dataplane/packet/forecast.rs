// SPDX-License-Identifier: Apache-2.0
//! Tells which hooks links would get, before anything is loaded. It only reads. The kernel may still refuse a program when
//! it is attached (`loader.rs`).

use std::io;

use super::hooks::{Allowed, hides_vlans};
use super::link_facts::LinkFacts;
use crate::config::{Datapath, XdpMode};
use crate::model::{Hook, HookChoice};
use crate::netlink::{Connection, Driver, drivers};

/// What is known of one link before it has a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookForecast {
    /// The number of the link.
    pub ifindex: u32,
    /// The hooks to try, in this order.
    pub hooks: &'static [Hook],
    /// What decided that.
    pub choice: HookChoice,
    /// The driver runs XDP programs, or does not say that it has none.
    pub runs_xdp: bool,
    /// XDP is known to take frames in several buffers, so any MTU.
    pub runs_large: bool,
    /// XDP can't tell frames of the link's VLANs from the link's own.
    pub hides_vlans: bool,
}

/// The forecasts of those of `links`, by number, that exist.
///
/// # Errors
/// The kernel does not answer.
pub async fn forecast(links: &[u32], datapath: Datapath, xdp_mode: XdpMode) -> io::Result<Vec<HookForecast>> {
    let mut found = LinkFacts::read(&mut Connection::open()?).await?;
    found.retain(|link| links.contains(&link.ifindex));
    let drivers = drivers(links).await?;
    let known: Vec<(LinkFacts, Driver)> = found
        .into_iter()
        .map(|link| {
            let driver = drivers.get(&link.ifindex).cloned().unwrap_or_else(Driver::unknown);
            (link, driver)
        })
        .collect();
    let allowed = Allowed { datapath, xdp_mode };
    let never = allowed.never_taking(known.iter().map(|(link, driver)| (link, driver)));
    let forecasts = known.iter().map(|(link, driver)| {
        let ladder = allowed.ladder(link, driver, never);
        HookForecast {
            ifindex: link.ifindex,
            hooks: ladder.hooks,
            choice: ladder.choice,
            runs_xdp: driver.xdp.runs_programs || xdp_mode == XdpMode::Generic,
            runs_large: driver.xdp.runs_large_programs || xdp_mode == XdpMode::Generic,
            hides_vlans: hides_vlans(link, driver),
        }
    });
    Ok(forecasts.collect())
}
