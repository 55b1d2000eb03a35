// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Access to the bytes of a packet, and the only place that checks their bounds. It also has the assembler
//! that hides values from the compiler.
//!
//! The verifier accepts an access only through the very pointer that was compared with the end of the packet.
//! The compiler may compute that pointer again elsewhere, and it reads a word that may be misaligned byte by
//! byte, which eBPF need not. So check and access are written in assembler here. On the host, where none of
//! this runs, there are no bytes.

/// A part of a packet that may be read and written. It must not be used any more after a helper that may move
/// the packet. The helpers of the TC hook may; none that the XDP hook uses does.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    #[cfg_attr(not(target_arch = "bpf"), expect(dead_code, reason = "not read on the host"))]
    start: usize,
}

/// Access to `BYTES` bytes from `offset` on, of the packet from `data` to `end`. `None`: they are not all
/// inside it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn window<const BYTES: usize>(data: usize, end: usize, offset: usize) -> Option<Window> {
    let (start, is_inside): (usize, u64);
    // SAFETY: the instructions change only the two output registers and access no memory.
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

/// A method to load and one to store, for one size of word. `AT` is the offset in the window.
macro_rules! access {
    ($load:ident, $store:ident, $word:ty, $load_text:literal, $store_text:literal) => {
        #[cfg(target_arch = "bpf")]
        #[inline(always)]
        pub(crate) fn $load<const AT: usize>(self) -> $word {
            let word: u64;
            // SAFETY: the verifier refuses the program if this reads outside the bytes that `window` checked.
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
            // SAFETY: the verifier refuses the program if this writes outside the bytes that `window`
            // checked. No Rust reference points into a packet.
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

/// Start and end of a packet, from the fields at offsets `DATA` and `END` of the context.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn bounds<const DATA: usize, const END: usize>(context: *mut core::ffi::c_void) -> (usize, usize) {
    let (data, end): (usize, usize);
    // SAFETY: the verifier refuses the program if these are not the two fields of the context, which it turns
    // into pointers to the packet's start and end.
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

/// The same pointer, but the compiler no longer knows what was written behind it. It must then read the
/// memory, whose contents the verifier does not track, so paths that differ only in what they wrote become
/// one path again.
#[inline(always)]
pub(crate) fn forget_contents<T>(pointer: *mut T) -> *mut T {
    #[cfg(target_arch = "bpf")]
    {
        let mut same = pointer;
        // SAFETY: the instruction copies a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) same, options(nostack)) };
        same
    }
    #[cfg(not(target_arch = "bpf"))]
    pointer
}

/// The same number, but the compiler no longer knows how it was computed. Otherwise it may merge two null
/// checks by arithmetic on pointers, which the verifier refuses, or continue on a path of its own for each
/// way to the number.
#[inline(always)]
pub(crate) fn hide(number: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut same = u64::from(number);
        // SAFETY: the instruction copies a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) same, options(nomem, nostack)) };
        same as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}
