// SPDX-License-Identifier: Apache-2.0
//! What the drivers of links say about XDP, offloads and queues. Each question has sockets of its own.

use std::collections::BTreeMap;
use std::io;

use super::generic::Family;
use super::offloads::{self, Offloads};
use super::xdp_features::{self, XdpFeatures};

/// What the driver of a link says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Driver {
    pub(crate) xdp: XdpFeatures,
    pub(crate) offloads: Offloads,
}

impl Driver {
    /// Of a driver that says nothing: it is only known by trying.
    pub(crate) const fn unknown() -> Self {
        let offloads = Offloads { hides_vlan_tags: false, all: Vec::new() };
        Self { xdp: XdpFeatures::UNKNOWN, offloads }
    }

    /// Of a driver that could not be asked: it may hide the tags of VLANs.
    pub(crate) const fn not_asked() -> Self {
        let offloads = Offloads { hides_vlan_tags: true, all: Vec::new() };
        Self { xdp: XdpFeatures::UNKNOWN, offloads }
    }
}

/// What the drivers of these links (interface indexes) say. Links that do not exist are left out.
///
/// # Errors
/// The kernel does not answer.
pub(crate) async fn drivers(links: &[u32]) -> io::Result<BTreeMap<u32, Driver>> {
    // An older kernel lacks a family.
    let (mut netdev, mut ethtool) = (Family::open("netdev").await?, Family::open("ethtool").await?);
    let mut drivers = BTreeMap::new();
    for link in links {
        match ask(&mut netdev, &mut ethtool, *link).await {
            Ok(driver) => {
                drivers.insert(*link, driver);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(drivers)
}

async fn ask(netdev: &mut Option<Family>, ethtool: &mut Option<Family>, link: u32) -> io::Result<Driver> {
    let mut driver = Driver::unknown();
    if let Some(netdev) = netdev {
        driver.xdp = xdp_features::ask(netdev, link).await?;
    }
    if let Some(ethtool) = ethtool {
        driver.offloads = offloads::ask(ethtool, link).await?;
    }
    Ok(driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_driver_of_loopback_runs_no_xdp_and_takes_no_frames() {
        const LOOPBACK: u32 = 1;
        let drivers = drivers(&[LOOPBACK, u32::MAX >> 1]).await.unwrap();
        assert_eq!(drivers.keys().copied().collect::<Vec<_>>(), [LOOPBACK]);
        let Driver { xdp, offloads } = &drivers[&LOOPBACK];
        assert!(!xdp.runs_programs && !xdp.takes_frames && !xdp.takes_large_frames);
        assert!(!offloads.hides_vlan_tags && !offloads.all.is_empty());
    }
}
