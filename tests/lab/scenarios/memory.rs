// SPDX-License-Identifier: Apache-2.0
//! How much memory one hostile connection can take.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use llb_tests::Host;
use llb_tests::client::connect;
use llb_tests::manifests::PortSpec;

use crate::plane::Plane;
use crate::setup::Setup;

/// Limit for one connection: memory of llb, and of the kernel for llb's sockets.
const LARGEST_GROWTH: u64 = 8 << 20;
/// How much the client tries to send.
const PUSH: u64 = 4 << 30;
/// Columns of the output of ss(8).
const RECEIVE_QUEUE: usize = 1;
const SEND_QUEUE: usize = 2;
/// If nothing was taken for this long, the client cannot send any more.
const BLOCKED: Duration = Duration::from_secs(2);

pub(crate) fn a_backend_that_never_reads_costs_little_memory(plane: Plane) {
    let mut setup = Setup::new(plane);
    let node = setup.lab.host("node-1").clone();
    let node = &node;
    let backend = node.run_inside(|| std::net::TcpListener::bind(node.at(30007))).unwrap().unwrap();
    setup.serve("stuck", &[setup.vip()], &[PortSpec::tcp("stuck", 7, 30007)]);
    let before = memory(&mut setup);

    let mut client = connect(setup.client(), SocketAddr::new(setup.vip(), 7)).unwrap();
    // The backend accepts the connection, then reads nothing.
    let (stuck, _) = backend.accept().unwrap();
    client.set_write_timeout(Some(BLOCKED)).unwrap();
    let block = vec![0; 1 << 20];
    let mut pushed = 0;
    while pushed < PUSH {
        match client.write(&block) {
            Ok(count) => pushed += count as u64,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let growth = memory(&mut setup).saturating_sub(before);
    // Bytes that are neither at the client nor at the backend are in llb or its sockets.
    let held = pushed.saturating_sub(queues(setup.client(), SEND_QUEUE) + queues(node, RECEIVE_QUEUE));
    println!("pushed {} KiB, grew by {} KiB, holds {} KiB", pushed >> 10, growth >> 10, held >> 10);
    assert!(pushed < PUSH, "nobody stopped the client");
    assert!(growth <= LARGEST_GROWTH, "grew by {growth} bytes");
    assert!(held <= LARGEST_GROWTH, "holds {held} bytes");
    drop(stuck);
}

/// Bytes in one of the queues, summed up over all connections of a host.
fn queues(host: &Host, column: usize) -> u64 {
    let connections = host.output(&["ss", "--tcp", "--numeric", "--no-header"]).unwrap();
    let bytes = |line: &str| line.split_whitespace().nth(column)?.parse::<u64>().ok();
    connections.lines().filter_map(bytes).sum()
}

/// Resident memory of the agent plus what the kernel holds for the sockets of its namespace, in bytes.
fn memory(setup: &mut Setup) -> u64 {
    let sockets = ["ss", "--tcp", "--memory", "--numeric", "--no-header"];
    let sockets = setup.lab.balancer().output(&sockets).unwrap();
    let held: i64 = sockets.split("skmem:(").skip(1).map(|text| held(text).unwrap()).sum();
    setup.resident_bytes().saturating_add_signed(held)
}

/// Parses `r1,rb2,t3,tb4,f5,w6,o7,bl8,d9)`: bytes received, in transmission, allocated in advance, queued for
/// sending and so on; see ss(8). The advance is negative when a socket got more than its share, which ss prints
/// as a huge number.
fn held(text: &str) -> anyhow::Result<i64> {
    let (fields, _) = text.split_once(')').context("no end")?;
    let mut sum = 0;
    for field in fields.split(',') {
        let start = field.find(|c: char| c.is_ascii_digit()).context("no number")?;
        if ["r", "f", "w"].contains(&&field[..start]) {
            sum += i64::from(field[start..].parse::<u32>()?.cast_signed());
        }
    }
    Ok(sum)
}
