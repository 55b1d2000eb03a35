// SPDX-License-Identifier: Apache-2.0
//! The system packages that tests and demo call. Nothing that is only needed
//! to compile: that is in the README and in `build-ebpf`'s messages.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::{cluster_binaries, shell};

/// One program of the system that our tests run.
pub(crate) struct Tool {
    /// Found by this name on PATH.
    program: &'static str,
    /// Debian's and Ubuntu's package that has it.
    package: &'static str,
    purpose: &'static str,
}

const WRK: Tool = Tool { program: "wrk", package: "wrk", purpose: "HTTP load" };

/// All of them, and what each is for.
const TOOLS: [Tool; 10] = [
    Tool { program: "ip", package: "iproute2", purpose: "namespaces, links and addresses of the lab" },
    Tool { program: "nsenter", package: "util-linux", purpose: "programs inside of a namespace" },
    Tool { program: "setpriv", package: "util-linux", purpose: "programs that end with the test" },
    Tool { program: "curl", package: "curl", purpose: "a client that is not ours" },
    Tool { program: "sysctl", package: "procps", purpose: "settings of a namespace" },
    Tool { program: "ethtool", package: "ethtool", purpose: "links of the lab without offload" },
    Tool { program: "ss", package: "iproute2", purpose: "memory of sockets" },
    Tool {
        program: "nft",
        package: "nftables",
        purpose: "kube-proxy of the test cluster, Nodes that reject",
    },
    WRK,
    Tool { program: "etcd", package: "etcd-server", purpose: "the store of the test cluster" },
];

/// What only `cargo xtask bench` calls.
pub(crate) const BENCH_TOOLS: [Tool; 4] = [
    Tool { program: "haproxy", package: "haproxy", purpose: "a balancer to compare with" },
    Tool {
        program: "nginx",
        package: "libnginx-mod-stream",
        purpose: "a balancer to compare with, and web server",
    },
    WRK,
    Tool { program: "iperf3", package: "iperf3", purpose: "bulk load" },
];

/// Installs what tests and demo miss; see [`install`].
///
/// # Errors
/// As [`install`].
pub(crate) fn run() -> Result<()> {
    install(&TOOLS)
}

/// Installs what is missing as root on a system with apt; names it elsewhere.
///
/// # Errors
/// Something is missing and can't be installed here.
pub(crate) fn install(tools: &[Tool]) -> Result<()> {
    let is_missing =
        |tool: &&Tool| !cluster_binaries::is_given(tool.program) && shell::find(tool.program).is_none();
    let missing: Vec<&Tool> = tools.iter().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for Tool { program, package, purpose } in &missing {
        println!("missing: {program} (package {package}): {purpose}");
    }
    let packages: BTreeSet<&str> = missing.iter().map(|tool| tool.package).collect();
    let words = packages.iter().copied().collect::<Vec<_>>().join(" ");
    if shell::find("apt-get").is_none() {
        bail!("install the programs above by your system's package manager; Debian calls them {words}");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("not root, so install them yourself: sudo apt-get install {words}");
    }
    shell::run(shell::command("apt-get").args(["update", "--quiet"]))?;
    shell::run(
        shell::command("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Programs for a lab are no reason to start a service on the machine.
            .env("RUNLEVEL", "1")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(packages),
    )
}
