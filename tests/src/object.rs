// SPDX-License-Identifier: Apache-2.0
//! The eBPF object files that `cargo xtask build-ebpf` has built; the agent contains the same bytes.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use llb_common::programs::XDP_PROGRAM;

/// The object file `packet`.
///
/// # Errors
/// It was not built.
pub fn packet_object() -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/packet.o");
    fs::read(&path).with_context(|| format!("no {}: run `cargo xtask build-ebpf`", path.display()))
}

/// Attaches an XDP program that passes every packet to the driver of `link`, in the namespace of the calling
/// thread. It is llb's own program, which does nothing before it is switched on. Dropping the returned object
/// detaches it.
///
/// # Errors
/// The object was not built, or the kernel refused it.
pub fn pass_at(link: &str) -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(&packet_object()?)?;
    let program: &mut Xdp = ebpf.program_mut(XDP_PROGRAM).context("no XDP program")?.try_into()?;
    program.load()?;
    let name = CString::new(link)?;
    program.attach(name.as_c_str(), XdpMode::Driver).with_context(|| format!("no XDP on {link}"))?;
    Ok(ebpf)
}
