// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The object `packet`: its two entry points and nothing else. Both hooks run the same steps, see
//! `decide.rs`.
//!
//! ```text
//!  frame -> parse (llb-common) -> decide -------------------------> rewrite -> send
//!             |                   forward: FLOWS, BACKENDS
//!             | not ours, or      reply:   REPLIES, BACKENDS
//!             v the link is off     | a reason
//!           pass, untouched         v
//!                                 pass untouched, or drop; counted
//! ```
//!
//! Nothing is written before everything is decided, so no packet leaves half rewritten.
//!
//! On the host this is an empty program, so that `--workspace` commands work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For the assembler in `window.rs` and `flow_table.rs`. The build sets RUSTC_BOOTSTRAP, so the feature is
// accepted.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod begin;
mod clock;
mod confirm;
mod counters;
mod decide;
mod decision;
mod early;
mod failing;
mod flow;
mod flow_table;
mod forward;
mod fragment;
mod headers;
mod hooks;
mod icmp_error;
mod life;
mod maps;
mod martian;
mod notice;
mod outcome;
mod ports;
mod refusal;
mod reply;
mod reselect;
mod return_path;
mod rewrite;
mod select;
mod size;
mod trace;
mod window;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use hooks::{TcHook, XdpHook};

/// The entry point at the XDP hook. It also takes frames that are in several buffers. Their headers are in the first one,
/// which is all that is read or written, except the copies for the agent (early fragments, notices).
#[xdp(frags)]
fn llb_xdp(context: XdpContext) -> u32 {
    decide::run::<XdpHook>(context.as_ptr())
}

/// The entry point at the TC ingress hook.
#[classifier]
fn llb_tc_ingress(context: TcContext) -> i32 {
    decide::run::<TcHook>(context.as_ptr())
}

/// The licence that the kernel sees; `Cargo.toml` says why it is this one.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// The verifier refuses an endless loop, so an object in which a panic is possible can't be loaded.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
