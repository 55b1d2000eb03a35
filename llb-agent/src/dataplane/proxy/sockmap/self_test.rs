// SPDX-License-Identifier: Apache-2.0
//! Tries on loopback what the kernels of the past got wrong: data that came
//! before the sockets were in the maps, a reader that does not read, and the
//! end. Takes some milliseconds; what can't be done in time has failed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::SockmapError;
use super::maps::Maps;
use super::pair::Pair;

/// For each step; a kernel that works needs a thousandth of it.
pub(super) const LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at something that comes by itself.
const PAUSE: Duration = Duration::from_millis(1);
/// What is pushed at a reader that does not read.
const PUSH: usize = 8 << 20;
/// The buffers of that connection; the kernel doubles them.
const BUFFER: usize = 64 << 10;
/// As large as on a network, not as on loopback, where one fills such a buffer.
const SEGMENT: u32 = 1400;
/// The most that then may be on the way: four such buffers, and what the
/// programs allow between the sockets.
const MOST_UNDER_WAY: usize = 2 << 20;

/// A client and a server, and the two sockets between them.
pub(super) struct Line {
    pub(super) client: TcpStream,
    pub(super) inner: [TcpStream; 2],
    pub(super) server: TcpStream,
}

/// # Errors
/// What went wrong, or what it could not be tried with.
pub(super) fn run(maps: &Arc<Maps>) -> Result<(), SockmapError> {
    let told =
        |step: &'static str| move |error: io::Error| SockmapError::SelfTest(format!("{step}: {error}"));
    let mut line = Line::new().map_err(told("loopback can't be used"))?;
    let pair = early_data(maps, &mut line)?.map_err(told("data before the hand-over"))?;
    stuck_reader(pair, &mut line)?.map_err(told("a reader that does not read"))?;
    let mut line = Line::new().map_err(told("loopback can't be used"))?;
    end(maps, &mut line)?.map_err(told("the end of a stream"))
}

/// Each side speaks before the sockets are in the maps; then both once more.
fn early_data(maps: &Arc<Maps>, line: &mut Line) -> Result<io::Result<Pair>, SockmapError> {
    let early = (|| {
        line.client.write_all(b"early")?;
        line.server.write_all(b"first")?;
        wait_readable(&line.inner)
    })();
    if let Err(error) = early {
        return Ok(Err(error));
    }
    let pair = Pair::form(maps, line.both())?;
    pair.begin(line.both())?;
    Ok((|| {
        expect(&mut line.server, b"early")?;
        expect(&mut line.client, b"first")?;
        line.client.write_all(b"later")?;
        expect(&mut line.server, b"later")?;
        Ok(pair)
    })())
}

/// The client must be stopped, and nothing be lost when the reader goes on.
fn stuck_reader(mut pair: Pair, line: &mut Line) -> Result<io::Result<()>, SockmapError> {
    let pattern: Vec<u8> = (0..PUSH).map(|index| (index % 251) as u8).collect();
    let pushed = match line.push(&pattern) {
        Ok(pushed) => pushed,
        Err(error) => return Ok(Err(error)),
    };
    if pushed > MOST_UNDER_WAY {
        return Ok(Err(io::Error::other(format!("{pushed} bytes were taken"))));
    }
    let [forward, reply] = pair.stop(line.both())?;
    let (Some(mut forward), None) = (forward, reply) else {
        return Ok(Err(io::Error::other("the program took all")));
    };
    let result = (|| {
        line.server.set_nonblocking(true)?;
        let mut received = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        let mut carried: Vec<u8> = Vec::new();
        within(LIMIT, || Ok((pair.queued(0) == Some(0)).then_some(()))).map_err(|error| {
            io::Error::new(error.kind(), format!("{error}: {:?} bytes wait", pair.queued(0)))
        })?;
        within(LIMIT, || {
            take(&mut line.server, &mut buffer, &mut received)?;
            if carried.is_empty() {
                let read = take(&mut line.inner[0], &mut buffer, &mut carried)?;
                forward.count(read);
            }
            match line.inner[1].write(&carried) {
                Ok(written) => _ = carried.drain(..written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            Ok((received.len() >= pushed).then_some(()))
        })
        .map_err(|error| {
            let came = received.len();
            io::Error::new(
                error.kind(),
                format!(
                    "{error}: {came} of {pushed} bytes came out, {} are carried, {forward:?}",
                    carried.len()
                ),
            )
        })?;
        if received != pattern[..pushed] {
            return Err(io::Error::other("other bytes came out than went in"));
        }
        within(LIMIT, || Ok(forward.release(&line.inner[0])?.then_some(())))
    })();
    Ok(result)
}

/// All that was sent before FIN must arrive before it.
fn end(maps: &Arc<Maps>, line: &mut Line) -> Result<io::Result<()>, SockmapError> {
    let mut pair = Pair::form(maps, line.both())?;
    pair.begin(line.both())?;
    let pattern = [7; 10_000];
    if let Err(error) = line.client.write_all(&pattern).and_then(|()| line.client.shutdown(Shutdown::Write)) {
        return Ok(Err(error));
    }
    let waited =
        within(LIMIT, || Ok((pair.queued(0) == Some(0) && pair.moved_all(pattern.len())).then_some(())));
    let _mapped = pair.stop(line.both())?;
    let is_left = pair.has_switched() || !pair.is_whole();
    drop(pair);
    Ok((|| {
        waited?;
        if is_left {
            return Err(io::Error::other("the program left some"));
        }
        // The socket has nothing but its FIN.
        let mut rest = [0; 1];
        within(LIMIT, || match line.inner[0].read(&mut rest) {
            Ok(0) => Ok(Some(())),
            Ok(_) => Err(io::Error::other("too many bytes")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        })?;
        line.inner[1].shutdown(Shutdown::Write)?;
        let mut received = Vec::new();
        line.server.read_to_end(&mut received)?;
        if received == pattern {
            Ok(())
        } else {
            Err(io::Error::other(format!("{} bytes came", received.len())))
        }
    })())
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

    /// Sends until nothing is taken any more.
    fn push(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// Nothing was taken for so long.
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
    use socket2::{Domain, Socket, Type};
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
    let (accepted, peer) = listener.accept()?;
    if peer != TcpStream::from(client.try_clone()?).local_addr()? {
        return Err(io::Error::other("somebody else has connected"));
    }
    Ok((client.into(), accepted))
}

pub(super) fn expect(from: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut received = vec![0; bytes.len()];
    from.read_exact(&mut received)?;
    if received == bytes { Ok(()) } else { Err(io::Error::other("other bytes")) }
}

/// Adds what there is; nothing, where there is nothing.
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

fn wait_readable(sockets: &[TcpStream]) -> io::Result<()> {
    within(LIMIT, || {
        let mut all = true;
        for socket in sockets {
            all &= rustix::io::ioctl_fionread(socket)? > 0;
        }
        Ok(all.then_some(()))
    })
}

/// Tries until there is a result.
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

/// The agent has nothing else to do yet.
fn pause() {
    let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
        tv_sec: 0,
        tv_nsec: PAUSE.subsec_nanos().into(),
    });
}
