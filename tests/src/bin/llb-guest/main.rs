// SPDX-License-Identifier: Apache-2.0
//! Runs in a virtual machine of tests/kernels: carries out the commands that come through a serial port, one after
//! the other, and answers with their output. It does not know what they are for.
//!
//! ```text
//! test --> {"command": "ip link"} --> llb-guest --> {"status": 0, "output": "1: lo: ..."} --> test
//! ```
//!
//! Each message is one line of JSON. The first answer comes without a command: it says that the machine is up.

mod fetch;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use llb_tests::guest::{Answer, Order, PORT};

/// The ports of all virtual serial devices.
const PORTS: &str = "/sys/class/virtio-ports";

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    if name.rsplit('/').next() == Some(fetch::NAME) {
        return Ok(fetch::run(&arguments.collect::<Vec<_>>()));
    }
    serve().map(|()| ExitCode::SUCCESS)
}

/// Carries out commands until the port is closed.
fn serve() -> Result<()> {
    let file = File::options().read(true).write(true).open(port()?).context("cannot open the port")?;
    let mut answers = file.try_clone()?;
    answer(&mut answers, &run("uname -srv")?)?;
    for line in BufReader::new(file).lines() {
        let order: Order = serde_json::from_str(&line?)?;
        answer(&mut answers, &run(&order.command)?)?;
    }
    Ok(())
}

/// The device of the port with our name.
fn port() -> Result<PathBuf> {
    for entry in fs::read_dir(PORTS).context("this machine has no serial ports for commands")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == PORT {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("no port is named {PORT}")
}

/// Runs a line of shell. What it starts in the background must not keep its output open.
fn run(command: &str) -> Result<Answer> {
    let output =
        Command::new("sh").arg("-c").arg(format!("exec 2>&1; {command}")).stdin(Stdio::null()).output()?;
    Ok(Answer {
        status: output.status.code().unwrap_or(-1),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
    })
}

fn answer(port: &mut File, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    port.write_all(&line).context("cannot answer")
}
