// SPDX-License-Identifier: Apache-2.0
//! Checks of servers on loopback.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Health;
use crate::config::HealthConfig;
use crate::model::{Check, Failure, HealthCheck, Verdict};

/// Far more than an answer on loopback takes.
const LIMIT: Duration = Duration::from_secs(20);

const CONFIG: HealthConfig =
    HealthConfig { interval: Duration::from_millis(10), timeout: Duration::from_millis(300) };

fn http(address: SocketAddr) -> Check {
    Check { address, how: HealthCheck::Http(Arc::from("/healthz?full=1")) }
}

fn tcp(address: SocketAddr) -> Check {
    Check { address, how: HealthCheck::Tcp }
}

/// Answers each connection with these bytes, once it has seen the request; with `None`, never.
fn serve(listener: TcpListener, answer: Option<&'static str>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(answer) = answer else {
                silent.push(stream);
                continue;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut bytes = [0; 1024];
                match stream.read(&mut bytes).await {
                    Ok(count @ 1..) => request.extend_from_slice(&bytes[..count]),
                    _ => break,
                }
            }
            let asks = String::from_utf8_lossy(&request).to_ascii_lowercase();
            if asks.starts_with("get /healthz?full=1 http/1.1\r\n") && asks.contains("\r\nhost: 127.0.0.1:") {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn start() -> Health {
    Health::start(CONFIG, &mut Registry::default())
}

/// Waits until the check has this verdict.
async fn wait_for(health: &mut Health, check: &Check, wanted: Option<Verdict>) {
    let waiting = async {
        while health.verdicts().get(check).copied() != wanted {
            health.changed().await;
        }
    };
    let result = tokio::time::timeout(LIMIT, waiting).await;
    assert!(result.is_ok(), "{check}: {:?}, not {wanted:?}", health.verdicts());
}

#[tokio::test]
async fn servers_are_judged_by_what_they_answer() {
    const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const MOVED: &str = "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n";
    const LIMITLESS: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nthe rest never comes";
    const BROKEN: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";
    const NOT_HTTP: &str = "220 mail.example.com ESMTP\r\n";
    let unhealthy = Verdict::Unhealthy;
    for (answer, expected) in [
        (Some(OK), Verdict::Healthy),
        (Some(MOVED), Verdict::Healthy),
        (Some(LIMITLESS), Verdict::Healthy),
        (Some(BROKEN), unhealthy(Failure::Status(503))),
        (Some(NOT_HTTP), unhealthy(Failure::NoAnswer)),
        (None, unhealthy(Failure::NoAnswer)),
    ] {
        let (listener, address) = listen().await;
        let server = serve(listener, answer);
        let mut health = start();
        health.ask(&BTreeSet::from([http(address), tcp(address)]));
        wait_for(&mut health, &http(address), Some(expected)).await;
        // A connection is enough for this one.
        wait_for(&mut health, &tcp(address), Some(Verdict::Healthy)).await;
        server.abort();
    }
}

#[tokio::test]
async fn a_server_that_ends_and_comes_back_is_noticed() {
    let (listener, address) = listen().await;
    let server = serve(listener, None);
    let check = tcp(address);
    let mut health = start();
    health.ask(&BTreeSet::from([check.clone()]));
    wait_for(&mut health, &check, Some(Verdict::Healthy)).await;
    server.abort();
    wait_for(&mut health, &check, Some(Verdict::Unhealthy(Failure::NoConnection))).await;
    let server = serve(TcpListener::bind(address).await.unwrap(), None);
    wait_for(&mut health, &check, Some(Verdict::Healthy)).await;
    // A check that nobody wants is forgotten.
    health.ask(&BTreeSet::new());
    wait_for(&mut health, &check, None).await;
    server.abort();
}

#[tokio::test]
async fn silent_servers_delay_others_by_a_bounded_time() {
    let (silent, silent_address) = listen().await;
    let (answering, address) = listen().await;
    let servers = [serve(silent, None), serve(answering, Some("HTTP/1.1 200 OK\r\n\r\n"))];
    // More different checks than are made at the same time.
    let path = |number: usize| HealthCheck::Http(Arc::from(format!("/{number}")));
    let mut checks: BTreeSet<Check> =
        (0..200).map(|number| Check { address: silent_address, how: path(number) }).collect();
    checks.insert(http(address));
    let mut health = start();
    health.ask(&checks);
    wait_for(&mut health, &http(address), Some(Verdict::Healthy)).await;
    for check in &checks {
        let expected =
            if check.address == address { Verdict::Healthy } else { Verdict::Unhealthy(Failure::NoAnswer) };
        wait_for(&mut health, check, Some(expected)).await;
    }
    servers.into_iter().for_each(|server| server.abort());
}
