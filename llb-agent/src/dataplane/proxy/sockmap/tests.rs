// SPDX-License-Identifier: Apache-2.0
//! Pairs of sockets in the maps, on loopback, and faults of the kernel. They need
//! root: `cargo xtask test`.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use llb_common::sockmap::Switch;
use socket2::{SockFilter, SockRef};

use super::error::SockmapError;
use super::loopback::{LIMIT, Line, expect, take, within};
use super::mapped::Mapped;
use super::maps::Maps;
use super::numbered_bytes::{receive_all, send_until};
use super::pair::Pair;
use super::quiesce::Quiesced;
use super::self_test;

/// With this many lines, FIN sometimes comes before the kernel's worker has begun.
const LINES: usize = 300;

fn maps(pairs: usize) -> Arc<Maps> {
    Arc::new(Maps::load(pairs).unwrap().0)
}

/// A pair whose bytes the kernel moves.
fn begun(maps: &Arc<Maps>) -> (Line, Pair) {
    let line = Line::new().unwrap();
    let pair = Pair::form(maps, line.both()).unwrap();
    pair.begin(line.both()).unwrap();
    (line, pair)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_self_test_passes_and_leaves_nothing() {
    let maps = maps(4);
    self_test::run(&maps).unwrap();
    assert_eq!(maps.entries(), 0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_map_refuses_and_leaves_nothing() {
    let maps = maps(1);
    let [first, second] = [Line::new().unwrap(), Line::new().unwrap()];
    let pair = Pair::form(&maps, first.both()).unwrap();
    pair.begin(first.both()).unwrap();
    assert!(matches!(Pair::form(&maps, second.both()), Err(SockmapError::Map(_))));
    assert_eq!(maps.entries(), 6);
    drop(pair);
    assert_eq!(maps.entries(), 0);
    Pair::form(&maps, second.both()).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn with_the_program_detached_nothing_is_lost() {
    let maps = maps(4);
    let [mut old, mut new] = [Line::new().unwrap(), Line::new().unwrap()];
    let old_pair = Pair::form(&maps, old.both()).unwrap();
    old_pair.begin(old.both()).unwrap();
    maps.detach();

    // Sockets that are in the map already keep the program.
    old.client.write_all(b"old").unwrap();
    expect(&mut old.server, b"old").unwrap();

    // New ones never get it: what they receive stays in them.
    let mut new_pair = Pair::form(&maps, new.both()).unwrap();
    new_pair.begin(new.both()).unwrap();
    new.client.write_all(b"new").unwrap();
    new.server.write_all(b"new").unwrap();
    wait_until(|| new_pair.is_stalled(new.both())).unwrap();
    assert_eq!(new_pair.moved(), [0, 0]);
    let mapped = new_pair.stop(new.both()).unwrap();
    assert!(mapped.iter().all(Option::is_none) && new_pair.is_complete());
    drop(new_pair);
    for inner in &mut new.inner {
        let mut received = [0; 3];
        inner.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"new");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn closed_sockets_leave_the_maps() {
    let maps = maps(4);
    let (line, pair) = begun(&maps);
    drop(line);
    assert_eq!(pair.queued(0), None);
    drop(pair);
    assert_eq!(maps.entries(), 0);
}

/// The kernel can't queue FIN behind redirected bytes that wait for the same socket:
/// it took FIN for an error of the socket, and wrote nothing more to it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn bytes_that_wait_for_a_socket_are_written_after_its_fin() {
    const PIECE: [u8; 4096] = [7; 4096];
    let maps = maps(4);
    for _ in 0..LINES {
        let (mut line, _pair) = begun(&maps);
        line.client.write_all(&PIECE).unwrap();
        line.server.shutdown(Shutdown::Write).unwrap();
        line.client.write_all(&PIECE).unwrap();
        expect(&mut line.server, &[PIECE, PIECE].concat()).unwrap();
        assert_eq!(line.inner[1].read(&mut [0]).unwrap(), 0);
        assert!(line.inner[1].take_error().unwrap().is_none());
    }
}

/// Bytes keep arriving while the program is put on a socket and taken off again.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn taking_the_program_off_loses_nothing() {
    /// Without `Quiesced` bytes were lost after 200 to 800 times.
    const TIMES: usize = 5_000;
    let maps = maps(4);
    let mut line = Line::new().unwrap();
    let (stop, client, server) =
        (AtomicBool::new(false), line.client.try_clone().unwrap(), line.server.try_clone().unwrap());
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&stop, client));
        let receiver = scope.spawn(|| receive_all(server));
        for time in 0..TIMES {
            let pair = Pair::form(&maps, line.both()).unwrap();
            pair.begin(line.both()).unwrap();
            take_out(pair, &mut line).unwrap_or_else(|error| panic!("time {time}: {error}"));
        }
        stop.store(true, Ordering::Relaxed);
        relay_to_the_end(&mut line).unwrap();
        assert_eq!(sender.join().unwrap(), receiver.join().unwrap());
    });
}

/// However much arrives, and however long the socket is quiesced.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_program_of_a_quiesced_socket_sees_nothing() {
    let maps = maps(4);
    for segment in [100, 64 << 10] {
        let (mut line, mut pair) = begun(&maps);
        line.client.write_all(b"before").unwrap();
        expect(&mut line.server, b"before").unwrap();
        assert_eq!(pair.moved(), [6, 0]);
        let taken = maps.ask(pair.cookies()[1]).unwrap().copied_seq;
        let quiesced = Quiesced::new(&line.inner[0], taken);
        line.client.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        let sent = vec![7; 8 << 20];
        let pushed: usize = sent.chunks(segment).map_while(|piece| line.client.write(piece).ok()).sum();
        line.client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(pair.moved(), [0, 0], "pieces of {segment} bytes");
        drop(quiesced);
        // The client sends again what the filter dropped.
        let mut server = line.server.try_clone().unwrap();
        let receiver = std::thread::spawn(move || {
            let mut received = Vec::new();
            server.read_to_end(&mut received).map(|_| received.len())
        });
        take_out(pair, &mut line).unwrap();
        relay_to_the_end(&mut line).unwrap();
        assert_eq!(receiver.join().unwrap().unwrap(), pushed);
    }
}

/// TCP accepts a segment that begins with bytes it has already, and the kernel
/// shows the whole segment to the program.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn bytes_that_are_sent_again_with_new_ones_arrive_once() {
    const PIECE: usize = 100;
    let maps = maps(4);
    for is_switched in [false, true] {
        let (mut line, mut pair) = begun(&maps);
        if is_switched {
            let cookie = pair.cookies()[0];
            let mut stream = maps.stream(cookie).unwrap();
            stream.switch = Switch::NoRoom as u32;
            maps.set_stream(cookie, stream).unwrap();
        }
        let [first, second] = [[1; PIECE], [2; PIECE]];
        line.client.set_nodelay(true).unwrap();
        // The client gets no acknowledgement of the first piece ...
        SockRef::from(&line.client).attach_filter(&longer_than(usize::MAX)).unwrap();
        line.client.write_all(&first).unwrap();
        wait_until(|| Ok(maps.stream(pair.cookies()[0]).is_some_and(|s| s.redirected + s.passed > 0)))
            .unwrap();
        // ... and of the second, only a segment that has both pieces gets through.
        SockRef::from(&line.inner[0]).attach_filter(&longer_than(PIECE + TCP_HEADER)).unwrap();
        line.client.write_all(&second).unwrap();
        if is_switched {
            let mut mapped = pair.stop(line.both()).unwrap()[0].take().unwrap();
            let mut received = Vec::new();
            within(LIMIT, || {
                let mut buffer = [0; 4 * PIECE];
                mapped.count(take(&mut line.inner[0], &mut buffer, &mut received)?);
                Ok((received.len() >= 2 * PIECE).then_some(()))
            })
            .unwrap();
            assert_eq!(received, [first, second].concat());
        } else {
            expect(&mut line.server, &[first, second].concat()).unwrap();
            assert_eq!(pair.moved(), [2 * PIECE as u64, 0]);
        }
    }
}

/// The kernel's worker delivers what the program left to the agent behind bytes
/// for the same socket, and FIN may be reported before that.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_early_fin_does_not_hide_bytes_that_the_worker_still_has() {
    const PIECE: [u8; 4096] = [7; 4096];
    let maps = maps(4);
    for _ in 0..LINES {
        let (mut line, mut pair) = begun(&maps);
        let cookie = pair.cookies()[1];
        let mut stream = maps.stream(cookie).unwrap();
        stream.switch = Switch::NoRoom as u32;
        maps.set_stream(cookie, stream).unwrap();
        line.client.write_all(&PIECE).unwrap();
        line.server.write_all(b"last").unwrap();
        line.server.shutdown(Shutdown::Write).unwrap();
        let [_forward, reply] = pair.stop(line.both()).unwrap();
        let mut reply = reply.unwrap();
        let mut buffer = [0; 8];
        let mut received = 0;
        loop {
            match line.inner[1].read(&mut buffer) {
                Ok(0) if reply.has_more_before_fin().unwrap() => {}
                Ok(0) => break,
                Ok(read) => {
                    reply.count(read);
                    received += read;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert_eq!(&buffer[..received], b"last");
        expect(&mut line.server, &PIECE).unwrap();
    }
}

/// Takes the pair out of the maps; the bytes of stream 0 are in ordinary sockets then.
fn take_out(mut pair: Pair, line: &mut Line) -> io::Result<()> {
    let [forward, _reply] = pair.stop(line.both()).map_err(io::Error::other)?;
    wait_until(|| Ok(pair.queued(0) == Some(0)))?;
    if !pair.is_complete() {
        return Err(io::Error::other("bytes were lost"));
    }
    drop(pair);
    forward.map_or(Ok(()), |forward| relay_until_released(forward, line))
}

/// The TCP header with the options that each segment has.
const TCP_HEADER: usize = 32;

/// Passes only segments with more bytes than this, their headers included.
fn longer_than(bytes: usize) -> [SockFilter; 4] {
    const LOAD_LENGTH: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_LEN) as u16;
    const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(LOAD_LENGTH, 0, 0, 0),
        SockFilter::new(IF_GREATER, 1, 0, u32::try_from(bytes).unwrap_or(u32::MAX)),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// Relays until the stream can be released.
fn relay_until_released(mut mapped: Mapped, line: &mut Line) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut unwritten = Vec::new();
        let read = take(&mut line.inner[0], &mut buffer, &mut unwritten)?;
        if read == 0 && mapped.release(&line.inner[0])? {
            return Ok(());
        }
        mapped.count(read);
        put(&mut line.inner[1], unwritten)?;
    }
}

/// Relays until FIN, and passes that on.
fn relay_to_the_end(line: &mut Line) -> io::Result<()> {
    line.inner[0].set_nonblocking(false)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match line.inner[0].read(&mut buffer)? {
            0 => return line.inner[1].shutdown(Shutdown::Write),
            read => put(&mut line.inner[1], buffer[..read].to_vec())?,
        }
    }
}

fn put(to: &mut TcpStream, mut bytes: Vec<u8>) -> io::Result<()> {
    within(LIMIT, || {
        match to.write(&bytes) {
            Ok(written) => _ = bytes.drain(..written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(bytes.is_empty().then_some(()))
    })
}

/// Waits until `is_so` returns true.
fn wait_until(mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    within(LIMIT, || Ok(is_so()?.then_some(())))
}
