// SPDX-License-Identifier: Apache-2.0
//! Kernels of distributions, each in a virtual machine whose cards are on the segment of a lab. Without KVM, the
//! machines are emulated. `cargo xtask test --only kernels` writes docs/kernels.md.
//!
//! ```text
//!   client     node-1     node-2         the machine        namespaces, and a kernel of its own
//!     |          |          |         tap0 | tap1 | ...     one tap for each card
//!   --+----------+----------+-----------+------+-----       the lab's segment
//! ```
//!
//! [`package`] has a machine with plain Debian and systemd.
//!
//! A green run does not prove that real cards work: these are QEMU's, which lose nothing.

#![expect(clippy::disallowed_methods, reason = "the run says how long each check took")]

mod balancer;
mod bulk;
mod card;
mod checks;
mod kernel;
mod machine;
mod package;
mod report;
mod result;
mod stage;
mod traffic;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use llb_tests::{agent, environment, lab};

use checks::Extent;
use kernel::Kernel;
use result::Findings;

#[test]
#[ignore = "needs root and kernels: cargo xtask test --only kernels"]
fn kernels_of_distributions_forward() {
    if let Err(error) = run() {
        panic!("{error:#}");
    }
}

fn run() -> Result<()> {
    lab::clean_up_on_signal()?;
    let folders = environment::kernels();
    ensure!(!folders.is_empty(), "no kernels are given: run `cargo xtask test --only kernels`");
    let agent = agent::binary()?;
    // Machines have the host's files, but these folders are their own.
    let is_hidden = ["/run", "/dev"].iter().any(|folder| agent.starts_with(folder));
    ensure!(!is_hidden, "no machine sees {}: put the agent into another folder", agent.display());
    let kernels: Vec<Kernel> = folders.into_iter().map(Kernel::in_folder).collect::<Result<_>>()?;
    let filter = environment::kernel_checks();
    let extent =
        Extent { is_whole: environment::makes_every_kernel_check(), filter: filter.unwrap_or_default() };
    let mut findings = Findings::default();
    // Side by side: an emulated machine uses one CPU most of the time.
    std::thread::scope(|scope| {
        let machines: Vec<_> =
            kernels.iter().map(|kernel| scope.spawn(|| checks::run(kernel, &extent))).collect();
        for machine in machines {
            match machine.join() {
                Ok(found) => findings.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let version = output(&agent, &["-V"])?;
    let date = output(Path::new("date"), &["--utc", "+%Y-%m-%d"])?;
    let page = report::page(&version, &date, extent.is_whole, &findings);
    println!("\n{page}");
    let wrong = findings.wrong();
    ensure!(wrong.is_empty(), "{} checks failed:\n{}", wrong.len(), wrong.join("\n"));
    if environment::writes_kernels_page() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kernels.md");
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{}: {}", program.display(), output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
