// SPDX-License-Identifier: Apache-2.0
//! The links of the command line, and the settings around them. Changes nothing, and takes no lock.

use std::fs;
use std::io;
use std::path::Path;

use super::super::facts::{LinkReport, Links};
use crate::addresses::{holder, link_names, survey};
use crate::config::Config;
use crate::dataplane::packet::{HookForecast, forecast, pinned_links};
use crate::error_chain::ErrorChain;
use crate::kernel::LOOPBACK_INDEX;
use crate::netlink::{Connection, LinkDevice, has_hardware_gro, has_lro};

pub(super) async fn read(config: &Config) -> Result<Links, String> {
    read_all(config).await.map_err(text)
}

async fn read_all(config: &Config) -> io::Result<Links> {
    let (devices, machine) = survey(&config.links).await?;
    let mut connection = Connection::open()?;
    let others = connection.links().await?;
    let own = connection.own_addresses().await?;
    let mut with_ipv4: Vec<u32> = own
        .iter()
        .filter(|own| own.net.addr().is_ipv4() && own.ifindex != LOOPBACK_INDEX)
        .map(|own| own.ifindex)
        .collect();
    with_ipv4.sort_unstable();
    with_ipv4.dedup();
    let indexes: Vec<u32> = devices.iter().map(|device| device.ifindex).collect();
    // If the kernel does not answer this, each link gets a finding that says so.
    let forecasts = forecast(&indexes, config.datapath, config.packet.xdp_mode).await.unwrap_or_default();
    let pinned = pinned(&config.bpf_dir);
    let missing = config.links.iter().filter(|name| !devices.iter().any(|device| device.name == **name));
    let missing = missing.cloned().collect();
    let mut reports = Vec::new();
    for device in devices {
        let forecast = forecasts.iter().find(|forecast| forecast.ifindex == device.ifindex).cloned();
        let has_pins = pinned.as_ref().map(|links| links.contains(&device.name));
        reports.push(report(device, forecast, has_pins, &others).await);
    }
    Ok(Links { reports, missing, all: link_names(), with_ipv4: with_ipv4.len(), machine })
}

async fn report(
    device: LinkDevice,
    forecast: Option<HookForecast>,
    has_pins: Option<bool>,
    others: &[LinkDevice],
) -> LinkReport {
    let master = device.master.and_then(|index| others.iter().find(|other| other.ifindex == index));
    let kind = |link: &LinkDevice| link.kind.clone().unwrap_or_else(|| "unknown kind".to_owned());
    let same = others.iter().find(|other| other.ifindex == device.ifindex);
    let kernel_name = same.map_or(&device.name, |link| &link.name).clone();
    LinkReport {
        driver: driver(&kernel_name, device.ifindex),
        master: master.map(|link| (link.name.clone(), kind(link))),
        forecast,
        lro: has_lro(device.ifindex).await.map_err(text),
        hardware_gro: has_hardware_gro(device.ifindex).await.map_err(text),
        holder: holder(device.ifindex).await,
        has_pins,
        rp_filter: ["all", &kernel_name].into_iter().filter_map(rp_filter).max().unwrap_or(0),
        kernel_name,
        device,
    }
}

/// The links with programs of an llb-agent; `None` if the process may not look.
fn pinned(bpf_dir: &Path) -> Option<Vec<String>> {
    match fs::read_dir(bpf_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Vec::new()),
        Err(_) => None,
        Ok(_) => pinned_links(bpf_dir).ok(),
    }
}

fn rp_filter(link: &str) -> Option<u8> {
    let setting = Path::new("/proc/sys/net/ipv4/conf").join(link).join("rp_filter");
    fs::read_to_string(setting).ok()?.trim().parse().ok()
}

/// From sysfs. It may show the links of another network namespace; the number of the link then differs.
fn driver(name: &str, ifindex: u32) -> Option<String> {
    let folder = Path::new("/sys/class/net").join(name);
    let index = fs::read_to_string(folder.join("ifindex")).ok()?;
    if index.trim().parse() != Ok(ifindex) {
        return None;
    }
    let driver = fs::read_link(folder.join("device/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

fn text(error: io::Error) -> String {
    ErrorChain(&error).to_string()
}
