// SPDX-License-Identifier: Apache-2.0
//! Builds what the tests need, then runs them: those that need no root with cargo, the others with `runner/`. Contains no
//! tests.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::runner::{self, Target};
use crate::{build_ebpf, cluster_binaries, debian, dist, helm, kernels, setup, shell};

/// What to do with the tests that need root.
const AS_ROOT: &str = "`sudo --preserve-env=PATH,HOME cargo xtask test` runs all";

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Runs one tier only, and builds only what that tier needs
    #[arg(long, value_name = "TIER")]
    only: Option<Tier>,
    /// How many tests that need root run at the same time; by default two for each CPU, at most 8
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Only tests whose name contains this
    #[arg(value_name = "NAME")]
    filter: Option<String>,
    /// With `--only kernels`: every check with every card, most of an hour. With `--only dist`: the optimized binary, and a
    /// second build that shares nothing with the first
    #[arg(long)]
    whole: bool,
}

/// Tests by what they need, cheapest first.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Neither root nor network: what plain `cargo test` runs
    Unit,
    /// eBPF programs in this machine's kernel; root
    Ebpf,
    /// Traffic between namespaces; root
    Lab,
    /// A real Kubernetes control plane in namespaces; root
    Cluster,
    /// What `cargo xtask dist` ships, for this machine: packages, image, man pages, equal bytes of two builds; root
    Dist,
    /// Kernels of distributions in virtual machines, several checks in each; root. NAME is a part of a check's name.
    /// Without NAME, writes docs/kernels.md
    Kernels,
    /// llb's package on a plain Debian with systemd, in a virtual machine; root. Only on demand: a quarter of an hour.
    /// `LLB_PACKAGE` may name a .deb; else it is built first. NAME is a part of a step's name
    Packages,
    /// The LoadBalancer tests of Kubernetes itself; root. Only on demand: a quarter of an hour, and another one the
    /// first time. NAME is a part of a plane's or a test's name
    Conformance,
}

/// The one test of the tier with virtual machines, which starts all of them side by side.
const VIRTUAL_MACHINES: &str = "kernels_of_distributions_forward";

/// The one test of the tier with the package.
const PACKAGE: &str = "a_package_serves_from_installation_to_removal";

/// The one test of the conformance tier.
const CONFORMANCE: &str = "the_tests_of_kubernetes_pass_on_every_plane";

impl Tier {
    /// Its test targets with tests that need root.
    fn targets(self) -> Vec<Target> {
        let (tier, names): (_, &[_]) = match self {
            Self::Ebpf => ("ebpf", &["llb_agent", "ebpf"]),
            Self::Lab => ("lab", &["addresses", "lab"]),
            Self::Cluster => ("cluster", &["cluster"]),
            Self::Dist => ("dist", &["dist"]),
            Self::Unit | Self::Kernels | Self::Packages | Self::Conformance => return Vec::new(),
        };
        names.iter().map(|name| Target { name, tier }).collect()
    }
}

/// Runs the chosen tier, or all. Without root, runs only the tiers that do not need it, and says so.
///
/// # Errors
/// Something can't be built, or a test failed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    match arguments.only {
        Some(Tier::Unit) => return run_unit(arguments),
        Some(_) if !is_root => bail!("these tests need root: {AS_ROOT}"),
        _ => {}
    }
    if is_root {
        setup::run()?;
    }
    if arguments.only == Some(Tier::Conformance) {
        setup::install(&setup::CONFORMANCE_TOOLS)?;
    }
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    if arguments.only.is_none() {
        run_unit(arguments)?;
    }
    if is_root {
        return run_privileged(arguments);
    }
    println!("not root: the tests that need it were not run; {AS_ROOT}");
    Ok(())
}

/// Builds the agent with this cargo profile and returns its path.
///
/// # Errors
/// The agent does not compile.
pub(crate) fn build_agent(profile: &str) -> Result<PathBuf> {
    shell::run(shell::command("cargo").args(["build", "--profile", profile, "--package", "llb-agent"]))?;
    // Cargo is asked for the path, because the user may choose the target folder. Nothing is left to build, so this
    // is quick.
    let messages = shell::output(shell::command("cargo").args([
        "build",
        "--quiet",
        "--profile",
        profile,
        "--package",
        "llb-agent",
        "--message-format=json",
    ]))?;
    executable(&messages, "bin", "llb-agent")
}

/// The program of a target, from the messages of cargo.
fn executable(messages: &str, kind: &str, name: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["kind"][0] == kind && message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo names no executable of {name}"))
}

fn run_unit(arguments: &Arguments) -> Result<()> {
    shell::run(shell::command("cargo").args(["test", "--no-fail-fast"]).args(&arguments.filter))
}

fn run_privileged(arguments: &Arguments) -> Result<()> {
    let tier = arguments.only;
    if tier == Some(Tier::Dist) {
        return run_dist(arguments);
    }
    if tier == Some(Tier::Packages) {
        return run_packages(arguments);
    }
    let agent = match shell::variable("LLB_AGENT") {
        Some(given) => PathBuf::from(given),
        None => build_agent("dev")?,
    };
    if matches!(tier, None | Some(Tier::Cluster | Tier::Conformance)) {
        cluster_binaries::provide()?;
    }
    if matches!(tier, None | Some(Tier::Cluster)) {
        helm::provide()?;
    }
    if tier == Some(Tier::Conformance) {
        return run_conformance(&agent, arguments);
    }
    if tier == Some(Tier::Kernels) {
        return run_kernels(&agent, arguments, kernels::provide()?);
    }
    // The cluster's cases run one after the other, so they begin first: the others run beside them.
    let all = [Tier::Cluster, Tier::Ebpf, Tier::Lab];
    let targets = all.iter().filter(|one| tier.is_none_or(|tier| **one == tier));
    let programs = runner::build(&targets.flat_map(|tier| tier.targets()).collect::<Vec<_>>())?;
    let tested = runner::run(&programs, &order(&agent, arguments));
    if tier.is_some() || arguments.filter.is_some() {
        return tested;
    }
    // The last lines of a run are the reasons of its failures, so the machines are left out then.
    tested.context("what is shipped and the kernels of distributions were not tried")?;
    run_dist(arguments).context("the kernels of distributions were not tried")?;
    match kernels::provide() {
        Ok(kernels) => run_kernels(&agent, arguments, kernels),
        Err(error) => {
            println!("the kernels of distributions were not tried, because there are none here: {error:#}");
            Ok(())
        }
    }
}

fn order<'a>(agent: &'a Path, arguments: &'a Arguments) -> runner::Order<'a> {
    let jobs = arguments.jobs.map(NonZeroUsize::get);
    runner::Order { agent, filter: arguments.filter.as_deref(), jobs }
}

/// How what is shipped is built for a test.
fn profile(arguments: &Arguments) -> dist::Profile {
    if arguments.whole { dist::Profile::Dist } else { dist::Profile::DistQuick }
}

/// Builds what is shipped, and looks at it.
fn run_dist(arguments: &Arguments) -> Result<()> {
    setup::install(&setup::DIST_TEST_TOOLS)?;
    let Some(architecture) = dist::Architecture::of_this_machine() else {
        println!("nothing is shipped for this machine's architecture, so that was not tested");
        return Ok(());
    };
    let profile = profile(arguments);
    let programs = runner::build(&Tier::Dist.targets())?;
    for agent in dist::build(&[architecture], profile)? {
        runner::run(&programs, &order(&agent, arguments))?;
    }
    dist::check_reproducible(&[architecture], profile, arguments.whole)
}

/// Starts the virtual machines, with the results as they come.
fn run_kernels(agent: &Path, arguments: &Arguments, kernels: OsString) -> Result<()> {
    // Machines run the lab's scenarios too.
    let targets = ["kernels", "lab"].map(|name| Target { name, tier: "kernels" });
    let [machines, lab] = &runner::build(&targets)?[..] else { bail!("cargo built other programs") };
    let mut test = machines.command();
    test.env("LLB_AGENT", agent).env("LLB_KERNELS", kernels).env("LLB_LAB_TESTS", lab.path());
    test.envs(arguments.filter.iter().map(|filter| ("LLB_KERNEL_CHECKS", filter)));
    let writes_page = arguments.only == Some(Tier::Kernels) && arguments.filter.is_none();
    test.envs(writes_page.then_some(("LLB_KERNELS_PAGE", "1")));
    test.envs(arguments.whole.then_some(("LLB_KERNELS_WHOLE", "1")));
    shell::run(test.args([VIRTUAL_MACHINES, "--ignored", "--nocapture"]))
}

/// Installs the package in a virtual machine, with what is measured as it comes.
fn run_packages(arguments: &Arguments) -> Result<()> {
    let package = match shell::variable("LLB_PACKAGE") {
        Some(given) => PathBuf::from(given),
        None => {
            let architecture = dist::Architecture::of_this_machine();
            let architecture = architecture.context("nothing is shipped for this machine's architecture")?;
            dist::build(&[architecture], profile(arguments))?;
            dist::debian_package(architecture)
        }
    };
    let [machines] = &runner::build(&[Target { name: "kernels", tier: "packages" }])?[..] else {
        bail!("cargo built other programs")
    };
    cluster_binaries::provide()?;
    let mut test = machines.command();
    test.env("LLB_PACKAGE", package).env("LLB_KERNELS", kernels::provide()?);
    test.envs(arguments.filter.iter().map(|filter| ("LLB_PACKAGE_STEPS", filter)));
    shell::run(test.env("LLB_DEBIAN", debian::provide()?).args([PACKAGE, "--ignored", "--nocapture"]))
}

/// Runs the tests of Kubernetes, with their output as it comes.
fn run_conformance(agent: &Path, arguments: &Arguments) -> Result<()> {
    cluster_binaries::provide_conformance()?;
    let mut cargo = shell::command("cargo");
    cargo.env("LLB_AGENT", agent);
    cargo.envs(arguments.filter.iter().map(|filter| ("LLB_CONFORMANCE", filter)));
    cargo.args(["test", "--package", "llb-tests", "--test", "conformance", CONFORMANCE]);
    shell::run(cargo.args(["--", "--ignored", "--nocapture"]))
}
