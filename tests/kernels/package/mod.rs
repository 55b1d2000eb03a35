// SPDX-License-Identifier: Apache-2.0
//! llb's package on a plain Debian with systemd: installed, configured, upgraded under load, restarted, broken, stopped,
//! served by again after a reboot, and removed. What the agent does beyond that is in other tests.
//!
//! ```text
//!   mod.rs       the life of an installation
//!   debian.rs    the machine
//!   version.rs   the package with another version
//! ```

mod debian;
mod version;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use llb_tests::client::{Load, connect, http_get};
use llb_tests::steady::connect_all;
use llb_tests::{Steady, environment, lab};

use crate::kernel::Kernel;
use debian::{Debian, LIMIT};

/// Between two requests: more would leave an emulated machine no time for its own work.
const PAUSE: Duration = Duration::from_millis(50);

/// Open connections during a step, and the messages that each of them has to carry after it.
const STREAMS: usize = 10;
const MESSAGES: usize = 20;

/// Requests that must be answered after a step.
const REQUESTS: usize = 20;

/// The highest exposure that `systemd-analyze security` may find.
const EXPOSURE_LIMIT: f64 = 2.0;

/// The page that says the exposure, from this crate's folder.
const PAGE: &str = "../docs/design/service.md";

/// The kernel of Debian 12.
const SERIES: &str = "6.1";

#[test]
#[ignore = "needs root and a package: cargo xtask test --only packages"]
fn a_package_serves_from_installation_to_removal() {
    if let Err(error) = life() {
        panic!("{error:#}");
    }
}

fn life() -> Result<()> {
    lab::clean_up_on_signal()?;
    let folders = environment::kernels();
    let kernels: Vec<Kernel> = folders.into_iter().map(Kernel::in_folder).collect::<Result<_>>()?;
    let kernel = kernels.into_iter().find(|kernel| kernel.series() == SERIES);
    let kernel = kernel.with_context(|| format!("there is no kernel {SERIES}"))?;
    let mut clock = Clock(Instant::now());

    let mut debian = Debian::start(kernel)?;
    clock.says("boot");
    first_vip(&mut debian)?;
    clock.says("from apt install to the first answer of a VIP");
    is_confined(&mut debian)?;
    clock.says("rights");
    upgrade(&mut debian)?;
    clock.says("upgrade under load");
    reload(&mut debian)?;
    clock.says("reload");
    restart(&mut debian)?;
    clock.says("restarts under load");
    wrong_configuration(&mut debian)?;
    clock.says("wrong configuration, stop");
    let mut debian = debian.reboot()?;
    debian.wait_for_answer(0)?;
    clock.says("reboot");
    removal(&mut debian)?;
    clock.says("remove, purge");
    Ok(())
}

/// Prints how long each part has taken.
struct Clock(Instant);

impl Clock {
    fn says(&mut self, what: &str) {
        let now = Instant::now();
        println!("{what}: {:.0} s", (now - self.0).as_secs_f64());
        self.0 = now;
    }
}

fn first_vip(debian: &mut Debian) -> Result<()> {
    let said = debian.install("0.1.0~test1")?;
    ensure!(said.contains("/etc/llb/llb.toml"), "nobody says what is to be done next: {said}");
    debian.add_service(0)?;
    debian.configure("")?;
    debian.run("systemctl start llb").map_err(|error| error.context(debian.journal()))?;
    debian.wait_for_answer(0)
}

/// The agent has the rights that the unit gives it, and the figure in the docs is right.
fn is_confined(debian: &mut Debian) -> Result<()> {
    let said = debian.run("systemd-analyze security --no-pager llb.service")?;
    let figure = said.split("Overall exposure level for llb.service: ").nth(1).unwrap_or_default();
    let figure = figure.split(' ').next().unwrap_or_default();
    ensure!(figure.parse().is_ok_and(|figure: f64| figure <= EXPOSURE_LIMIT), "{said}");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE))?;
    ensure!(page.contains(&format!("exposure level {figure} ")), "{PAGE} does not say {figure}:\n{said}");
    let explained = debian.run("llb-agent explain default/web-0")?;
    ensure!(explained.contains("packet plane at "), "{explained}");
    let modes = debian.run("stat -c %a:%U:%G /run/llb/admin.sock /var/lib/llb")?;
    ensure!(modes == "660:llb:llb\n700:llb:llb\n", "{modes}");
    Ok(())
}

/// Requests and open connections while `step` runs. All requests are answered, and no connection breaks.
fn under_load(debian: &mut Debian, step: impl FnOnce(&mut Debian) -> Result<()>) -> Result<()> {
    let streams = Steady::start(connect_all(debian.client(), debian.echo(), STREAMS)?);
    let load = Load::paced(debian.client(), debian.web(0), PAUSE);
    streams.wait_for_rounds(MESSAGES, LIMIT)?;
    step(debian)?;
    streams.wait_for_rounds(MESSAGES, LIMIT)?;
    load.wait_for_more(REQUESTS, LIMIT)?;
    let tally = load.stop()?;
    println!("  {} requests, {} failed", tally.total(), tally.failures.len());
    ensure!(tally.failures.is_empty(), "{:?}\n{}", tally.failures, debian.journal());
    let broken = streams.stop()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", debian.journal());
    Ok(())
}

/// A supervisor and an agent, and none of those before.
fn wait_for_successor(debian: &mut Debian, before: &[u32]) -> Result<()> {
    let old =
        before.iter().map(|pid| format!("! kill -0 {pid} 2>/dev/null")).collect::<Vec<_>>().join(" && ");
    debian.wait_for(&old)?;
    let now = debian.processes()?;
    ensure!(now.len() == 2, "{before:?} became {now:?}: {}", debian.journal());
    Ok(())
}

fn upgrade(debian: &mut Debian) -> Result<()> {
    under_load(debian, |debian| {
        let before = debian.processes()?;
        // apt does not wait for the new agent for more than a minute.
        debian.install("0.1.0~test2")?;
        debian.wait_for("systemctl is-active llb")?;
        wait_for_successor(debian, &before)
    })
}

fn reload(debian: &mut Debian) -> Result<()> {
    let before = debian.processes()?;
    debian.configure(&pool(debian.vip(0)))?;
    debian.run("systemctl reload llb")?;
    // No pool has its VIP.
    debian.add_service(1)?;
    debian.wait_for("llb-agent explain default/web-1 | grep AddressNotAllowed")?;
    debian.configure(&(pool(debian.vip(0)) + &pool(debian.vip(1))))?;
    debian.run("systemctl reload llb")?;
    debian.wait_for_answer(1)?;
    debian.configure("[[pol]]\n")?;
    ensure!(debian.run("systemctl reload llb").is_err(), "a wrong file was accepted");
    let status = debian.run("systemctl status --no-pager llb || true")?;
    ensure!(status.contains("pol: there is no such section"), "{status}");
    ensure!(debian.processes()? == before, "a reload has ended processes: {}", debian.journal());
    debian.configure(&(pool(debian.vip(0)) + &pool(debian.vip(1))))?;
    http_get(debian.client(), debian.web(0))?;
    Ok(())
}

fn pool(vip: std::net::IpAddr) -> String {
    format!("[[pool]]\nranges = [\"{vip}\"]\n")
}

fn restart(debian: &mut Debian) -> Result<()> {
    under_load(debian, |debian| {
        let before = debian.processes()?;
        debian.run("systemctl restart llb")?;
        wait_for_successor(debian, &before)?;
        // The second one comes while the first one starts.
        let before = debian.processes()?;
        debian.run("systemctl restart --no-block llb; systemctl restart llb")?;
        wait_for_successor(debian, &before)
    })
}

/// An agent that can't start leaves the one before in charge, and is stopped with it.
fn wrong_configuration(debian: &mut Debian) -> Result<()> {
    under_load(debian, |debian| {
        debian.configure("class = 1\n")?;
        debian.run("systemctl restart --no-block llb")?;
        debian.wait_for(
            "systemctl show --property=StatusText --value llb | grep 'the one before goes on serving'",
        )
    })?;
    debian.run("systemctl stop llb")?;
    ensure!(debian.processes()?.is_empty(), "{}", debian.journal());
    ensure!(debian.run("llb-agent explain default/web-0").is_err(), "an agent is left");
    debian.configure("")?;
    debian.run("systemctl start llb")?;
    debian.wait_for_answer(0)
}

fn removal(debian: &mut Debian) -> Result<()> {
    debian.apt("remove llb")?;
    ensure!(debian.processes()?.is_empty(), "{}", debian.journal());
    ensure!(!debian.has_vip(0)?, "the VIP is left");
    ensure!(connect(debian.client(), debian.web(0)).is_err(), "the VIP is served");
    let pins = debian.run("ls -A /sys/fs/bpf/llb 2>/dev/null || true")?;
    ensure!(pins.is_empty(), "these are left: {pins}");
    debian.run("test -d /var/lib/llb && test -f /etc/llb/llb.toml")?;
    debian.apt("purge llb")?;
    debian.run("! ls -d /var/lib/llb /etc/llb/llb.toml /usr/bin/llb-agent 2>/dev/null")?;
    debian.wait_for("systemctl show --property=LoadState --value llb | grep not-found")
}
