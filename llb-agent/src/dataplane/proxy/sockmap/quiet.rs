//! A moment in which the kernel's program is not run for a socket, so that it
//! can be taken away. The kernel takes it away in two steps, and what arrives
//! between them, on another CPU, is dropped.

use std::io;
use std::os::fd::AsRawFd;

/// From here until dropped, what arrives stays in the socket, and the program
/// is not looking at anything. That is so because nobody is told of bytes before
/// there are as many as SO_RCVLOWAT says (socket(7)), and the kernel sets that
/// with the socket locked: after segments that are being looked at.
///
/// A FIN is told nevertheless, and so are bytes that fill half the receive
/// buffer in these microseconds, or all but one segment of the window. Should
/// they meet the kernel between its two steps, bytes can still be missing, but
/// not unnoticed: dropping this waits for them just as taking it did.
pub(super) struct Quiet<'a, S: AsRawFd>(&'a S);

impl<'a, S: AsRawFd> Quiet<'a, S> {
    pub(super) fn take(socket: &'a S) -> Self {
        // The kernel makes it half the receive buffer, whose size the relay has
        // set, so that it is not made larger.
        tell_from(socket, libc::c_int::MAX);
        Self(socket)
    }
}

impl<S: AsRawFd> Drop for Quiet<'_, S> {
    /// Whoever is to be told from here on hears of what came meanwhile.
    fn drop(&mut self) {
        tell_from(self.0, 1);
    }
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
