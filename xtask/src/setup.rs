// SPDX-License-Identifier: Apache-2.0
//! The system packages whose programs tests, demo and benches run. What is only needed to compile is not here: the
//! README and the messages of `build-ebpf` name it.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::{cluster_binaries, shell};

/// One program of the system that our tests run.
pub(crate) struct Tool {
    /// Its name on PATH.
    program: &'static str,
    /// The package of Debian and Ubuntu that contains it.
    package: &'static str,
    purpose: &'static str,
}

const WRK: Tool = Tool { program: "wrk", package: "wrk", purpose: "HTTP load" };

/// The programs that tests and demo run.
const TOOLS: [Tool; 14] = [
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
    Tool { program: "keepalived", package: "keepalived", purpose: "which box of a group has which VIP" },
    Tool { program: "promtool", package: "prometheus", purpose: "what is wrong with metrics and alerts" },
    Tool { program: "bird", package: "bird2", purpose: "routed VIPs" },
    Tool { program: "vtysh", package: "frr", purpose: "routed VIPs" },
    Tool { program: "etcd", package: "etcd-server", purpose: "the store of the test cluster" },
];

/// The programs that only `cargo xtask test --only conformance` runs.
pub(crate) const CONFORMANCE_TOOLS: [Tool; 2] = [
    Tool { program: "nc", package: "netcat-openbsd", purpose: "a command of the conformance tests in Pods" },
    Tool { program: "wget", package: "wget", purpose: "a command of the conformance tests in Pods" },
];

/// The programs that start virtual machines.
pub(crate) const KERNEL_TOOLS: [Tool; 3] = [
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "virtual machines" },
    Tool { program: "busybox", package: "busybox-static", purpose: "their first steps" },
    Tool { program: "depmod", package: "kmod", purpose: "modules of their kernels" },
];

/// The programs that make the Debian for the tests of packages, and packages with another version.
pub(crate) const DEBIAN_TOOLS: [Tool; 3] = [
    Tool { program: "mmdebstrap", package: "mmdebstrap", purpose: "a plain Debian" },
    Tool { program: "mke2fs", package: "e2fsprogs", purpose: "its disk" },
    Tool { program: "dpkg-deb", package: "dpkg", purpose: "packages" },
];

/// The programs that only `cargo xtask bench` runs.
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

/// The programs that only `cargo xtask dist` runs.
pub(crate) const DIST_TOOLS: [Tool; 5] = [
    Tool { program: "musl-gcc", package: "musl-tools", purpose: "C files in a static binary" },
    Tool { program: "dpkg-deb", package: "dpkg", purpose: "packages of Debian" },
    Tool { program: "xz", package: "xz-utils", purpose: "compressed packages" },
    Tool { program: "rpmbuild", package: "rpm", purpose: "packages of Red Hat" },
    Tool { program: "buildah", package: "buildah", purpose: "the image" },
];

/// The programs with which `cargo xtask test --only dist` reads what is shipped.
pub(crate) const DIST_TEST_TOOLS: [Tool; 7] = [
    Tool { program: "cpio", package: "cpio", purpose: "unpacks packages of Red Hat" },
    Tool { program: "man", package: "man-db", purpose: "reads man pages" },
    Tool { program: "mandoc", package: "mandoc", purpose: "checks man pages" },
    Tool { program: "zsh", package: "zsh", purpose: "completions" },
    Tool { program: "fish", package: "fish", purpose: "completions" },
    Tool { program: "skopeo", package: "skopeo", purpose: "chooses the image of an architecture" },
    Tool { program: "umoci", package: "umoci", purpose: "unpacks the image" },
];

/// The programs that it also runs for aarch64.
pub(crate) const AARCH64_TOOLS: [Tool; 2] = [
    Tool {
        program: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        purpose: "C files for aarch64",
    },
    Tool { program: "aarch64-linux-gnu-gcc", package: "libc6-dev-arm64-cross", purpose: "their headers" },
];

/// Installs the programs of tests and demo that are missing; see [`install`].
///
/// # Errors
/// Those of [`install`].
pub(crate) fn run() -> Result<()> {
    install(&TOOLS)
}

/// Installs what is missing, if run by root on a system with apt; otherwise the error names what to install.
///
/// # Errors
/// A program is missing and can't be installed here.
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
        bail!(
            "install the programs above with your system's package manager; on Debian the packages are {words}"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("not root, so nothing was installed; run: sudo apt-get install {words}");
    }
    shell::run(shell::command("apt-get").args(["update", "--quiet"]))?;
    shell::run(
        shell::command("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            // The lab starts these programs itself; the machine need not run them as services.
            .env("RUNLEVEL", "1")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(packages),
    )
}
