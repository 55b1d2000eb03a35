// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The object `bench`: what feeds the packet programs when they are measured,
//! and the least that a load balancer could do, which they are compared with.
//! Never in the agent.
//!
//! ```text
//!   test run, repeated -> feed: writes the next flow's frame over what the last run left
//!                           `--tail call--> the program that is measured, or swap
//! ```
//!
//! On the host this is an empty program, so that `--workspace` commands work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[path = "../packet/window.rs"]
#[expect(dead_code, reason = "the packet programs need more of it")]
mod window;

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use window::window;

/// The frame that all flows have in common, and whose turn it is.
#[repr(C)]
struct Feed {
    frame: [u64; 10],
    flows: u32,
    turn: u32,
    /// Where a frame has what its flow is told by: the last four bytes of its
    /// source address, and one of its ports.
    address_at: u16,
    port_at: u16,
    is_reply: u32,
}

/// What tells a flow, as the bytes of its frame.
#[repr(C)]
struct Flow {
    client: u32,
    backend: u32,
    port: u16,
    padding: u16,
}

#[btf_map]
static FEED: Array<Feed, 1> = Array::new();
#[btf_map]
static FLOWS_IN_TURN: Array<Flow, 1_000_000> = Array::new();
/// The program that is measured, at 0.
#[btf_map]
static MEASURED: ProgramArray<1> = ProgramArray::new();

/// At XDP.
#[xdp]
fn llb_feed_xdp(context: XdpContext) -> u32 {
    if feed(window::bounds::<0, 4>(context.as_ptr())).is_some() {
        jump(&context);
    }
    xdp_action::XDP_ABORTED
}

/// At TC ingress.
#[classifier]
fn llb_feed_tc(context: TcContext) -> i32 {
    if feed(window::bounds::<76, 80>(context.as_ptr())).is_some() {
        jump(&context);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn jump(context: &impl EbpfContext) {
    // SAFETY: it does not come back, or does nothing.
    unsafe { MEASURED.tail_call(context, 0) };
}

#[inline(always)]
fn feed((data, end): (usize, usize)) -> Option<()> {
    let feed = FEED.get_ptr_mut(0)?;
    // SAFETY: the bench runs on one CPU.
    let feed = unsafe { &mut *feed };
    let turn = feed.turn;
    feed.turn = if turn.wrapping_add(1) >= feed.flows { 0 } else { turn.wrapping_add(1) };
    let flow = FLOWS_IN_TURN.get(turn)?;
    let frame = window::<80>(data, end, 0)?;
    let [a, b, c, d, e, f, g, h, i, j] = feed.frame;
    frame.store_64::<0>(a);
    frame.store_64::<8>(b);
    frame.store_64::<16>(c);
    frame.store_64::<24>(d);
    frame.store_64::<32>(e);
    frame.store_64::<40>(f);
    frame.store_64::<48>(g);
    frame.store_64::<56>(h);
    frame.store_64::<64>(i);
    frame.store_64::<72>(j);
    let address = if feed.is_reply != 0 { flow.backend } else { flow.client };
    window::<4>(data, end, usize::from(feed.address_at & 0x7f))?.store_32::<0>(address);
    window::<2>(data, end, usize::from(feed.port_at & 0x7f))?.store_16::<0>(flow.port);
    // Frames from a device are in memory for long: let the stores above get
    // there, else reading them in other pieces would wait for that.
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() };
    Some(())
}

/// At XDP.
#[xdp]
fn llb_swap_xdp(context: XdpContext) -> u32 {
    match swap(window::bounds::<0, 4>(context.as_ptr())) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_PASS,
    }
}

/// At TC ingress.
#[classifier]
fn llb_swap_tc(context: TcContext) -> i32 {
    let skb: *mut c_void = context.as_ptr();
    match swap(window::bounds::<76, 80>(skb)) {
        // SAFETY: the context is the program's own; a helper without pointers.
        Some(()) => unsafe { bpf_redirect((*skb.cast::<__sk_buff>()).ifindex, 0) as i32 },
        None => TC_ACT_UNSPEC,
    }
}

/// Exchanges source and destination of the Ethernet header.
#[inline(always)]
fn swap((data, end): (usize, usize)) -> Option<()> {
    let ethernet = window::<14>(data, end, 0)?;
    let [a, b, c] = [ethernet.load_32::<0>(), ethernet.load_32::<4>(), ethernet.load_32::<8>()];
    let ([d0, d1, d2, d3], [d4, d5, s0, s1]) = (a.to_ne_bytes(), b.to_ne_bytes());
    let [s2, s3, s4, s5] = c.to_ne_bytes();
    ethernet.store_32::<0>(u32::from_ne_bytes([s0, s1, s2, s3]));
    ethernet.store_32::<4>(u32::from_ne_bytes([s4, s5, d0, d1]));
    ethernet.store_32::<8>(u32::from_ne_bytes([d2, d3, d4, d5]));
    Some(())
}

/// `Cargo.toml` says why.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
