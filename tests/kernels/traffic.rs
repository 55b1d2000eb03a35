// SPDX-License-Identifier: Apache-2.0
//! Traffic from the lab's client through the machine, and what must be true of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use llb_tests::client::{Download, Load, count_by_name, http_get, udp_ask};
use llb_tests::wait_until;

use crate::balancer;
use crate::bulk;
use crate::stage::{BULK, DNS, HTTP, Mode, NODES, Stage};

/// With two nodes, 20 random choices fall on one node in 1 of 2^19 runs.
const REQUESTS: usize = 20;

/// Bytes of a stream: more than all buffers on its way.
const LONG: u64 = 8 << 20;

/// Streams at the same time.
const STREAMS: usize = 4;

/// Bytes of UDP payload: the smallest, the largest in one packet of Ethernet, and some in fragments. They have the
/// name and address of the answer before them, about 40 bytes.
const DATAGRAMS: [usize; 5] = [1, 13, 1400, 1472, 9000];

/// Requests that must end between two steps of a restart.
const REQUESTS_BETWEEN: usize = 5;

/// Time for them.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two requests, so that they leave an emulated machine time for the rest.
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a download between two steps of a restart.
const PART: u64 = 4 << 20;

/// For the agent to see that a link has changed, and to try its hooks again: most of it is the kernel's look at the
/// programs, which takes half a minute for each in an emulated machine.
const HOOKS_LIMIT: Duration = Duration::from_secs(300);

const JUMBO: u32 = 9000;
const USUAL: u32 = 1500;

/// Requests, streams in both directions and datagrams of every size, over both families.
pub(crate) fn everything(stage: &Stage, mode: Mode) -> Result<()> {
    let client = stage.client();
    for vip in stage.vips(mode) {
        let at = |port: u16| SocketAddr::new(vip, port);
        let counts = count_by_name(REQUESTS, || http_get(client, at(HTTP.port)))?;
        ensure!(
            NODES.iter().all(|&node| counts.contains_key(node)),
            "{vip}: only some nodes answered: {counts:?}"
        );
        bulk::transfer(client, at(BULK.port), LONG, 0)?;
        bulk::transfer(client, at(BULK.port), 0, LONG)?;
        std::thread::scope(|scope| {
            let streams: Vec<_> = (0..STREAMS)
                .map(|_| scope.spawn(|| bulk::transfer(client, at(BULK.port), LONG / 8, LONG / 8)))
                .collect();
            streams.into_iter().try_for_each(|stream| match stream.join() {
                Ok(outcome) => outcome.context("several streams at the same time"),
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        for length in DATAGRAMS {
            let content: String = ('a'..='z').cycle().take(length).collect();
            let answer = udp_ask(client, at(DNS.port), &content);
            let answer = answer.with_context(|| format!("a datagram of {length} bytes to {vip}"))?;
            ensure!(answer.content == content, "a datagram of {length} bytes to {vip} came back changed");
        }
    }
    Ok(())
}

/// Downloads and requests go on while the agent is killed, started again, and replaced by another one.
pub(crate) fn restarts(stage: &mut Stage, datapath: &str, modes: &[Mode]) -> Result<()> {
    let vips: Vec<SocketAddr> =
        modes.iter().flat_map(|&mode| stage.vips(mode)).map(|vip| SocketAddr::new(vip, HTTP.port)).collect();
    let mut downloads: Vec<(SocketAddr, Download)> =
        vips.iter().map(|&vip| Ok((vip, Download::start(stage.client(), vip)?))).collect::<Result<_>>()?;
    let loads: Vec<(SocketAddr, Load)> =
        vips.iter().map(|&vip| (vip, Load::paced(stage.client(), vip, PAUSE))).collect();
    let mut go_on = |what: &str| -> Result<()> {
        for (vip, download) in &mut downloads {
            download.read(PART).with_context(|| format!("the download from {vip} {what}"))?;
        }
        for (vip, load) in &loads {
            load.wait_for_more(REQUESTS_BETWEEN, LIMIT)
                .with_context(|| format!("requests to {vip} {what}"))?;
        }
        Ok(())
    };
    go_on("before anything")?;
    balancer::kill9(stage)?;
    go_on("while no agent runs")?;
    balancer::start(stage, datapath)?;
    go_on("after the restart")?;
    balancer::hand_over(stage, datapath)?;
    go_on("after the handover")?;
    for (vip, load) in loads {
        let tally = load.stop()?;
        ensure!(
            tally.failures.is_empty(),
            "{} of {} requests to {vip} failed: {:?}",
            tally.failures.len(),
            tally.total(),
            tally.failures.first()
        );
    }
    drop(downloads);
    Ok(())
}

/// The MTU is raised to jumbo frames while streams run: they go on, and new ones use such frames. `by_hand`: only after
/// what the agent says was done.
pub(crate) fn jumbo_frames(stage: &mut Stage, modes: &[Mode], by_hand: bool) -> Result<()> {
    stage.set_mtu(JUMBO)?;
    let vips: Vec<SocketAddr> =
        modes.iter().flat_map(|&mode| stage.vips(mode)).map(|vip| SocketAddr::new(vip, BULK.port)).collect();
    let client = stage.client().clone();
    let outcome = std::thread::scope(|scope| {
        // It stalls for as long as large frames are lost, and TCP then repeats after at most twice that time.
        let old =
            scope.spawn(|| bulk::transfer_within(2 * HOOKS_LIMIT, &client, vips[0], 2 * LONG, 2 * LONG));
        stage.machine_mtu(JUMBO)?;
        if by_hand {
            follow_advice(stage)?;
        }
        // The agent sees the change in its next round. What stalls until then is sent again.
        let transfer = |&vip: &SocketAddr| bulk::transfer(&client, vip, LONG, LONG);
        let transfer_all = || vips.iter().try_for_each(transfer).map(Some);
        wait_until(HOOKS_LIMIT, "streams in jumbo frames", transfer_all)?;
        match old.join() {
            Ok(outcome) => outcome.context("a stream that was there before"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    stage.set_mtu(USUAL)?;
    stage.machine_mtu(USUAL)?;
    outcome?;
    // The kernel warns if a driver refuses what it must not refuse.
    stage.machine.run("! dmesg | grep 'WARNING:.*xdp'").context("the kernel has warned").map(drop)
}

/// The driver does not let XDP go at the large MTU. The agent says what to do, and that is done.
fn follow_advice(stage: &mut Stage) -> Result<()> {
    let (link, reason) = (stage.link().to_owned(), "XdpLosesPackets");
    let advice = format!("`ip link set {link} mtu {USUAL}`");
    let problems = |stage: &Stage| Ok::<_, anyhow::Error>(balancer::state(stage)?["problems"].to_string());
    wait_until(HOOKS_LIMIT, "a problem that says what to do", || {
        let problems = problems(stage)?;
        ensure!(problems.contains(reason) && problems.contains(&advice), "{problems}");
        Ok(Some(()))
    })?;
    stage.machine_mtu(USUAL)?;
    wait_until(HOOKS_LIMIT, "an agent that has left XDP", || {
        let (problems, placed) = (problems(stage)?, balancer::placed(stage)?);
        ensure!(!problems.contains(reason), "{problems}");
        ensure!(placed.hook.as_deref() == Some("tc"), "{placed:?}");
        Ok(Some(()))
    })?;
    stage.machine_mtu(JUMBO)
}
