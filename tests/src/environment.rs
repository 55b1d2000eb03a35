// SPDX-License-Identifier: Apache-2.0
//! Every environment variable that the tests read. Nothing else in this package reads the environment.

#![expect(clippy::disallowed_methods, reason = "the one file of this package that reads the environment")]

use std::env::{split_paths, var_os};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// `LLB_AGENT`: the `llb-agent` binary to test, instead of the one beside the tests. `cargo xtask test` sets it.
pub fn agent() -> Option<PathBuf> {
    var_os("LLB_AGENT").map(PathBuf::from)
}

/// `LLB_SEED`: the seed of the random packets of tests/ebpf, and of the hostile tenant's Services and the chaos in
/// tests/lab, to repeat a run. Without it, each run takes a new one.
pub fn seed() -> Option<u64> {
    number("LLB_SEED")
}

/// `LLB_PACKETS`: how many random packets tests/ebpf sends.
pub fn packets() -> Option<u64> {
    number("LLB_PACKETS")
}

/// `LLB_EPISODE`: the seed of the only episode of random packets to run. A failure prints it.
pub fn episode() -> Option<u64> {
    number("LLB_EPISODE")
}

/// `LLB_SOAK_CONNECTIONS`: how many connections a soak opens.
pub fn soak_connections() -> Option<u64> {
    number("LLB_SOAK_CONNECTIONS")
}

/// `LLB_CHAOS_SECS`: how long random events hit a lab.
pub fn chaos_secs() -> Option<u64> {
    number("LLB_CHAOS_SECS")
}

/// `LLB_CHAOS_CONNECTIONS`: how many connections are open meanwhile, by each way.
pub fn chaos_connections() -> Option<u64> {
    number("LLB_CHAOS_CONNECTIONS")
}

/// `LLB_CHAOS_EVENTS`: the names of the only events that happen, with commas between them.
pub fn chaos_events() -> Option<String> {
    var_os("LLB_CHAOS_EVENTS").and_then(|text| text.into_string().ok())
}

/// `LLB_FAILOVERS`: how often a box of a group is cut off and heals, with the adverts that users have, in real time, and with
/// bars for the gaps.
pub fn failovers() -> Option<u64> {
    number("LLB_FAILOVERS")
}

/// `LLB_OUTAGE_SECS`: how long the API server is away in the test of a long outage.
pub fn outage_secs() -> Option<u64> {
    number("LLB_OUTAGE_SECS")
}

/// `LLB_SERVICES`: how many Services the hostile tenant of tests/lab has.
pub fn services() -> Option<u64> {
    number("LLB_SERVICES")
}

/// `LLB_BLESS`: if set, the golden test writes its results into the cases instead of comparing them, and the test of the
/// documents the pages of docs/reference/.
pub fn blesses_golden_cases() -> bool {
    var_os("LLB_BLESS").is_some()
}

/// The variable that [`victim_report`] reads, for the test that sets it.
pub const VICTIM_REPORT: &str = "LLB_LAB_VICTIM";

/// `LLB_LAB_VICTIM`: the file to which a test program reports before it is killed. Only tests/lab/self_check.rs
/// sets it, for a process that it starts.
pub fn victim_report() -> Option<PathBuf> {
    var_os(VICTIM_REPORT).map(PathBuf::from)
}

/// `LLB_CONFORMANCE`: run only the conformance tests whose plane or name contains this.
pub fn conformance_filter() -> Option<String> {
    var_os("LLB_CONFORMANCE").and_then(|text| text.into_string().ok())
}

/// `LLB_KERNELS`: the folders of kernels for virtual machines, with colons between them. `cargo xtask test` sets it.
pub fn kernels() -> Vec<PathBuf> {
    var_os("LLB_KERNELS").map(|folders| split_paths(&folders).collect()).unwrap_or_default()
}

/// `LLB_KERNEL_CHECKS`: make only the checks in virtual machines whose name contains this.
pub fn kernel_checks() -> Option<String> {
    var_os("LLB_KERNEL_CHECKS").and_then(|text| text.into_string().ok())
}

/// `LLB_KERNELS_WHOLE`: if set, every check is made in virtual machines, with every card.
pub fn makes_every_kernel_check() -> bool {
    var_os("LLB_KERNELS_WHOLE").is_some()
}

/// `LLB_KERNELS_PAGE`: if set, a run in which all checks are right writes docs/kernels.md.
pub fn writes_kernels_page() -> bool {
    var_os("LLB_KERNELS_PAGE").is_some()
}

/// `LLB_LAB_TESTS`: the program with the lab's scenarios, which virtual machines run too.
pub fn lab_tests() -> Option<PathBuf> {
    var_os("LLB_LAB_TESTS").map(PathBuf::from)
}

/// `LLB_PACKAGE`: the package of llb to test. `cargo xtask test` sets it.
///
/// # Errors
/// It is not set.
pub fn package() -> Result<PathBuf> {
    let package = var_os("LLB_PACKAGE").context("there is no package: cargo xtask test --only packages")?;
    Ok(package.into())
}

/// `LLB_PACKAGE_STEPS`: take the package only through the steps whose name contains this, after the first VIP.
pub fn package_steps() -> Option<String> {
    var_os("LLB_PACKAGE_STEPS").and_then(|text| text.into_string().ok())
}

/// `LLB_DEBIAN`: the image of a disk with a plain Debian. `cargo xtask test` sets it.
///
/// # Errors
/// It is not set.
pub fn debian() -> Result<PathBuf> {
    let image = var_os("LLB_DEBIAN").context("there is no Debian: cargo xtask test --only packages")?;
    Ok(image.into())
}

/// `KUBEBUILDER_ASSETS`: a folder with the programs of a Kubernetes control plane, by the convention of envtest.
pub fn kubebuilder_assets() -> Option<PathBuf> {
    var_os("KUBEBUILDER_ASSETS").map(PathBuf::from)
}

/// `XDG_CACHE_HOME`, else `HOME`: the user's folder for caches, where `cargo xtask test` puts these programs.
pub fn cache_folder() -> Option<PathBuf> {
    let of_home = |home: OsString| Path::new(&home).join(".cache");
    var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| var_os("HOME").map(of_home))
}

/// `PATH`: the folders in which programs are looked for.
pub fn program_folders() -> Vec<PathBuf> {
    split_paths(&var_os("PATH").unwrap_or_default()).collect()
}

/// A variable that is set, but not to a number, must not be taken for one that is not set.
fn number(name: &str) -> Option<u64> {
    let text = var_os(name)?;
    let number = text.to_str().and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{name} is not a number: {}", text.display())))
}
