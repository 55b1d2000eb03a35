// SPDX-License-Identifier: Apache-2.0
//! From nothing to the first answer of a VIP, as a new user does it, and where the time goes. It asserts no time.

use std::fmt;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::debian::Debian;

/// When things happened, in the machine's time since its boot.
struct Times {
    /// apt-get was called.
    call: f64,
    /// apt-get has ended.
    installed: f64,
    /// systemd began to start the unit.
    unit: f64,
    /// systemd started the program.
    program: f64,
    /// llb told systemd that it serves.
    ready: f64,
    /// The client got an answer.
    answer: f64,
    /// What the unit's processes had used of processors by then.
    processor: f64,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, installed, unit, program, ready, answer, processor } = self;
        writeln!(f, "  from apt-get install to the first answer of a VIP: {:.1} s", answer - call)?;
        writeln!(f, "    apt-get, dpkg, the package's scripts:    {:5.1} s", installed - call)?;
        writeln!(f, "    configuration by the test:               {:5.1} s", unit - installed)?;
        writeln!(f, "    systemd, until llb's program starts:     {:5.1} s", program - unit)?;
        writeln!(f, "    llb's share, from there to the answer:   {:5.1} s", answer - program)?;
        writeln!(f, "      from there to \"ready\":                 {:5.1} s", ready - program)?;
        write!(f, "      time on processors, of two:            {processor:5.1} s")
    }
}

/// Installs the package, configures it and starts it.
pub(super) fn first_vip(debian: &mut Debian) -> Result<()> {
    debian.add_service(0)?;
    let package = debian.package()?;
    let call = debian.uptime()?;
    let said = debian.apt(&format!("install {package}"))?;
    let installed = debian.uptime()?;
    ensure!(said.contains("/etc/llb/llb.toml"), "nobody says what is to be done next: {said}");
    debian.bring_kubeconfig()?;
    debian.configure("")?;
    debian.run("systemctl start --no-block llb")?;
    debian.wait_for_answer(0)?;
    let answered = Instant::now();
    let uptime = debian.uptime()?;
    // The question itself takes a while.
    let answer = uptime - answered.elapsed().as_secs_f64();
    let processor = debian.seconds("CPUUsageNSec", 1e-9)?;
    debian.wait_for("systemctl is-active llb")?;
    let mut at = |property: &str| debian.seconds(&format!("{property}TimestampMonotonic"), 1e-6);
    let (unit, program, ready) = (at("InactiveExit")?, at("ExecMainStart")?, at("ActiveEnter")?);
    println!("{}", Times { call, installed, unit, program, ready, answer, processor });
    debian.wait_for_publication(0)
}
