//! Faults of the kernel's part, on loopback. They need root: `cargo xtask test`.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;

use super::SockmapError;
use super::maps::Maps;
use super::pair::Pair;
use super::self_test::{self, Line, expect};

fn maps(pairs: usize) -> Arc<Maps> {
    Arc::new(Maps::load(pairs).unwrap().0)
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

    // Sockets that are in the map keep the program.
    old.client.write_all(b"old").unwrap();
    expect(&mut old.server, b"old").unwrap();

    // Others never get it: what they receive stays where it is.
    let mut new_pair = Pair::form(&maps, new.both()).unwrap();
    new_pair.begin(new.both()).unwrap();
    new.client.write_all(b"new").unwrap();
    new.server.write_all(b"new").unwrap();
    self_test::wait_until(|| new_pair.is_stalled(new.both())).unwrap();
    assert_eq!(new_pair.moved(), [0, 0]);
    let mapped = new_pair.stop(new.both()).unwrap();
    assert!(mapped.iter().all(Option::is_none) && new_pair.is_whole());
    drop(new_pair);
    for inner in &mut new.inner {
        let mut received = [0; 3];
        inner.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"new");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_closed_leaves_the_maps() {
    let maps = maps(4);
    let line = Line::new().unwrap();
    let pair = Pair::form(&maps, line.both()).unwrap();
    pair.begin(line.both()).unwrap();
    drop(line);
    assert_eq!(pair.queued(0), None);
    drop(pair);
    assert_eq!(maps.entries(), 0);
}

/// The kernel can't keep a FIN behind bytes that wait for the same socket: it
/// took that for an error of the socket, and wrote nothing more to it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_fin_does_not_stop_what_waits_for_its_socket() {
    /// Of which some have a FIN while the kernel's worker has not yet begun.
    const LINES: usize = 300;
    const PIECE: [u8; 4096] = [7; 4096];
    let maps = maps(4);
    for _ in 0..LINES {
        let mut line = Line::new().unwrap();
        let pair = Pair::form(&maps, line.both()).unwrap();
        pair.begin(line.both()).unwrap();
        line.client.write_all(&PIECE).unwrap();
        line.server.shutdown(Shutdown::Write).unwrap();
        line.client.write_all(&PIECE).unwrap();
        expect(&mut line.server, &[PIECE, PIECE].concat()).unwrap();
        assert_eq!(line.inner[1].read(&mut [0]).unwrap(), 0);
        assert!(line.inner[1].take_error().unwrap().is_none());
    }
}
