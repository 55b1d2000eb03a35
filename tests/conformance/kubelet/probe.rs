// SPDX-License-Identifier: Apache-2.0
//! Readiness probes by HTTP, from the node to the Pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use llb_tests::wait::wait_until_async;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// agnhost starts in a tenth of a second; the machine may be busy.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// One probe.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Waits until the Pod's readiness probe succeeds, if it has one. Unlike a kubelet, this does not wait for the probe's
/// initial delay, and does not probe again.
pub(super) async fn wait_until_ready(pod: &Pod, address: IpAddr) -> Result<()> {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let probe = container.and_then(|container| container.readiness_probe.as_ref()?.http_get.as_ref());
    let Some(probe) = probe else { return Ok(()) };
    let IntOrString::Int(port) = probe.port else {
        anyhow::bail!("a probe of a named port is not supported")
    };
    let target = SocketAddr::new(address, u16::try_from(port)?);
    let path = probe.path.as_deref().unwrap_or("/");
    let once = || async { timeout(ANSWER_LIMIT, get(target, path)).await.context("no answer in time")? };
    wait_until_async(READY_LIMIT, &format!("the readiness of {target}"), async || once().await.map(Some))
        .await
}

async fn get(target: SocketAddr, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    let is_success = first.split(' ').nth(1).is_some_and(|code| code.starts_with(['2', '3']));
    ensure!(is_success, "{first}");
    Ok(())
}
