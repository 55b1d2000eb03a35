// SPDX-License-Identifier: Apache-2.0
//! What happens to an installation after its first VIP. Each function leaves a machine that serves the VIP with the usual
//! configuration, but [`removal`].

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use llb_tests::client::connect;
use llb_tests::wait_until;

use super::debian::{Debian, LIMIT};
use super::load::under_load;

/// The highest exposure that `systemd-analyze security` may find.
const EXPOSURE_LIMIT: f64 = 2.0;

/// The page that says the exposure, from this crate's folder.
const PAGE: &str = "../docs/design/service.md";

/// The agent has the rights that the unit gives it, and the figure in the docs is right.
pub(super) fn rights(debian: &mut Debian) -> Result<()> {
    let said = debian.run("systemd-analyze security --no-pager llb.service")?;
    let figure = said.split("Overall exposure level for llb.service: ").nth(1).unwrap_or_default();
    let figure = figure.split(' ').next().unwrap_or_default();
    ensure!(figure.parse().is_ok_and(|figure: f64| figure <= EXPOSURE_LIMIT), "{said}");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE))?;
    ensure!(page.contains(&format!("exposure level {figure} ")), "{PAGE} does not say {figure}:\n{said}");
    let explained = debian.run("llb-agent explain default/web-0")?;
    ensure!(explained.contains("packet plane at "), "{explained}");
    let modes = debian.run("stat -c %a:%U:%G /run/llb/admin.sock /var/lib/llb /sys/fs/bpf")?;
    ensure!(modes == "660:llb:llb\n700:llb:llb\n1701:root:root\n", "{modes}");
    Ok(())
}

pub(super) fn upgrade(debian: &mut Debian) -> Result<()> {
    let (package, newer) = debian.newer_package()?;
    under_load(debian, |debian| {
        let before = debian.processes()?;
        // apt does not wait for the new agent for more than a minute.
        debian.apt(&format!("install {package}"))?;
        wait_for_successor(debian, &before)
    })?;
    let version = debian.run("dpkg-query --show --showformat='${Version}' llb")?;
    ensure!(version == newer, "{version} is installed");
    for process in debian.processes()? {
        let program = debian.run(&format!("readlink /proc/{process}/exe"))?;
        ensure!(program == "/usr/bin/llb-agent\n", "{process} runs {program}");
    }
    Ok(())
}

/// A supervisor and an agent that serves, and none of the processes before.
fn wait_for_successor(debian: &mut Debian, before: &[u32]) -> Result<()> {
    debian.wait_for("systemctl is-active llb")?;
    let alone = wait_until(LIMIT, "one supervisor and one agent, both new", || {
        let now = debian.processes()?;
        let is_alone = now.len() == 2 && now.iter().all(|process| !before.contains(process));
        ensure!(is_alone, "{before:?} became {now:?}");
        Ok(Some(()))
    });
    alone.map_err(|error| error.context(debian.journal()))
}

/// Fewer pools, then more, and a file with a mistake.
pub(super) fn reload(debian: &mut Debian) -> Result<()> {
    let pool = |number| format!("[[pool]]\nranges = [\"{}\"]\n", debian.vip(number));
    let [one, all] = [pool(0), [0, 1, 2].map(pool).concat()];
    let before = debian.processes()?;
    under_load(debian, |debian| {
        debian.add_service(1)?;
        debian.wait_for_answer(1)?;
        debian.configure(&one)?;
        debian.run("systemctl reload llb")?;
        // It keeps its VIP. This is how the test sees that the pools have changed.
        debian.wait_for("llb-agent explain default/web-1 | grep OutsidePools")?;
        debian.wait_for_answer(1)?;
        debian.add_service(2)?;
        debian.wait_for("llb-agent explain default/web-2 | grep AddressNotAllowed")?;
        debian.configure(&all)?;
        debian.run("systemctl reload llb")?;
        debian.wait_for_answer(2)?;
        debian.configure("[[pol]]\n")?;
        ensure!(debian.run("systemctl reload llb").is_err(), "a wrong file was accepted");
        let status = debian.run("systemctl status --no-pager --full llb || true")?;
        ensure!(status.contains("pol: there is no such key; did you mean pool?"), "{status}");
        Ok(())
    })?;
    ensure!(debian.processes()? == before, "a reload has ended processes: {}", debian.journal());
    debian.configure("")
}

pub(super) fn restarts(debian: &mut Debian) -> Result<()> {
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

/// An agent that can't start leaves the one before in charge, and is stopped with it. The packet plane forwards all the time,
/// without an agent, too.
pub(super) fn wrong_configuration(debian: &mut Debian) -> Result<()> {
    under_load(debian, |debian| {
        debian.configure("clas = \"llb\"\n")?;
        debian.run("systemctl restart --no-block llb")?;
        debian.wait_for(
            "systemctl show --property=StatusText --value llb | grep 'the one before goes on serving'",
        )?;
        debian.run("systemctl stop llb")?;
        ensure!(debian.processes()?.is_empty(), "{}", debian.journal());
        ensure!(debian.run("llb-agent explain default/web-0").is_err(), "an agent is left");
        debian.configure("")?;
        debian.run("systemctl start llb").map(drop)
    })
}

/// llb starts by itself after the machine has booted.
pub(super) fn reboot(debian: &mut Debian) -> Result<()> {
    debian.reboot()?;
    debian.wait_for_answer(0)?;
    let answer = debian.uptime()?;
    debian.wait_for_boot()?;
    let unit = debian.seconds("InactiveExitTimestampMonotonic", 1e-6)?;
    println!("  since the kernel's start: llb's unit {unit:.1} s, the answer of the VIP {answer:.1} s");
    Ok(())
}

pub(super) fn removal(debian: &mut Debian) -> Result<()> {
    debian.apt("remove llb")?;
    ensure!(debian.processes()?.is_empty(), "{}", debian.journal());
    ensure!(!debian.has_vip(0)?, "the VIP is left");
    ensure!(connect(debian.client(), debian.web(0)).is_err(), "the VIP is served");
    let pins = debian.run("ls -A /sys/fs/bpf/llb 2>/dev/null || true")?;
    ensure!(pins.is_empty(), "these are left: {pins}");
    debian.run("test -d /var/lib/llb && test -f /etc/llb/llb.toml")?;
    debian.apt("purge llb")?;
    debian.run(
        r#"for file in /var/lib/llb /etc/llb/llb.toml /usr/bin/llb-agent; do test ! -e "$file" || exit 1; done"#,
    )?;
    debian.wait_for("systemctl show --property=LoadState --value llb | grep not-found")
}
