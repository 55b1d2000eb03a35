// SPDX-License-Identifier: Apache-2.0
//! A moment in which the kernel's program is not run for a socket, so that it
//! can be taken away. The kernel takes it away in two steps, and what arrives
//! between them, on another CPU, is dropped.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use llb_common::conntrack::RST;
use socket2::{SockFilter, SockRef};

/// What may arrive meanwhile; the rest comes again, as TCP does. So much less than half
/// of the receive buffer, that small segments, which take ten times their bytes, don't
/// fill it either. The relay's has 3 MiB, a line at 10 Gbit/s needs 78 us for its share.
const SHARE_OF_BUFFER: usize = 32;

/// From here until dropped, what arrives stays in the socket, and the program
/// is not looking at anything. That is so because nobody is told of bytes before
/// there are as many as SO_RCVLOWAT says (socket(7)), and the kernel sets that
/// with the socket locked: after segments that are being looked at. And because
/// there are never as many: a filter takes what is further ahead, before TCP has
/// seen it.
///
/// A FIN is told nevertheless, and bytes are where the window is down to one segment
/// or the kernel is short of memory. Should that meet the kernel between its two
/// steps, bytes can still be missing, but not unnoticed: dropping this waits for them
/// just as taking it did.
pub(super) struct Quiet<'a, S: AsFd + AsRawFd>(&'a S);

impl<'a, S: AsFd + AsRawFd> Quiet<'a, S> {
    /// Of a socket of which all was taken up to the sequence number `taken`.
    pub(super) fn take(socket: &'a S, taken: u32) -> Self {
        // Some segment may be past the filter already, so both.
        let share = SockRef::from(socket).recv_buffer_size().map(|bytes| bytes / SHARE_OF_BUFFER);
        let filtered = share.and_then(|share| SockRef::from(socket).attach_filter(&less_ahead(taken, share)));
        if let Err(error) = filtered {
            tracing::debug!(%error, "no filter");
        }
        // The kernel makes it half the receive buffer, whose size the relay has
        // set, so that it is not made larger.
        tell_from(socket, libc::c_int::MAX);
        Self(socket)
    }
}

impl<S: AsFd + AsRawFd> Drop for Quiet<'_, S> {
    /// Whoever is to be told from here on hears of what came meanwhile.
    fn drop(&mut self) {
        if let Err(error) = SockRef::from(self.0).detach_filter() {
            tracing::debug!(%error, "no filter to take away");
        }
        tell_from(self.0, 1);
    }
}

/// Segments that begin less than `bytes` behind `taken`, and resets, which come once. The
/// kernel shows filters of a TCP socket what begins with the TCP header (RFC 9293, 3.1), in
/// which numbers wrap.
fn less_ahead(taken: u32, bytes: usize) -> [SockFilter; 7] {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const IF_ANY: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const SUBTRACT: u16 = (libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K) as u16;
    const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const SEQUENCE_NUMBER: u32 = 4;
    const FLAGS: u32 = 13;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(IF_ANY, 4, 0, RST.into()),
        SockFilter::new(LOAD_WORD, 0, 0, SEQUENCE_NUMBER),
        SockFilter::new(SUBTRACT, 0, 0, taken),
        SockFilter::new(IF_AT_LEAST, 0, 1, u32::try_from(bytes).unwrap_or(u32::MAX)),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

fn tell_from(socket: &impl AsRawFd, bytes: libc::c_int) {
    let length = size_of_val(&bytes) as libc::socklen_t;
    #[expect(unsafe_code, reason = "neither socket2 nor rustix has SO_RCVLOWAT")]
    // SAFETY: the pointer is to an int that lives through the call, as its length says.
    let outcome = unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length)
    };
    if outcome != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "no SO_RCVLOWAT");
    }
}
