// SPDX-License-Identifier: Apache-2.0
//! Sockets that the register program puts into the maps when they are established, on loopback: nothing is lost
//! or overtakes, and nothing else is touched. They need root: `cargo xtask test`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::SockRef;

use super::loopback::{LIMIT, Line, expect, take, within};
use super::mapped::Mapped;
use super::maps::Maps;
use super::numbered_bytes::{receive_all, send_until};
use super::pair::Pair;
use super::self_test;
use crate::config::SockmapJoin;

const PIECE: usize = 100;

/// Maps whose program registers marked sockets.
fn registering() -> Arc<Maps> {
    let maps = Arc::new(Maps::load(64).unwrap().0);
    maps.register_marked().unwrap();
    maps
}

fn adopt(maps: &Arc<Maps>, line: &Line) -> [Mapped; 2] {
    line.both().map(|socket| Mapped::adopt(maps, socket).unwrap())
}

fn marked_listener(maps: &Maps) -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    maps.mark(&listener).unwrap();
    listener
}

fn wait_until_empty(maps: &Maps) {
    within(LIMIT, || Ok((maps.entries() == 0).then_some(()))).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_self_test_passes_and_leaves_nothing() {
    let maps = registering();
    self_test::run(&maps, SockmapJoin::SockOps).unwrap();
    wait_until_empty(&maps);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn sockets_without_a_mark_are_not_touched() {
    let maps = registering();
    let mut line = Line::new().unwrap();
    assert_eq!(maps.entries(), 0);
    line.client.write_all(b"plain").unwrap();
    let mut received = [0; 5];
    line.inner[0].set_nonblocking(false).unwrap();
    line.inner[0].read_exact(&mut received).unwrap();
    assert_eq!(&received, b"plain");

    let listener = marked_listener(&maps);
    maps.unmark(&listener);
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _accepted = listener.accept().unwrap();
    assert_eq!(maps.entries(), 0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn data_and_fin_from_before_accept_are_read_in_order() {
    let maps = registering();
    let listener = marked_listener(&maps);
    let sent: Vec<u8> = (0..100_000).map(|index: u32| (index % 251) as u8).collect();
    for length in [1, 10_000, sent.len()] {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(&sent[..length]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let mut mapped = Mapped::adopt(&maps, &accepted).unwrap();
        accepted.set_read_timeout(Some(LIMIT)).unwrap();
        let mut received = Vec::new();
        accepted.read_to_end(&mut received).unwrap();
        assert!(received == sent[..length], "{} of {length} bytes", received.len());
        mapped.count(received.len());
        assert!(!mapped.has_more_before_fin().unwrap());
    }
    wait_until_empty(&maps);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_that_nobody_accepts_leave_nothing() {
    let maps = registering();
    let listener = marked_listener(&maps);
    let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut reset, mut ended, mut open) = (connect(), connect(), connect());
    for client in [&mut reset, &mut ended, &mut open] {
        client.write_all(b"early").unwrap();
    }
    assert!(maps.entries() > 0);
    SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    ended.shutdown(Shutdown::Write).unwrap();
    drop(listener);
    wait_until_empty(&maps);
}

/// Bytes keep arriving while the pair is joined and parted again.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn joining_loses_nothing_and_nothing_overtakes() {
    const TIMES: usize = 5_000;
    let maps = registering();
    let mut line = Line::registered(&maps, b"").unwrap();
    let mut mapped = adopt(&maps, &line);
    let (stop, client, server) =
        (AtomicBool::new(false), line.client.try_clone().unwrap(), line.server.try_clone().unwrap());
    let (moved, sent) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&stop, client));
        let receiver = scope.spawn(|| receive_all(server));
        let mut moved = 0;
        for _ in 0..TIMES {
            if !mapped.iter().all(Mapped::is_joinable) {
                // The other socket had no room for a moment, so this stream is the agent's for good.
                break;
            }
            let mut pair = Pair::of_registered(&maps, mapped);
            let _may_be_late = pair.begin(line.both());
            let [forward, reply] = pair.stop(line.both()).unwrap();
            mapped = [forward.unwrap(), reply.unwrap()];
            within(LIMIT, || Ok((pair.queued(0) == Some(0)).then_some(()))).unwrap();
            moved += pair.moved()[0];
            relay(&mut line, &mut mapped[0]);
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap();
        while relay(&mut line, &mut mapped[0]) {}
        line.inner[1].shutdown(Shutdown::Write).unwrap();
        assert_eq!(sent, receiver.join().unwrap());
        (moved, sent)
    });
    println!("the kernel moved {moved} of {sent} bytes");
    assert!(moved > 0);
}

/// Relays what was left to the agent; `false`: the end was read.
fn relay(line: &mut Line, mapped: &mut Mapped) -> bool {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match line.inner[0].read(&mut buffer) {
            Ok(0) => return mapped.has_more_before_fin().unwrap(),
            Ok(read) => {
                mapped.count(read);
                let mut rest = &buffer[..read];
                within(LIMIT, || {
                    let written = line.inner[1].write(rest);
                    rest = &rest[written.unwrap_or(0)..];
                    Ok(rest.is_empty().then_some(()))
                })
                .unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                return true;
            }
        }
    }
}

/// What the agent reads and what the kernel moves of one stream, in turns.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pair_is_joined_again_and_again() {
    let maps = registering();
    let mut line = Line::registered(&maps, b"").unwrap();
    let mut mapped = adopt(&maps, &line);
    for turn in 0..20_u8 {
        let (by_agent, by_kernel) = ([turn; PIECE], [turn + 100; PIECE]);
        line.client.write_all(&by_agent).unwrap();
        let (mut buffer, mut received) = ([0; PIECE], Vec::new());
        within(LIMIT, || {
            mapped[0].count(take(&mut line.inner[0], &mut buffer, &mut received)?);
            Ok((received.len() >= PIECE).then_some(()))
        })
        .unwrap();
        line.inner[1].write_all(&received).unwrap();
        let mut pair = Pair::of_registered(&maps, mapped);
        pair.begin(line.both()).unwrap();
        line.client.write_all(&by_kernel).unwrap();
        line.server.write_all(&by_kernel).unwrap();
        expect(&mut line.server, &[by_agent, by_kernel].concat()).unwrap();
        expect(&mut line.client, &by_kernel).unwrap();
        let [forward, reply] = pair.stop(line.both()).unwrap();
        assert_eq!(pair.moved(), [PIECE as u64; 2]);
        assert_eq!([pair.queued(0), pair.queued(1)], [Some(0); 2]);
        mapped = [forward.unwrap(), reply.unwrap()];
    }
    drop((mapped, line));
    wait_until_empty(&maps);
}
