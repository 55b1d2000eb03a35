// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The object `bench`: a program that feeds the packet programs with packets when they are measured, and one
//! that does the least that a load balancer could do, for comparison. The agent never loads it.
//!
//! ```text
//!   test run, repeated -> feed: writes the next flow's frame over the one that the last run left
//!                           `--tail call--> the program that is measured, or swap
//! ```
//!
//! On the host this is an empty program, so that `--workspace` commands work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[path = "../packet/window.rs"]
#[expect(dead_code, reason = "only the packet programs use all of it")]
mod window;

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use window::window;

/// The frame that all flows have in common, and which flow is next.
#[repr(C)]
struct Feed {
    frame: [u64; 10],
    flows: u32,
    /// Number of the next flow.
    next: u32,
    /// Offsets of the fields that differ between flows: the last four bytes of the source address, and one of
    /// the ports.
    address_at: u16,
    port_at: u16,
    is_reply: u32,
}

/// What is particular to a flow, as it is in its frames.
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
/// The program that is measured, at index 0.
#[btf_map]
static MEASURED: ProgramArray<1> = ProgramArray::new();

/// Feeds at the XDP hook.
#[xdp(frags)]
fn llb_feed_xdp(context: XdpContext) -> u32 {
    if feed(window::bounds::<0, 4>(context.as_ptr())).is_some() {
        jump(&context);
    }
    xdp_action::XDP_ABORTED
}

/// Feeds at the TC ingress hook.
#[classifier]
fn llb_feed_tc(context: TcContext) -> i32 {
    if feed(window::bounds::<76, 80>(context.as_ptr())).is_some() {
        jump(&context);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn jump(context: &impl EbpfContext) {
    // SAFETY: the call does not return, or it fails and changes nothing.
    unsafe { MEASURED.tail_call(context, 0) };
}

/// Writes the next flow's frame.
#[inline(always)]
fn feed((data, end): (usize, usize)) -> Option<()> {
    let feed = FEED.get_ptr_mut(0)?;
    // SAFETY: the value of a map is valid until the program returns, and the bench runs one program at a
    // time.
    let feed = unsafe { &mut *feed };
    let number = feed.next;
    feed.next = if number.wrapping_add(1) >= feed.flows { 0 } else { number.wrapping_add(1) };
    let flow = FLOWS_IN_TURN.get(number)?;
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
    // The frame of a device is in memory long before it is read. Here the stores above need time to get
    // there, because a load of another size would wait for them.
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_ns() };
    Some(())
}

/// Sends a packet back at the XDP hook.
#[xdp(frags)]
fn llb_swap_xdp(context: XdpContext) -> u32 {
    match swap(window::bounds::<0, 4>(context.as_ptr())) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_PASS,
    }
}

/// Sends a packet back at the TC ingress hook.
#[classifier]
fn llb_swap_tc(context: TcContext) -> i32 {
    let skb: *mut c_void = context.as_ptr();
    match swap(window::bounds::<76, 80>(skb)) {
        // SAFETY: the context is the one that the kernel gave this program, a `__sk_buff`. The helper takes
        // no pointers.
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

/// The licence that the kernel sees; `Cargo.toml` says why it is this one.
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
