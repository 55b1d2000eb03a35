// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The object `sockmap`: moves the bytes of established pairs of sockets. What
//! it decides is in `llb_common::sockmap`; this file only asks the kernel.
//!
//! ```text
//!   segment at a socket of ACTIVE -> STREAMS -> the other socket, in TARGETS
//!                                      |            | room in its send buffer?
//!                                      |            v
//!                                      |          redirect: a kernel worker sends it
//!                                      v
//!                       pass: the agent reads it, and is told by EVENTS
//! ```
//!
//! On the host this is an empty program, so that `--workspace` commands work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use core::ffi::c_void;
use core::ptr::{NonNull, read_volatile};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{HashMap, RingBuf, SockHash};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_map_lookup_elem, bpf_sk_release, bpf_skb_adjust_room, bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::{btf_map, classifier, stream_verdict};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use llb_common::sockmap::{self, Decision, Event, Question, Stream, Switch, Target};

/// Verdicts of a stream (`enum sk_action`).
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// Only the agent adds and removes.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

type Sockets = SockHash<u64, { sockmap::TARGETS.capacity }>;

#[btf_map]
static ACTIVE: Sockets = SockHash::new();
#[btf_map]
static TARGETS: Sockets = SockHash::new();
#[btf_map]
static STREAMS: HashMap<u64, Stream, { sockmap::STREAMS.capacity }, SPARSE> = HashMap::new();
#[btf_map]
static EVENTS: RingBuf<Event, { sockmap::EVENTS.capacity }> = RingBuf::new();

// Set by the agent: `llb_common::sockmap::offsets`.
#[unsafe(no_mangle)]
static WRITE_SEQ: u32 = 0;
#[unsafe(no_mangle)]
static COPIED_SEQ: u32 = 0;
#[unsafe(no_mangle)]
static WMEM_QUEUED: u32 = 0;
#[unsafe(no_mangle)]
static SNDBUF: u32 = 0;
#[unsafe(no_mangle)]
static SEGMENT_SEQ: u32 = 0;

/// Decides on a segment.
#[stream_verdict]
fn llb_verdict(context: SkBuffContext) -> u32 {
    if context.len() == 0 {
        // A FIN, which the socket knows of already, and tells whoever reads it.
        // Passed while bytes wait for this same socket it would be put behind
        // them, and the kernel's worker takes what has no bytes for an error:
        // EPIPE at the socket, and no more is written to it.
        return SK_DROP;
    }
    // SAFETY: the context is the one that the kernel gave.
    let mut cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let Some(stream) = STREAMS.get_ptr_mut(&cookie) else { return SK_PASS };
    // SAFETY: entries of a map stay for as long as the program runs, and the
    // kernel runs it for one segment of a socket at a time.
    let stream = unsafe { &mut *stream };
    let decision = if take_off_what_is_repeated(&context, stream) {
        let length = context.len();
        match target(&cookie) {
            _ if length == 0 => return SK_DROP,
            Some(target) => stream.decide(length, target),
            None => stream.leave(length, Switch::NoTarget),
        }
    } else {
        stream.tear()
    };
    if matches!(decision, Decision::Switched | Decision::RedirectBulk | Decision::Torn) {
        // There is room for all events that there can be.
        let _ = EVENTS.output(&Event { cookie }, 0);
    }
    match decision {
        Decision::Redirect | Decision::RedirectBulk => TARGETS.redirect_skb(&context, &mut cookie, 0) as u32,
        Decision::Pass | Decision::Switched => SK_PASS,
        Decision::Torn | Decision::Drop => SK_DROP,
    }
}

/// The kernel shows a segment as it came, also if TCP has its beginning already.
/// False: it can't go on as the stream's next bytes.
#[inline(always)]
fn take_off_what_is_repeated(context: &SkBuffContext, stream: &Stream) -> bool {
    /// More is not taken off at once.
    const MOST_AT_ONCE: u32 = 4095;
    /// A segment has at most 64 KiB.
    const MOST_TIMES: u32 = 17;
    // SAFETY: a context is in fact the kernel's segment, whose fields the verifier does not
    // know by this name; what can't be read is an error.
    let seq = unsafe {
        let segment = context.as_ptr().cast::<u8>();
        bpf_probe_read_kernel(segment.add(read_volatile(&raw const SEGMENT_SEQ) as usize).cast::<u32>())
    };
    let Some(mut repeated) = seq.ok().and_then(|seq| stream.repeated(seq)) else { return false };
    for _ in 0..MOST_TIMES {
        if repeated == 0 {
            return true;
        }
        let part = repeated.min(MOST_AT_ONCE).min(context.len());
        // SAFETY: the context is the one that the kernel gave.
        if unsafe { bpf_skb_adjust_room(context.as_ptr().cast(), -(part as i32), 0, 0) } != 0 {
            return false;
        }
        repeated -= part;
    }
    false
}

#[inline(always)]
fn target(cookie: &u64) -> Option<Target> {
    with_socket(cookie, |socket| Target {
        write_seq: field(socket, &WRITE_SEQ),
        wmem_queued: field(socket, &WMEM_QUEUED),
        sndbuf: field(socket, &SNDBUF),
    })
}

/// Answers a question of the agent's.
#[classifier]
fn llb_ask(context: TcContext) -> i32 {
    let Ok(mut question) = context.load::<Question>(0) else { return 0 };
    let answer =
        with_socket(&question.cookie, |socket| (field(socket, &WRITE_SEQ), field(socket, &COPIED_SEQ)));
    if let Some((write_seq, copied_seq)) = answer {
        (question.found, question.write_seq, question.copied_seq) = (1, write_seq, copied_seq);
    }
    let _ = context.store(0, &question, 0);
    0
}

/// Looks at the socket that gets the bytes of that one.
#[inline(always)]
fn with_socket<T>(cookie: &u64, look: impl FnOnce(NonNull<u8>) -> T) -> Option<T> {
    // SAFETY: map and key are valid; the socket is released below.
    let socket =
        unsafe { bpf_map_lookup_elem((&raw const TARGETS).cast_mut().cast(), (&raw const *cookie).cast()) };
    let socket: NonNull<c_void> = NonNull::new(socket)?;
    // SAFETY: a socket, or nothing comes back.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.as_ptr()) };
    let found = NonNull::new(tcp.cast::<u8>()).map(look);
    // SAFETY: it was taken above.
    unsafe { bpf_sk_release(socket.as_ptr()) };
    found
}

#[inline(always)]
fn field(socket: NonNull<u8>, offset: &u32) -> u32 {
    // SAFETY: the verifier, to which the offset is a constant, takes nothing
    // but a field of that size.
    unsafe {
        let offset = read_volatile(offset) as usize;
        read_volatile(socket.as_ptr().add(offset).cast::<u32>())
    }
}

/// `Cargo.toml` says why.
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
