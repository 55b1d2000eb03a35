// SPDX-License-Identifier: Apache-2.0
//! The clients of a soak. They follow the script and say what they saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::script::{Ending, Order, Pattern, Script};
use super::seen::{Book, Seen, note};
use super::transfer::{Transfer, keep_alive, receive, reset, send, write_all};
use crate::Host;

/// Connections at the same time: enough to keep two CPUs busy.
const AT_ONE_TIME: usize = 64;

/// A connection that takes longer counts as hanging.
const LIMIT: Duration = Duration::from_secs(120);

/// Opens all connections, [`AT_ONE_TIME`] at a time, and returns what their clients saw.
pub(super) fn run(host: &Host, vips: &[SocketAddr], seed: u64, count: u64) -> Result<BTreeMap<u64, Seen>> {
    let book = Book::default();
    host.run_inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let permits = Arc::new(Semaphore::new(AT_ONE_TIME));
            let pattern = Arc::new(Pattern::new(seed));
            let mut tasks = JoinSet::new();
            for number in 0..count {
                let permit = permits.clone().acquire_owned().await?;
                let vip = vips[usize::try_from(number)? % vips.len()];
                let (book, pattern) = (book.clone(), pattern.clone());
                tasks.spawn(async move {
                    let script = Script::of(seed, number);
                    let seen = match tokio::time::timeout(LIMIT, follow(vip, number, script, &pattern)).await
                    {
                        Ok(Ok(seen)) => seen,
                        Ok(Err(error)) => Seen::Wrong(format!("{error:#}")),
                        Err(_) => Seen::Wrong(format!("nothing more after {LIMIT:?}")),
                    };
                    note(&book, number, seen);
                    drop(permit);
                });
                while tasks.try_join_next().is_some() {}
            }
            while tasks.join_next().await.is_some() {}
            anyhow::Ok(())
        })
    })??;
    Ok(std::mem::take(&mut *book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
}

async fn follow(vip: SocketAddr, number: u64, script: Script, pattern: &Pattern) -> Result<Seen> {
    let stream = TcpStream::connect(vip).await.context("connect")?;
    keep_alive(&stream);
    let up = Transfer { number, length: script.up, stalls: script.stalls, slow: false };
    let down =
        Transfer { number: !number, length: script.down, stalls: false, slow: script.client_reads_slowly };
    if !send_number(&stream, number).await {
        return Ok(Seen::Reset);
    }
    if let Ending::ClientResets { after } = script.ending {
        // The send may fail if the other side fails first. Either way this side is reset.
        let _ = send(&stream, pattern, Transfer { length: after, ..up }).await;
        reset(stream);
        return Ok(Seen::Reset);
    }
    let sending = async {
        send(&stream, pattern, up).await?;
        rustix::net::shutdown(&stream, rustix::net::Shutdown::Write).map_err(std::io::Error::from)
    };
    let (sent, seen) = match script.order {
        Order::BackendFirst => {
            let seen = receive(&stream, pattern, down).await;
            (sending.await, seen)
        }
        Order::ClientFirst => {
            let sent = sending.await;
            (sent, receive(&stream, pattern, down).await)
        }
        Order::Together => tokio::join!(sending, receive(&stream, pattern, down)),
    };
    Ok(Seen::of(sent, seen))
}

async fn send_number(stream: &TcpStream, number: u64) -> bool {
    write_all(stream, &number.to_be_bytes()).await.is_ok()
}
