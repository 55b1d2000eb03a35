// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The object `sockmap`: moves bytes between the two sockets of a proxied connection. How it decides is in
//! `llb_common::sockmap`; this file gets from the kernel what the decision needs.
//!
//! ```text
//!   segment at a socket of ACTIVE -> STREAMS -> the other socket, in TARGETS
//!                                      |            | room in its send buffer?
//!                                      |            v
//!                                      |          redirect: a kernel worker sends it
//!                                      v
//!                       pass: the agent reads it; EVENTS tells it to
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

/// What a verdict program returns (`enum sk_action`).
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// The kernel allocates entries one by one: only the agent adds and removes them.
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

// Offsets that the agent sets before it loads the object, see `llb_common::sockmap::offsets`.
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

/// Decides what becomes of a segment.
#[stream_verdict]
fn llb_verdict(context: SkBuffContext) -> u32 {
    if context.len() == 0 {
        // A FIN. It must not pass: if bytes wait to be written to this same socket, the kernel would queue it
        // behind them, and its worker takes an empty segment for an error. The socket would get EPIPE, and
        // nothing more would be written to it. Nothing is lost, since the socket knows of the FIN already and
        // tells its reader.
        return SK_DROP;
    }
    // SAFETY: `context` is the one that the kernel gave this program.
    let mut cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let Some(stream) = STREAMS.get_ptr_mut(&cookie) else { return SK_PASS };
    // SAFETY: the value of a map is valid until the program returns. The kernel runs the program for one
    // segment of a socket at a time, so there is no other reference to the socket's stream.
    let stream = unsafe { &mut *stream };
    let decision = if trim_repeated(&context, stream) {
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
        // The ring buffer has room for all events of all streams.
        let _ = EVENTS.output(&Event { cookie }, 0);
    }
    match decision {
        Decision::Redirect | Decision::RedirectBulk => TARGETS.redirect_skb(&context, &mut cookie, 0) as u32,
        Decision::Pass | Decision::Switched => SK_PASS,
        Decision::Torn | Decision::Drop => SK_DROP,
    }
}

/// Removes the bytes at the beginning of a segment that came before: the kernel shows a repeated segment as a
/// whole, even if TCP has its beginning already. `false`: what is left are not the next bytes of the stream.
#[inline(always)]
fn trim_repeated(context: &SkBuffContext, stream: &Stream) -> bool {
    /// The most bytes that the helper removes at once.
    const MAX_AT_ONCE: u32 = 4095;
    /// Enough for a segment of 64 KiB.
    const MAX_TIMES: u32 = 17;
    // SAFETY: the context is the address of the kernel's `struct sk_buff`. The verifier does not know that
    // type here, so the field is read by a helper, which fails where memory can't be read.
    let seq = unsafe {
        let segment = context.as_ptr().cast::<u8>();
        bpf_probe_read_kernel(segment.add(read_volatile(&raw const SEGMENT_SEQ) as usize).cast::<u32>())
    };
    let Some(mut repeated) = seq.ok().and_then(|seq| stream.repeated(seq)) else { return false };
    for _ in 0..MAX_TIMES {
        if repeated == 0 {
            return true;
        }
        let part = repeated.min(MAX_AT_ONCE).min(context.len());
        // SAFETY: `context` is the one that the kernel gave this program.
        if unsafe { bpf_skb_adjust_room(context.as_ptr().cast(), -(part as i32), 0, 0) } != 0 {
            return false;
        }
        repeated -= part;
    }
    false
}

/// What the decision needs to know of the socket that gets the bytes of socket `cookie`.
#[inline(always)]
fn target(cookie: &u64) -> Option<Target> {
    with_socket(cookie, |socket| Target {
        write_seq: field(socket, &WRITE_SEQ),
        wmem_queued: field(socket, &WMEM_QUEUED),
        sndbuf: field(socket, &SNDBUF),
    })
}

/// Answers a [`Question`] of the agent.
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

/// Calls `look` with the TCP socket that gets the bytes of socket `cookie`. `None`: there is none.
#[inline(always)]
fn with_socket<T>(cookie: &u64, look: impl FnOnce(NonNull<u8>) -> T) -> Option<T> {
    // SAFETY: the first argument is a map, the second a key of its key's size. The socket that is found is
    // released below.
    let socket =
        unsafe { bpf_map_lookup_elem((&raw const TARGETS).cast_mut().cast(), (&raw const *cookie).cast()) };
    let socket: NonNull<c_void> = NonNull::new(socket)?;
    // SAFETY: the argument is a socket that was found and is not released yet. The result is null if it is
    // not a TCP socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.as_ptr()) };
    let found = NonNull::new(tcp.cast::<u8>()).map(look);
    // SAFETY: the look-up above took a reference to this socket, and it is not used after this.
    unsafe { bpf_sk_release(socket.as_ptr()) };
    found
}

/// A field of four bytes at `offset` of a TCP socket.
#[inline(always)]
fn field(socket: NonNull<u8>, offset: &u32) -> u32 {
    // SAFETY: the offset is a constant for the verifier, which refuses the program unless a field of this
    // size is there.
    unsafe {
        let offset = read_volatile(offset) as usize;
        read_volatile(socket.as_ptr().add(offset).cast::<u32>())
    }
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
