// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The object `packet`: its entry points and nothing else. Both hooks call
//! the same functions.
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
//! Nothing is written before all is decided: no packet leaves half rewritten.
//!
//! On the host this is an empty program, so that `--workspace` commands work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// The assembler of `window.rs`; build-std has made the compiler accept features.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod begin;
mod clock;
mod confirm;
mod counters;
mod decide;
mod errors;
mod failing;
mod flow_table;
mod forward;
mod fragment;
mod hooks;
mod maps;
mod notice;
mod ports;
mod reply;
mod rewrite;
mod select;
mod trace;
mod window;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
pub(crate) use decide::Scratch;
use hooks::{TcHook, XdpHook};

/// The entry point at XDP.
#[xdp]
fn llb_xdp(context: XdpContext) -> u32 {
    decide::run::<XdpHook>(context.as_ptr())
}

/// The entry point at TC ingress.
#[classifier]
fn llb_tc_ingress(context: TcContext) -> i32 {
    decide::run::<TcHook>(context.as_ptr())
}

/// Some helpers, `bpf_trace_printk` among them, are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// A loop without an end is refused by the verifier: better than a program
/// that goes on after a panic.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
