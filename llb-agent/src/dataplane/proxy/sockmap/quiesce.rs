// SPDX-License-Identifier: Apache-2.0
//! Keeps the kernel from running the program on one socket for a moment, so that
//! the program can be taken off it. The kernel takes it off in two steps, and
//! drops what arrives on another CPU between them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use llb_common::conntrack::RST;
use socket2::{SockFilter, SockRef};

/// The share of the receive buffer that may arrive meanwhile; TCP sends the rest
/// again. It is far below half of the buffer, so that small segments, which take
/// ten times their bytes, don't fill the buffer either. The relay's buffer has
/// 3 MiB, of which a line at 10 Gbit/s fills this share in 78 us.
const SHARE_OF_BUFFER: usize = 32;

/// A socket whose program is not run until this is dropped: what arrives stays in
/// the socket. There are two reasons for that:
/// - The kernel reports bytes only when there are as many as SO_RCVLOWAT says
///   (socket(7)). It sets SO_RCVLOWAT with the socket locked, so after segments
///   that the program is looking at.
/// - There are never as many, because a filter drops segments that are further
///   ahead before TCP sees them.
///
/// Two cases are not covered: FIN is always reported, and bytes are reported if
/// the window is down to one segment or the kernel is short of memory. If that
/// happens between the kernel's two steps, bytes can be lost, but this is noticed:
/// dropping this waits for such segments, as creating it does.
pub(super) struct Quiesced<'a, S: AsFd + AsRawFd>(&'a S);

impl<'a, S: AsFd + AsRawFd> Quiesced<'a, S> {
    /// `taken`: all bytes of the socket up to this sequence number were taken.
    pub(super) fn new(socket: &'a S, taken: u32) -> Self {
        // Both the filter and SO_RCVLOWAT, because a segment may be past the filter already.
        let share = SockRef::from(socket).recv_buffer_size().map(|bytes| bytes / SHARE_OF_BUFFER);
        let filtered = share.and_then(|share| SockRef::from(socket).attach_filter(&less_ahead(taken, share)));
        if let Err(error) = filtered {
            tracing::debug!(%error, "cannot attach a filter to a socket");
        }
        // The kernel limits the value to half the receive buffer. It does not enlarge
        // the buffer, because the relay has set its size.
        set_receive_low_water(socket, libc::c_int::MAX);
        Self(socket)
    }
}

impl<S: AsFd + AsRawFd> Drop for Quiesced<'_, S> {
    /// What arrived meanwhile is reported now.
    fn drop(&mut self) {
        if let Err(error) = SockRef::from(self.0).detach_filter() {
            tracing::debug!(%error, "cannot detach the filter from a socket");
        }
        set_receive_low_water(self.0, 1);
    }
}

/// Passes segments that begin less than `bytes` after `taken`, and resets, which
/// are sent only once. Filters of a TCP socket see segments from the TCP header on
/// (RFC 9293, 3.1). Sequence numbers wrap, as does the subtraction.
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

/// The kernel reports bytes only when there are at least this many (SO_RCVLOWAT).
fn set_receive_low_water(socket: &impl AsRawFd, bytes: libc::c_int) {
    let length = size_of_val(&bytes) as libc::socklen_t;
    #[expect(unsafe_code, reason = "neither socket2 nor rustix has SO_RCVLOWAT")]
    // SAFETY: the kernel reads `length` bytes from the pointer, which is to `bytes`: an
    // int of that length, which lives until the call returns.
    let outcome = unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length)
    };
    if outcome != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "cannot set SO_RCVLOWAT of a socket");
    }
}
