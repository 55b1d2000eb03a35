// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Access to the bytes of a packet: the only place that checks bounds and the
//! only one with assembler.
//!
//! The verifier wants the check, the pointer that was checked, and the access
//! in one line of descent. A compiler that is free to move them apart breaks
//! that, and it would also take a word that may be misaligned byte by byte,
//! which eBPF need not. So both are written out here. On the host, where
//! nothing of this runs, there are no bytes.

/// A part of a packet that may be read and written. It ends with the next
/// helper that may move the packet (those of TC; none that XDP uses).
#[derive(Clone, Copy)]
pub(crate) struct Window {
    #[cfg_attr(not(target_arch = "bpf"), expect(dead_code, reason = "not read on the host"))]
    start: usize,
}

/// `BYTES` bytes from `offset` on, of the packet from `data` to `end`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn window<const BYTES: usize>(data: usize, end: usize, offset: usize) -> Option<Window> {
    let (start, is_inside): (usize, u64);
    // SAFETY: only registers are changed.
    unsafe {
        core::arch::asm!(
            "{start} = {data}",
            "{start} += {offset}",
            "{inside} = {start}",
            "{inside} += {bytes}",
            "if {inside} > {end} goto +2",
            "{inside} = 1",
            "goto +1",
            "{inside} = 0",
            data = in(reg) data,
            end = in(reg) end,
            offset = in(reg) offset,
            bytes = const BYTES,
            start = out(reg) start,
            inside = out(reg) is_inside,
            options(nomem, nostack),
        );
    }
    if is_inside == 0 { None } else { Some(Window { start }) }
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) fn window<const BYTES: usize>(_data: usize, _end: usize, _offset: usize) -> Option<Window> {
    None
}

/// One method to load, one to store, for each size of word.
macro_rules! access {
    ($load:ident, $store:ident, $word:ty, $load_text:literal, $store_text:literal) => {
        #[cfg(target_arch = "bpf")]
        #[inline(always)]
        pub(crate) fn $load<const AT: usize>(self) -> $word {
            let word: u64;
            // SAFETY: the verifier refuses the program if this is outside of the window.
            unsafe {
                core::arch::asm!(
                    $load_text,
                    word = out(reg) word,
                    start = in(reg) self.start,
                    at = const AT,
                    options(readonly, nostack),
                );
            }
            word as $word
        }

        #[cfg(not(target_arch = "bpf"))]
        pub(crate) fn $load<const AT: usize>(self) -> $word {
            0
        }

        #[cfg(target_arch = "bpf")]
        #[inline(always)]
        pub(crate) fn $store<const AT: usize>(self, word: $word) {
            // SAFETY: as above; packets are no memory of the compiler's.
            unsafe {
                core::arch::asm!(
                    $store_text,
                    word = in(reg) u64::from(word),
                    start = in(reg) self.start,
                    at = const AT,
                    options(nostack),
                );
            }
        }

        #[cfg(not(target_arch = "bpf"))]
        pub(crate) fn $store<const AT: usize>(self, _word: $word) {}
    };
}

impl Window {
    access!(load_16, store_16, u16, "{word} = *(u16 *)({start} + {at})", "*(u16 *)({start} + {at}) = {word}");
    access!(load_32, store_32, u32, "{word} = *(u32 *)({start} + {at})", "*(u32 *)({start} + {at}) = {word}");
    access!(load_64, store_64, u64, "{word} = *(u64 *)({start} + {at})", "*(u64 *)({start} + {at}) = {word}");
}

/// Start and end of a packet, from two fields of its context at `DATA` and `END`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn bounds<const DATA: usize, const END: usize>(context: *mut core::ffi::c_void) -> (usize, usize) {
    let (data, end): (usize, usize);
    // SAFETY: the verifier knows these fields as pointers and accepts no other read.
    unsafe {
        core::arch::asm!(
            "{data} = *(u32 *)({context} + {at_data})",
            "{end} = *(u32 *)({context} + {at_end})",
            context = in(reg) context,
            at_data = const DATA,
            at_end = const END,
            data = out(reg) data,
            end = out(reg) end,
            options(nostack),
        );
    }
    (data, end)
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) fn bounds<const DATA: usize, const END: usize>(
    _context: *mut core::ffi::c_void,
) -> (usize, usize) {
    (0, 0)
}

/// The same memory, of which neither compiler nor verifier knows any more what
/// was written there. Paths that differ only in that are one path again.
#[inline(always)]
pub(crate) fn forget_contents<T>(pointer: *mut T) -> *mut T {
    #[cfg(target_arch = "bpf")]
    {
        let mut same = pointer;
        // SAFETY: nothing is changed.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) same, options(nostack)) };
        same
    }
    #[cfg(not(target_arch = "bpf"))]
    pointer
}

/// The same, of which the compiler does not know any more where it comes from.
/// It makes one question of two null checks otherwise, by arithmetic on pointers,
/// which the verifier refuses; or goes on on as many paths as lead to a number.
#[inline(always)]
pub(crate) fn hide(number: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut same = u64::from(number);
        // SAFETY: nothing is changed.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) same, options(nomem, nostack)) };
        same as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}
