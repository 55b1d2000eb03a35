// SPDX-License-Identifier: Apache-2.0
//! Tests backends that clients' connections made suspicious: connects to them, and marks those that do not
//! answer as dead, so that new connections avoid them. What is tested and what follows is decided in
//! `suspects.rs`.
//!
//! One task, and one for each test. Input: time, the programs' marks. Output: marks, and the dead backends in
//! `State`. A test sends nothing and closes the connection as soon as it is there.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use llb_common::backend::{BackendId, FailureKind, FailureMark};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::clock::now;
use super::shared::Shared;
use super::suspects::{Order, Outcome, Sentence, Suspects};
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::model::{FailureReason, Mode};

/// How often the marks are looked at. It and a test together take less than
/// [`REFUSING_SECS`](llb_common::backend::REFUSING_SECS), if the backend refuses the test.
const LOOK: Duration = Duration::from_millis(500);
/// A test's connections begin one after the other, so that a short loss does not take all of them.
const BETWEEN_TRIES: Duration = Duration::from_millis(600);
/// A connection that is not answered within this time has failed.
const LIMIT: Duration = Duration::from_secs(1);

/// Where a test connects to, and from where: the address that the backend sees in clients' packets, so that
/// firewalls treat both alike.
#[derive(Clone, Copy, Debug)]
struct Target {
    backend: SocketAddr,
    source: IpAddr,
}

/// Runs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut suspects = Suspects::default();
    let mut running = JoinSet::new();
    let mut due = clock::now();
    loop {
        let result = tokio::select! {
            Some(ended) = running.join_next() => match ended {
                Ok((id, outcome)) => conclude(&shared, &mut suspects, id, outcome),
                Err(_) => continue,
            },
            () = sleep_until(due) => {
                due = clock::now() + LOOK;
                look(&shared, &mut suspects, &mut running)
            }
        };
        if let Err(error) = result {
            // The upkeep warns if the marks can't be read.
            tracing::debug!(error = %ErrorChain(&error), "cannot read or write marks of failing backends");
        }
    }
}

/// Looks at all marks, and starts the tests that are due.
fn look(
    shared: &Shared,
    suspects: &mut Suspects,
    running: &mut JoinSet<(BackendId, Outcome)>,
) -> io::Result<()> {
    let maps = Arc::clone(&shared.state().maps);
    let mut marks = maps.failing()?;
    let targets = if marks.is_empty() { HashMap::new() } else { targets(shared, &marks) };
    marks.retain(|id, _| targets.contains_key(id));
    let orders = suspects.look(&marks, now(), clock::now());
    shared.state().dead = suspects.dead();
    // A failed write must not stop the tests behind it.
    let mut result = Ok(());
    for order in orders {
        match order {
            Order::Renew(id) => {
                let renewed = maps.mark_as_failing(id, FailureMark::new(FailureKind::Dead, now()));
                result = result.and(renewed);
            }
            Order::Test(id, tries) => {
                let Some(target) = targets.get(&id).copied() else { continue };
                running.spawn(async move { (id, test(target, tries).await) });
            }
        }
    }
    result
}

/// The marked backends of rules. In mode dsr the programs see no answers, so marks mean nothing there.
fn targets(shared: &Shared, marks: &HashMap<BackendId, FailureMark>) -> HashMap<BackendId, Target> {
    let state = shared.state();
    let marked = state
        .image
        .in_rules()
        .filter(|(_, mode, _, entry)| *mode == Mode::Nat && marks.contains_key(&entry.id));
    let target = |backend: SocketAddr, source| Target { backend, source };
    marked.map(|(_, _, backend, entry)| (entry.id, target(backend.address, entry.snat.into()))).collect()
}

/// Acts on the end of a test.
fn conclude(shared: &Shared, suspects: &mut Suspects, id: BackendId, outcome: Outcome) -> io::Result<()> {
    let maps = Arc::clone(&shared.state().maps);
    let mark = maps.mark_of(id).unwrap_or_else(|error| {
        tracing::debug!(error = %ErrorChain(&error), "cannot read the mark of a backend that was tested");
        None
    });
    let sentence = suspects.tested(id, outcome, mark, clock::now());
    let mut state = shared.state();
    state.tests.count(outcome);
    state.dead = suspects.dead();
    drop(state);
    match sentence {
        Sentence::Dead => maps.mark_as_failing(id, FailureMark::new(FailureKind::Dead, now())),
        Sentence::Well => maps.forget_failure(id),
        Sentence::Open => Ok(()),
    }
}

/// Connects until one connection is answered, at most `tries` times.
async fn test(target: Target, tries: u32) -> Outcome {
    let mut running = JoinSet::new();
    for n in 0..tries {
        running.spawn(async move {
            sleep(BETWEEN_TRIES * n).await;
            connect(target).await
        });
    }
    let mut outcome = Outcome::NotMade;
    let mut is_whole = true;
    while let Some(ended) = running.join_next().await {
        match ended.unwrap_or(Outcome::NotMade) {
            Outcome::Answered => return Outcome::Answered,
            Outcome::NotMade => is_whole = false,
            failed @ Outcome::Failed(_) => outcome = failed,
        }
    }
    if is_whole { outcome } else { Outcome::NotMade }
}

/// One connection.
async fn connect(target: Target) -> Outcome {
    let made = socket(target);
    let connecting = async { made?.connect(target.backend).await.map(drop) };
    match timeout(LIMIT, connecting).await {
        Ok(Ok(())) => Outcome::Answered,
        Ok(Err(error)) => match FailureReason::from(&error) {
            // An error of this machine: no descriptors or ports, the source address is gone, a firewall.
            FailureReason::Other(kind) if kind != io::ErrorKind::ConnectionReset => Outcome::NotMade,
            why => Outcome::Failed(why),
        },
        Err(_) => Outcome::Failed(FailureReason::TimedOut),
    }
}

fn socket(target: Target) -> io::Result<TcpSocket> {
    let socket = if target.backend.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(target.source, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_test_tells_what_became_of_its_connections() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let backend = listener.local_addr().unwrap();
            let target = Target { backend, source: backend.ip() };
            assert_eq!(test(target, 3).await, Outcome::Answered);
            drop(listener);
            assert_eq!(test(target, 1).await, Outcome::Failed(FailureReason::Refused));
            let foreign: IpAddr = if backend.is_ipv4() {
                [192, 0, 2, 1].into()
            } else {
                [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()
            };
            assert_eq!(test(Target { source: foreign, ..target }, 1).await, Outcome::NotMade);
        }
    }
}
