// SPDX-License-Identifier: Apache-2.0
//! For tests: a stream in which each byte tells its place, so that a byte that is lost or overtakes is found.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

/// The bytes of one write.
const PIECE: usize = 100;

/// A prime, so that no power of two of lost bytes goes unseen.
const CYCLE: usize = 251;

fn byte_at(place: usize) -> u8 {
    (place % CYCLE) as u8
}

/// Sends until it is told to stop, then FIN. Returns the number of bytes.
pub(super) fn send_until(stop: &AtomicBool, mut stream: TcpStream) -> usize {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let piece: [u8; PIECE] = std::array::from_fn(|index| byte_at(sent + index));
        stream.write_all(&piece).unwrap();
        sent += PIECE;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    sent
}

/// Reads to the end, and looks at each byte. Returns their number.
pub(super) fn receive_all(mut stream: TcpStream) -> usize {
    let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            return received;
        }
        let is_right = |(index, &byte): (usize, &u8)| byte == byte_at(received + index);
        assert!(buffer[..read].iter().enumerate().all(is_right), "at {received} or after");
        received += read;
    }
}
