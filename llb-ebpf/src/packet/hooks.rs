// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What differs between the two hooks: where the bytes of a packet are, how its checksum is kept right, and
//! how it is sent. No decision is made here.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action,
};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_get_buff_len,
    bpf_xdp_load_bytes,
};
use llb_common::checksum::Change;
use llb_common::parse::Frame;

use crate::window::{Window, bounds, window};

/// One of the two hooks, with one packet.
pub(crate) trait Hook: Frame {
    /// What a program of this hook returns.
    type Action: Copy;
    /// The packet goes on to the next program or the kernel, untouched.
    const PASS: Self::Action;
    /// The packet is dropped.
    const DROP: Self::Action;

    /// The packet of a program's context.
    fn open(context: *mut c_void) -> Self;
    /// Bytes of the whole frame.
    fn length(&self) -> u64;
    /// The same, for counting only: it costs less, and may leave out what is not in the first buffer.
    #[inline(always)]
    fn counted_length(&self) -> u64 {
        self.length()
    }
    /// The program's context, which helpers take.
    fn context(&self) -> *mut c_void;
    /// The frame is in a VLAN, and the kernel has taken the tag that says so out of its bytes.
    fn is_in_vlan(&self) -> bool;
    /// Makes more of the packet readable. `false`: there is no more of it.
    #[must_use]
    fn pull(&mut self) -> bool;
    /// Reads again where the packet is, after a helper that may have moved it. The verifier forgets what it
    /// knew of the packet's length.
    fn refresh(&mut self);
    /// Bytes of payload in each of the packets into which the kernel will cut this one (segmentation offload). 0:
    /// it will not.
    fn segment_payload(&self) -> u32;
    /// Access to `BYTES` bytes from `offset` on. `None`: they are not all readable.
    fn window<const BYTES: usize>(&self, offset: usize) -> Option<Window>;
    /// Copies `bytes` bytes from `offset` on, whatever buffers they are in. `false`: the frame has fewer.
    #[must_use]
    fn load(&self, offset: u32, to: *mut c_void, bytes: u32) -> bool;
    /// Updates the TCP or UDP checksum at `offset`. Earlier windows must not be used any more. `false`: the
    /// kernel refused.
    #[must_use]
    fn change_checksum(&mut self, offset: usize, addresses: Change, ports: Change, is_udp: bool) -> bool;
    /// Sends the packet by the link `ifindex`. `is_same`: it is the link by which the packet came.
    fn send(&self, ifindex: u32, is_same: bool) -> Self::Action;
}

/// XDP: the packet is seen before the kernel makes an skb of it.
pub(crate) struct XdpHook {
    context: *mut c_void,
    data: usize,
    end: usize,
}

impl Hook for XdpHook {
    type Action = u32;
    const PASS: u32 = xdp_action::XDP_PASS;
    const DROP: u32 = xdp_action::XDP_DROP;

    #[inline(always)]
    fn open(context: *mut c_void) -> Self {
        let mut hook = Self { context, data: 0, end: 0 };
        hook.refresh();
        hook
    }

    #[inline(always)]
    fn length(&self) -> u64 {
        // SAFETY: `context` is the one that the kernel gave this program, a `xdp_md`.
        unsafe { bpf_xdp_get_buff_len(self.context.cast()) }
    }

    #[inline(always)]
    fn counted_length(&self) -> u64 {
        /// The largest frame at an MTU of 1,500. Up to this, the helper is not called: drivers put such a frame into one
        /// buffer. A card that splits headers off does not; then only headers are counted.
        const SMALL: u64 = 1522;
        let first = self.end.wrapping_sub(self.data) as u64;
        if first <= SMALL { first } else { self.length() }
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.context
    }

    /// What a card takes out of the frame is not told here, so the agent attaches no program where that matters.
    #[inline(always)]
    fn is_in_vlan(&self) -> bool {
        false
    }

    #[inline(always)]
    fn pull(&mut self) -> bool {
        false
    }

    #[inline(always)]
    fn refresh(&mut self) {
        // `data` and `data_end` of struct xdp_md.
        (self.data, self.end) = bounds::<0, 4>(self.context);
    }

    #[inline(always)]
    fn segment_payload(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn window<const BYTES: usize>(&self, offset: usize) -> Option<Window> {
        window::<BYTES>(self.data, self.end, offset)
    }

    #[inline(always)]
    fn load(&self, offset: u32, to: *mut c_void, bytes: u32) -> bool {
        // SAFETY: the caller gives memory of at least `bytes` bytes. The verifier checks that, too.
        unsafe { bpf_xdp_load_bytes(self.context.cast(), offset, to, bytes) == 0 }
    }

    #[inline(always)]
    fn change_checksum(&mut self, offset: usize, addresses: Change, ports: Change, is_udp: bool) -> bool {
        let Some(field) = self.window::<2>(offset) else { return false };
        let (old, change) = (field.load_16::<0>(), addresses.and(ports));
        field.store_16::<0>(if is_udp { change.apply_udp(old) } else { change.apply(old) });
        true
    }

    #[inline(always)]
    fn send(&self, ifindex: u32, is_same: bool) -> u32 {
        if is_same {
            return xdp_action::XDP_TX;
        }
        // SAFETY: the helper takes no pointers.
        unsafe { bpf_redirect(ifindex, 0) as u32 }
    }
}

/// TC ingress: the packet is seen after GRO and before routing.
pub(crate) struct TcHook {
    context: *mut c_void,
    length: u32,
    data: usize,
    end: usize,
}

/// How many bytes are made readable: an Ethernet header with two VLAN tags, and an ICMP error with the
/// longest IP headers and a TCP header inside.
const HEADER_BYTES: u32 = 22 + 60 + 8 + 60 + 20;

impl Hook for TcHook {
    type Action = i32;
    /// `TC_ACT_UNSPEC` lets the next program of the hook decide. `TC_ACT_OK` would skip it.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    #[inline(always)]
    fn open(context: *mut c_void) -> Self {
        // SAFETY: `context` is the one that the kernel gave this program, a `__sk_buff`.
        let length = unsafe { (*context.cast::<__sk_buff>()).len };
        let mut hook = Self { context, length, data: 0, end: 0 };
        hook.refresh();
        hook
    }

    #[inline(always)]
    fn length(&self) -> u64 {
        u64::from(self.length)
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.context
    }

    #[inline(always)]
    fn is_in_vlan(&self) -> bool {
        const ID: u32 = 0xfff;
        // SAFETY: `context` is the one that the kernel gave this program, a `__sk_buff`.
        let skb = unsafe { &*self.context.cast::<__sk_buff>() };
        // Before Linux 6.2, `vlan_tci` keeps the last tag when a frame has none any more.
        skb.vlan_present != 0 && skb.vlan_tci & ID != 0
    }

    #[inline(always)]
    fn pull(&mut self) -> bool {
        if self.end.wrapping_sub(self.data) as u64 >= self.length() {
            return false;
        }
        let wanted = if self.length < HEADER_BYTES { self.length } else { HEADER_BYTES };
        // SAFETY: `context` is the one that the kernel gave this program, a `__sk_buff`. The packet may move,
        // so `refresh` reads its bounds again.
        let result = unsafe { bpf_skb_pull_data(self.context.cast(), wanted) };
        self.refresh();
        result == 0
    }

    #[inline(always)]
    fn refresh(&mut self) {
        // `data` and `data_end` of struct __sk_buff.
        (self.data, self.end) = bounds::<76, 80>(self.context);
    }

    #[inline(always)]
    fn segment_payload(&self) -> u32 {
        // SAFETY: `context` is the one that the kernel gave this program, a `__sk_buff`.
        unsafe { (*self.context.cast::<__sk_buff>()).gso_size }
    }

    #[inline(always)]
    fn window<const BYTES: usize>(&self, offset: usize) -> Option<Window> {
        window::<BYTES>(self.data, self.end, offset)
    }

    #[inline(always)]
    fn load(&self, offset: u32, to: *mut c_void, bytes: u32) -> bool {
        // SAFETY: the caller gives memory of at least `bytes` bytes. The verifier checks that, too.
        unsafe { bpf_skb_load_bytes(self.context.cast(), offset, to, bytes) == 0 }
    }

    /// Uses the kernel's helper, because only the kernel knows who computes the checksum. If the device does,
    /// the field holds only the sum of the addresses (the pseudo header), and a change of ports must not be
    /// added to it.
    ///
    /// The helper takes as long as a look-up, so it is called for the addresses only, and its result tells
    /// which of the two the field is: the helper adds the change to a sum of addresses, but subtracts it from
    /// a checksum of the whole packet. In the second case the ports are changed here; else the helper is
    /// called again.
    #[inline(always)]
    fn change_checksum(&mut self, offset: usize, addresses: Change, ports: Change, is_udp: bool) -> bool {
        let zero_stays_zero = if is_udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let context = self.context;
        let replace = |change: Change, flags: u64| {
            // SAFETY: `context` is the one that the kernel gave this program, a `__sk_buff`. A size of 0 in
            // the flags means that the last argument but one is a difference, not an old value.
            unsafe {
                bpf_l4_csum_replace(
                    context.cast(),
                    offset as u32,
                    0,
                    u64::from(change.folded()),
                    flags | zero_stays_zero,
                ) == 0
            }
        };
        let apply = |change: Change, old| if is_udp { change.apply_udp(old) } else { change.apply(old) };
        let Some(field) = self.window::<2>(offset) else { return false };
        let old = field.load_16::<0>();
        if !replace(addresses, u64::from(BPF_F_PSEUDO_HDR)) {
            return false;
        }
        self.refresh();
        let Some(field) = self.window::<2>(offset) else { return false };
        let new = field.load_16::<0>();
        // If the difference is zero, adding and subtracting it are the same, so nothing can be told.
        let is_whole = !matches!(addresses.folded(), 0 | 0xffff) && new == apply(addresses, old);
        if is_whole {
            field.store_16::<0>(apply(ports, new));
            return true;
        }
        let is_changed = replace(ports, 0);
        self.refresh();
        is_changed
    }

    #[inline(always)]
    fn send(&self, ifindex: u32, _is_same: bool) -> i32 {
        // SAFETY: the helper takes no pointers.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }
}

/// Implements reading, which is the same for both hooks.
macro_rules! impl_frame {
    ($hook:ty) => {
        impl Frame for $hook {
            #[inline(always)]
            fn words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
                let mut words = [0; N];
                let mut set = |n: usize, word| {
                    if let Some(place) = words.get_mut(n) {
                        *place = word
                    }
                };
                match N {
                    1 => set(0, self.window::<8>(offset)?.load_64::<0>()),
                    2 => {
                        let window = self.window::<16>(offset)?;
                        set(0, window.load_64::<0>());
                        set(1, window.load_64::<8>());
                    }
                    5 => {
                        let window = self.window::<40>(offset)?;
                        set(0, window.load_64::<0>());
                        set(1, window.load_64::<8>());
                        set(2, window.load_64::<16>());
                        set(3, window.load_64::<24>());
                        set(4, window.load_64::<32>());
                    }
                    _ => return None,
                }
                Some(words)
            }

            #[inline(always)]
            fn word(&self, offset: usize) -> Option<u32> {
                Some(self.window::<4>(offset)?.load_32::<0>())
            }

            #[inline(always)]
            fn half(&self, offset: usize) -> Option<u16> {
                Some(self.window::<2>(offset)?.load_16::<0>())
            }
        }
    };
}
impl_frame!(XdpHook);
impl_frame!(TcHook);
