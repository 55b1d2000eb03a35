// SPDX-License-Identifier: Apache-2.0
//! The checks of one machine, one after the other. A check that fails does not stop the others.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use llb_tests::{agent, environment};

use crate::balancer::{self, Placed};
use crate::card::Card;
use crate::kernel::Kernel;
use crate::result::{Check, Choice, Findings, HOOK, MTU, Outcome, Place, is_known_to_fail, needs_a_hand};
use crate::stage::{Mode, Stage};
use crate::traffic;

/// Time for the demo, which takes 15 s where nothing is emulated.
const DEMO_LIMIT: Duration = Duration::from_secs(480);

/// Time for all scenarios of the lab.
const SCENARIOS_LIMIT: Duration = Duration::from_secs(1200);

/// Scenarios that show each way to forward, and what depends most on the kernel. The first ones are in every run.
const RELAY_SCENARIOS: [&str; 3] = [
    "userspace::http_reaches_both_nodes_over_ipv4_and_ipv6",
    "sockmap::the_kernel_moves_bytes_and_they_are_counted",
    "userspace::a_download_goes_on_in_the_old_agent",
];
const PACKET_SCENARIOS: [&str; 7] = [
    "tc::clients_and_backends_may_be_behind_a_router",
    "tc::pings_and_closed_ports_are_answered_at_once",
    "tc::an_upload_finds_the_mtu_behind_a_router",
    "xdp_native::http_reaches_both_nodes_over_ipv4_and_ipv6",
    "tc::nodes_see_the_client_and_answer_it_directly",
    "tc::a_node_whose_mac_changes_is_found_again",
    "xdp_generic::ten_mebibytes_are_echoed_after_a_half_close",
];

/// How many of these lists are in every run: each takes about 40 s in an emulated machine.
const IN_EVERY_RUN: [usize; 2] = [2, 3];

/// How many checks to make.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// Every check with every card; else what fits into ten minutes.
    pub(crate) is_whole: bool,
    /// Only checks whose name contains this.
    pub(crate) filter: String,
}

impl Extent {
    /// Whether this card gets all checks. The others show that they forward where `auto` puts the programs.
    fn is_thorough_with(&self, card: Card) -> bool {
        self.is_whole || card == Card::VirtioQueues
    }

    fn wants(&self, check: &str) -> bool {
        check.contains(&self.filter)
    }
}

/// Boots one machine and makes all checks in it. If the emulator itself crashes, that says nothing about llb: then
/// everything is tried once more. A kernel that panics ends the emulator without a signal.
pub(crate) fn run(kernel: &Kernel, extent: &Extent) -> Findings {
    let (findings, end) = run_once(kernel, extent);
    let Some(signal) = end.and_then(|status| status.signal()) else { return findings };
    println!("({}: signal {signal} has ended QEMU; everything is tried once more)", kernel.series());
    run_once(kernel, extent).0
}

/// The findings, and how the machine has ended before it should.
fn run_once(kernel: &Kernel, extent: &Extent) -> (Findings, Option<ExitStatus>) {
    let mut run =
        Run { series: kernel.series().to_owned(), extent: extent.clone(), findings: Findings::default() };
    let started = Instant::now();
    let stage = Stage::start(kernel, &Card::ALL);
    let mut stage = match stage {
        Ok(stage) => stage,
        Err(error) => {
            run.note(None, "boot", started, Err(error));
            return (run.findings, None);
        }
    };
    run.note(None, "boot", started, Ok(()));
    run.findings.versions.push((run.series.clone(), stage.machine.version.clone()));
    let mut has_packet_plane = false;
    for card in Card::ALL {
        if let Err(error) = run.card(&mut stage, card, &mut has_packet_plane) {
            let place = Place { card, hook: None };
            run.note(Some(&place), "agent", started, Err(error));
            if stage.machine.ended().is_some() {
                break;
            }
            // The next card must not get an agent that takes over from this one.
            if let Err(error) = balancer::kill9(&mut stage).and_then(|()| balancer::stop(&mut stage)) {
                println!("the agent does not end: {error:#}");
            }
        }
    }
    if stage.machine.ended().is_none() {
        run.programs(&mut stage, has_packet_plane);
    }
    keep_logs(&stage, &run.series);
    (run.findings, stage.machine.ended())
}

/// Copies the machine's logs to target/tmp, because the lab's folder goes with the lab.
fn keep_logs(stage: &Stage, series: &str) {
    for log in ["console.log", "agent.log"] {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernel-{series}-{log}"));
        match fs::copy(stage.lab.directory().join(log), &kept) {
            Ok(_) => println!("({series}: {} is kept)", kept.display()),
            Err(error) => println!("({series}: {log} is not kept: {error})"),
        }
    }
}

struct Run {
    series: String,
    extent: Extent,
    findings: Findings,
}

impl Run {
    /// All checks with one card.
    fn card(&mut self, stage: &mut Stage, card: Card, has_packet_plane: &mut bool) -> Result<()> {
        stage.use_card(card)?;
        let started = Instant::now();
        let best = balancer::start(stage, "auto")?;
        println!(
            "({} with {}: the agent was ready after {:.0?})",
            self.series,
            card.name(),
            started.elapsed()
        );
        let place = Place { card, hook: best.hook.clone() };
        self.findings.choices.push(Choice {
            series: self.series.clone(),
            place: place.clone(),
            why: best.why.clone(),
        });
        *has_packet_plane |= best.hook.is_some();
        self.note(Some(&place), HOOK, started, expect_hook(&self.series, card, &best));
        self.traffic(stage, &place, "auto");
        balancer::stop(stage)?;
        if self.extent.is_thorough_with(card) && best.hook.as_deref() == Some("xdp") {
            let other = balancer::start(stage, "tc")?;
            let place = Place { card, hook: other.hook };
            self.traffic(stage, &place, "tc");
            balancer::stop(stage)?;
        }
        Ok(())
    }

    /// Traffic through the agent that runs.
    fn traffic(&mut self, stage: &mut Stage, place: &Place, datapath: &str) {
        let modes: &[Mode] = if place.hook.is_some() { &Mode::ALL } else { &[Mode::Nat] };
        for &mode in modes {
            self.check(stage, Some(place), mode.name(), |stage| traffic::everything(stage, mode));
        }
        // The relay's connections live in the agent, so a killed one takes them along.
        if place.hook.is_none() || !self.extent.is_thorough_with(place.card) {
            return;
        }
        self.check(stage, Some(place), "restart under traffic", |stage| {
            traffic::restarts(stage, datapath, modes)
        });
        if place.hook() == "xdp" {
            let by_hand = needs_a_hand(&self.series, place, MTU);
            self.check(stage, Some(place), MTU, |stage| traffic::jumbo_frames(stage, modes, by_hand));
        }
    }

    /// Programs of the project that need no card.
    fn programs(&mut self, stage: &mut Stage, has_packet_plane: bool) {
        self.check(stage, None, "demo", demo);
        let relay = RELAY_SCENARIOS.iter();
        let packet = PACKET_SCENARIOS.iter().filter(|_| has_packet_plane);
        let [of_relay, of_packet] = if self.extent.is_whole { [usize::MAX; 2] } else { IN_EVERY_RUN };
        for name in relay.take(of_relay).chain(packet.take(of_packet)) {
            self.check(stage, None, name, |stage| scenario(stage, name));
        }
    }

    fn check(
        &mut self,
        stage: &mut Stage,
        place: Option<&Place>,
        name: &str,
        check: impl FnOnce(&mut Stage) -> Result<()>,
    ) {
        if self.extent.wants(name) {
            let started = Instant::now();
            // Each would wait for its limit.
            if !self.extent.is_whole && is_known_to_fail(&self.series, place, name) {
                let outcome = Err(anyhow!("left out: it is known to fail, and made with --whole"));
                self.note(place, name, started, outcome);
                return;
            }
            let outcome = check(stage);
            if self.note(place, name, started, outcome) {
                return;
            }
            println!("--- the agent's log ends with:\n{}", balancer::log_tail(stage));
            let messages = stage.machine.run("dmesg | tail -n 30").unwrap_or_default();
            println!("--- the machine's messages:\n{messages}");
            println!("--- its console:\n{}", stage.machine.console());
        }
    }

    /// Keeps and prints what came of a check. Returns whether that is as expected.
    fn note(&mut self, place: Option<&Place>, name: &str, started: Instant, outcome: Result<()>) -> bool {
        if let Err(error) = &outcome {
            println!("--- {name}: {error:#}");
        }
        let check = Check::judge(&self.series, place.cloned(), name, outcome);
        println!("check {check} ... {:?} ({:.0?})", check.outcome, started.elapsed());
        let is_as_expected = !matches!(check.outcome, Outcome::Wrong(_));
        self.findings.checks.push(check);
        is_as_expected
    }
}

/// Whether the card has the fastest hook that its driver offers: vmxnet3 has XDP since Linux 6.6, e1000e has none.
fn expect_hook(series: &str, card: Card, placed: &Placed) -> Result<()> {
    let best = match (card, series) {
        (Card::E1000e, _) | (Card::Vmxnet3, "6.1") => "tc",
        _ => "xdp",
    };
    match &placed.hook {
        Some(hook) => ensure!(hook == best, "the program is at {hook}, not at {best}: {}", placed.why),
        None => bail!("no packet plane: {}", placed.why),
    }
    Ok(())
}

fn demo(stage: &mut Stage) -> Result<()> {
    let (agent, demo) = (agent::binary()?, env!("CARGO_BIN_EXE_llb-demo"));
    stage.machine.run_for(DEMO_LIMIT, &format!("LLB_AGENT={} {demo}", agent.display())).map(drop)
}

/// One scenario of the lab, in the machine's own namespaces.
fn scenario(stage: &mut Stage, name: &str) -> Result<()> {
    let (agent, tests) = (agent::binary()?, environment::lab_tests().context("LLB_LAB_TESTS is not set")?);
    let command =
        format!("LLB_AGENT={} {} --include-ignored --exact planes::{name}", agent.display(), tests.display());
    let output = stage.machine.run_for(SCENARIOS_LIMIT, &command)?;
    ensure!(output.contains("1 passed"), "the lab has no scenario {name}: {output}");
    Ok(())
}
