// SPDX-License-Identifier: Apache-2.0
//! llb's package on a plain Debian with systemd: installed, configured, upgraded under load, restarted, broken, stopped,
//! served by again after a reboot, and removed. What the agent does beyond that is in other tests.
//!
//! ```text
//!   mod.rs         the steps, and how long each one takes
//!   first_vip.rs   the first one: from nothing to an answer
//!   life.rs        all others
//!   load.rs        requests and connections during a step
//!   debian.rs      the machine
//!   version.rs     the package with a higher version
//! ```

mod debian;
mod first_vip;
mod life;
mod load;
mod version;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use llb_tests::{environment, lab};

use crate::kernel::Kernel;
use debian::Debian;

/// The kernel of Debian 12.
const SERIES: &str = "6.1";

/// What happens to a machine, by its name.
type Step = (&'static str, fn(&mut Debian) -> Result<()>);

/// Before all others, which need it.
const FIRST: Step = ("from apt install to the first answer of a VIP", first_vip::first_vip);

/// Each of them works without the others.
const STEPS: [Step; 7] = [
    ("rights", life::rights),
    ("upgrade under load", life::upgrade),
    ("reload under load", life::reload),
    ("restarts under load", life::restarts),
    ("wrong configuration under load, stop, start", life::wrong_configuration),
    ("reboot", life::reboot),
    ("remove, purge", life::removal),
];

#[test]
#[ignore = "needs root and a package: cargo xtask test --only packages"]
fn a_package_serves_from_installation_to_removal() {
    if let Err(error) = life_of_a_package() {
        panic!("{error:#}");
    }
}

fn life_of_a_package() -> Result<()> {
    lab::clean_up_on_signal()?;
    let filter = environment::package_steps().unwrap_or_default();
    let steps: Vec<Step> = STEPS.into_iter().filter(|(name, _)| name.contains(&filter)).collect();
    ensure!(!steps.is_empty(), "no step has {filter:?} in its name: {:?}", STEPS.map(|(name, _)| name));
    let folders = environment::kernels();
    let kernels: Vec<Kernel> = folders.into_iter().map(Kernel::in_folder).collect::<Result<_>>()?;
    let kernel = kernels.into_iter().find(|kernel| kernel.series() == SERIES);
    let kernel = kernel.with_context(|| format!("there is no kernel {SERIES}"))?;

    let begin = Instant::now();
    let mut debian = timed("control plane and boot", || Debian::start(kernel))?;
    for (name, step) in [FIRST].into_iter().chain(steps) {
        timed(name, || step(&mut debian)).context(name)?;
    }
    println!("all: {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Prints how long it took.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let done = work()?;
    println!("{what}: {:.0} s", begin.elapsed().as_secs_f64());
    Ok(done)
}
