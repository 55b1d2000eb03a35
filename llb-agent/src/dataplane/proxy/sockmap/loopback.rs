// SPDX-License-Identifier: Apache-2.0
//! A proxied connection on loopback, for the self-test and the tests: a client, a
//! server, and the two sockets between them. Waits with limits.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// For each step; a kernel that works needs a thousandth of it.
pub(super) const LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts of [`within`].
const PAUSE: Duration = Duration::from_millis(1);
/// The buffers of the connection; the kernel doubles this.
const BUFFER: usize = 64 << 10;
/// As on a network. On loopback one segment could fill such a buffer.
const SEGMENT: u32 = 1400;

/// A proxied connection.
pub(super) struct Line {
    pub(super) client: TcpStream,
    /// The client side and the backend side.
    pub(super) inner: [TcpStream; 2],
    pub(super) server: TcpStream,
}

impl Line {
    pub(super) fn new() -> io::Result<Self> {
        let (client, near) = connect()?;
        let (far, server) = connect()?;
        for socket in [&near, &far] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
        }
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(LIMIT))?;
            socket.set_write_timeout(Some(LIMIT))?;
        }
        Ok(Self { client, inner: [near, far], server })
    }

    pub(super) fn both(&self) -> [&TcpStream; 2] {
        [&self.inner[0], &self.inner[1]]
    }

    /// Sends from the client until nothing more is taken.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// Nothing was taken for this long.
        const STOPPED: Duration = Duration::from_millis(20);
        self.client.set_write_timeout(Some(STOPPED))?;
        let mut pushed = 0;
        while pushed < bytes.len() {
            match self.client.write(&bytes[pushed..]) {
                Ok(written) => pushed += written,
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(pushed)
    }
}

fn connect() -> io::Result<(TcpStream, TcpStream)> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
    listener.set_recv_buffer_size(BUFFER)?;
    listener.set_send_buffer_size(BUFFER)?;
    listener.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(1)?;
    let listener = TcpListener::from(listener);
    let client = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
    client.set_recv_buffer_size(BUFFER)?;
    client.set_send_buffer_size(BUFFER)?;
    client.set_tcp_mss(SEGMENT)?;
    client.connect_timeout(&listener.local_addr()?.into(), LIMIT)?;
    let client = TcpStream::from(client);
    let (accepted, peer) = listener.accept()?;
    if peer != client.local_addr()? {
        return Err(io::Error::other("another program has connected"));
    }
    Ok((client, accepted))
}

/// Reads as many bytes as `bytes` has, which must be the same.
pub(super) fn expect(from: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut received = vec![0; bytes.len()];
    from.read_exact(&mut received)?;
    if received == bytes { Ok(()) } else { Err(io::Error::other("received other bytes than were sent")) }
}

/// Reads once from a non-blocking socket and appends to `to`; 0 if there is nothing.
pub(super) fn take(from: &mut TcpStream, buffer: &mut [u8], to: &mut Vec<u8>) -> io::Result<usize> {
    match from.read(buffer) {
        Ok(read) => {
            to.extend_from_slice(&buffer[..read]);
            Ok(read)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}

/// Waits until all sockets have something to read.
pub(super) fn wait_readable(sockets: &[TcpStream]) -> io::Result<()> {
    within(LIMIT, || {
        let mut all = true;
        for socket in sockets {
            all &= rustix::io::ioctl_fionread(socket)? > 0;
        }
        Ok(all.then_some(()))
    })
}

/// Calls `attempt` until it has a result.
pub(super) fn within<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<T> {
    let tries = limit.as_millis() / PAUSE.as_millis();
    for _ in 0..tries {
        if let Some(result) = attempt()? {
            return Ok(result);
        }
        pause();
    }
    Err(ErrorKind::TimedOut.into())
}

/// Blocks the thread, which has nothing else to do at the agent's start.
fn pause() {
    let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
        tv_sec: 0,
        tv_nsec: PAUSE.subsec_nanos().into(),
    });
}
