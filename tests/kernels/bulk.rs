// SPDX-License-Identifier: Apache-2.0
//! Long streams whose bytes are checked by their hash at the other end: first up, then down.
//!
//! ```text
//! client --> length of up, length of down, the bytes of up -->        backend
//!        <-- hash of what it got, hash of down, the bytes of down <--
//! ```

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use llb_tests::Host;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// A stream that makes no progress for so long has broken off.
const STALL_LIMIT: Duration = Duration::from_secs(20);

/// Read and written at a time.
const PART: usize = 64 << 10;

/// A server for any number of such streams. It ends with the test's process: its listener dies with the namespace's
/// last user, and nothing waits for it.
pub(crate) fn serve(host: &Host, address: SocketAddr) -> Result<()> {
    let listener = host.run_inside(|| TcpListener::bind(address))?;
    let listener = listener.with_context(|| format!("cannot bind {address} on {}", host.name()))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The client sees what goes wrong.
            std::thread::spawn(move || drop(answer(stream)));
        }
    });
    Ok(())
}

/// One stream through `address`.
pub(crate) fn transfer(host: &Host, address: SocketAddr, up: u64, down: u64) -> Result<()> {
    transfer_within(STALL_LIMIT, host, address, up, down)
}

/// As [`transfer`], for a stream that may make no progress for `stall`.
pub(crate) fn transfer_within(
    stall: Duration,
    host: &Host,
    address: SocketAddr,
    up: u64,
    down: u64,
) -> Result<()> {
    let stream = llb_tests::client::connect(host, address)?;
    stream.set_read_timeout(Some(stall))?;
    stream.set_write_timeout(Some(stall))?;
    follow(stream, up, down).with_context(|| format!("{up} bytes up, {down} down through {address}"))
}

fn follow(mut stream: TcpStream, up: u64, down: u64) -> Result<()> {
    stream.write_all(&up.to_be_bytes())?;
    stream.write_all(&down.to_be_bytes())?;
    let sent = send(&mut stream, up, up).context("on the way up")?;
    let arrived = read_number(&mut stream).context("no hash of what went up")?;
    ensure!(arrived == sent, "what arrived above is not what was sent");
    let expected = read_number(&mut stream)?;
    let hash = receive(&mut stream, down).context("on the way down")?;
    ensure!(hash == expected, "what arrived below is not what was sent");
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let up = read_number(&mut stream)?;
    let down = read_number(&mut stream)?;
    let hash = receive(&mut stream, up)?;
    stream.write_all(&hash.to_be_bytes())?;
    // The hash of what comes is known before: both ends can compute the bytes.
    stream.write_all(&hash_of(down).to_be_bytes())?;
    send(&mut stream, down, down)?;
    Ok(())
}

/// Sends `length` random bytes, and returns their hash.
fn send(stream: &mut TcpStream, length: u64, seed: u64) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for_each_part(length, seed, |part| {
        hasher.write(part);
        Ok(stream.write_all(part)?)
    })?;
    Ok(hasher.finish())
}

fn hash_of(length: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Nothing in it fails.
    let _ = for_each_part(length, length, |part| {
        hasher.write(part);
        Ok(())
    });
    hasher.finish()
}

fn for_each_part(length: u64, seed: u64, mut work: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut buffer = vec![0; PART];
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).map_or(PART, |left| left.min(PART));
        random.fill_bytes(&mut buffer);
        work(&buffer[..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, length: u64) -> Result<u64> {
    // A hasher may give another hash for the same bytes in other parts, so the parts are those of the sender.
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; PART];
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).map_or(PART, |left| left.min(PART));
        let read = stream.read_exact(&mut buffer[..part]);
        read.with_context(|| format!("{left} of {length} bytes are missing"))?;
        hasher.write(&buffer[..part]);
        left -= part as u64;
    }
    Ok(hasher.finish())
}

fn read_number(stream: &mut TcpStream) -> Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
