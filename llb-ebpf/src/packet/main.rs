//! The object `packet`: its entry points and nothing else. Both hooks call
//! the same functions; today these count, and every packet passes.
//!
//! On the host this is an empty program, so that `--workspace` commands work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod counters;

use aya_ebpf::bindings::{TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// XDP: before the kernel has made an skb of the frame.
#[xdp]
fn llb_xdp(context: XdpContext) -> u32 {
    let length = context.data_end().wrapping_sub(context.data()) as u64;
    counters::count_frame(length);
    #[cfg(feature = "ebpf-log")]
    aya_log_ebpf::trace!(&context, "xdp: {} bytes", length);
    xdp_action::XDP_PASS
}

/// TC ingress: after XDP and GRO, before routing. `TC_ACT_UNSPEC` lets the
/// next program of the hook decide, where `TC_ACT_OK` would skip it.
#[classifier]
fn llb_tc_ingress(context: TcContext) -> i32 {
    let length = u64::from(context.len());
    counters::count_frame(length);
    #[cfg(feature = "ebpf-log")]
    aya_log_ebpf::trace!(&context, "tc ingress: {} bytes", length);
    TC_ACT_UNSPEC
}

/// Some helpers, `bpf_trace_printk` among them, are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A loop without an end is refused by the verifier: better than a program
/// that goes on after a panic.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
