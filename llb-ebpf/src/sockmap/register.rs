// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Puts the relay's sockets into the maps as soon as they are established. Decides nothing about their bytes.
//!
//! The program is attached to the agent's cgroup, and runs for each TCP socket that was created there. It
//! changes only sockets with a mark: the agent marks its listeners, and each socket to a backend before it
//! connects. A connection inherits the mark of its listener.

use core::ptr::{null_mut, read_volatile};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE,
    bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get, bpf_skc_to_tcp_sock};
use aya_ebpf::macros::{btf_map, sock_ops};
use aya_ebpf::programs::SockOpsContext;
use llb_common::sockmap::Stream;

use crate::maps::{ACTIVE, JOINS, SOCKET, STREAMS, Sockets, TARGETS};

/// A map of marks. aya's type for such maps lacks the flag by which a connection inherits its listener's mark.
#[repr(C)]
struct Marks {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const u32,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers only describe the map to the loader. Nothing follows them.
unsafe impl Sync for Marks {}

#[btf_map]
static MARKS: Marks = Marks {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

/// Registers a marked socket when it is established, and forgets one that ends before it was accepted.
#[sock_ops]
fn llb_register(context: SockOpsContext) -> u32 {
    match context.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => register(&context),
        BPF_SOCK_OPS_STATE_CB if context.arg(1) == BPF_TCP_CLOSE => forget(&context),
        _ => {}
    }
    1
}

#[inline(always)]
fn register(context: &SockOpsContext) {
    // SAFETY: `context` is the one that the kernel gave this program.
    let (socket, first) = unsafe { ((*context.ops).__bindgen_anon_2.sk, (*context.ops).rcv_nxt) };
    if socket.is_null() {
        return;
    }
    // SAFETY: the first argument is a map of marks, the second a socket that is not null.
    let mark =
        unsafe { bpf_sk_storage_get((&raw const MARKS).cast_mut().cast(), socket.cast(), null_mut(), 0) };
    if mark.is_null() {
        return;
    }
    // SAFETY: `context` is the one that the kernel gave this program.
    let mut cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // A socket is registered if it has a stream. The other two entries alone change nothing.
    if STREAMS.insert(&cookie, &Stream::registered(first), BPF_NOEXIST.into()).is_err() {
        return;
    }
    // SAFETY: `context` is the one that the kernel gave this program; it is borrowed for this call only.
    let mut put = |map: &Sockets| map.update(&mut cookie, unsafe { &mut *context.ops }, 0);
    if put(&TARGETS).and_then(|()| put(&ACTIVE)).is_err() {
        let _ = STREAMS.remove(&cookie);
        return;
    }
    let _ = context.set_cb_flags((context.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// Removes the stream of a socket that nobody has accepted, or that was closed already. The socket itself
/// leaves the maps without help. While the agent has it open, the stream is the agent's.
#[inline(always)]
fn forget(context: &SockOpsContext) {
    // SAFETY: `context` is the one that the kernel gave this program.
    let socket = unsafe { (*context.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    // SAFETY: the argument is a socket that is not null.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    if tcp.is_null() {
        return;
    }
    // SAFETY: the offset is a constant for the verifier, which refuses the program unless a pointer is there.
    let is_open = unsafe {
        let offset = read_volatile(&raw const SOCKET) as usize;
        read_volatile(tcp.cast::<u8>().add(offset).cast::<u64>()) != 0
    };
    if is_open {
        return;
    }
    // SAFETY: `context` is the one that the kernel gave this program.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let _ = STREAMS.remove(&cookie);
    let _ = JOINS.remove(&cookie);
}
