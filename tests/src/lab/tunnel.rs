// SPDX-License-Identifier: Apache-2.0
//! A link without an Ethernet header between two hosts, as WireGuard, PPP or a VPN makes it: a tun device on
//! each, and threads of the test that carry packets from one to the other. They end when the hosts are removed. Also a
//! device by which a test puts frames of any kind on the segment.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::ioctl::{Setter, ioctl};

use super::host::Host;

/// The largest packet of an IPv4 or IPv6 link without jumbograms.
const PACKET_BYTES: usize = 65_535;

/// Makes the link `name` on both hosts. The caller brings it up and gives it addresses.
///
/// # Errors
/// Not root, or the kernel has no tun devices.
pub fn connect(one: &Host, other: &Host, name: &str) -> Result<()> {
    let open = |host: &Host| -> Result<Arc<File>> {
        let device = host.run_inside(|| open_device(name, TUN))?;
        Ok(Arc::new(device.with_context(|| format!("cannot make {name} on {}", host.name()))?))
    };
    let (one, other) = (open(one)?, open(other)?);
    for (from, to) in [(Arc::clone(&one), Arc::clone(&other)), (other, one)] {
        std::thread::spawn(move || carry(&from, &to));
    }
    Ok(())
}

/// Opens the device `name` in the namespace of the calling thread. Each write to it is one Ethernet frame that comes in
/// there. It is gone when the file is closed.
///
/// # Errors
/// Not root, or the kernel has no tap devices.
pub fn open_tap(name: &str) -> io::Result<File> {
    open_device(name, TAP)
}

/// `IFF_TUN | IFF_NO_PI` of linux/if_tun.h: packets without any header in front of them.
const TUN: u16 = 0x1001;
/// `IFF_TAP | IFF_NO_PI`: Ethernet frames.
const TAP: u16 = 0x1002;

fn open_device(name: &str, flags: u16) -> io::Result<File> {
    /// `TUNSETIFF` of linux/if_tun.h.
    const SET_INTERFACE: rustix::ioctl::Opcode = 0x4004_54ca;
    // struct ifreq: the name in 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    #[expect(unsafe_code, reason = "no safe crate of the project makes a tun device")]
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is 40 bytes long, and `request` is as long.
    unsafe { ioctl(&device, Setter::<SET_INTERFACE, [u8; 40]>::new(request)) }?;
    Ok(device)
}

/// Until one of the devices is gone.
fn carry(from: &File, to: &File) {
    let mut buffer = vec![0; PACKET_BYTES];
    while let Ok(length) = (&*from).read(&mut buffer) {
        // While the other one is down, packets are lost.
        let _ = (&*to).write(&buffer[..length]);
    }
}
