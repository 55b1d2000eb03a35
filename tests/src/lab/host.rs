// SPDX-License-Identifier: Apache-2.0
//! A host of a lab: a network namespace with the link `eth0`. The test decides what runs on it.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::namespace;
use crate::process::Process;

/// The bridge in the segment's namespace.
pub const BRIDGE: &str = "segment";

/// A host of a lab. A clone is the same host.
#[derive(Clone, Debug)]
pub struct Host {
    pub(super) name: String,
    pub(super) namespace: String,
    /// Name of the namespace with the bridge. The host's port on the bridge has the host's name.
    pub(super) segment: String,
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Ipv6Addr,
    pub(super) mac: [u8; 6],
    /// The lab's folder for logs.
    pub(super) directory: PathBuf,
}

impl Host {
    /// The link that every host has.
    pub const LINK: &str = "eth0";

    /// The name of the host in its lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's own IPv4 address, in 192.0.2.0/24.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4
    }

    /// The host's own IPv6 address, in 2001:db8::/64.
    pub fn ipv6(&self) -> Ipv6Addr {
        self.ipv6
    }

    /// The host's own IPv4 address, with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ipv4), port)
    }

    /// The host's own IPv6 address, with a port.
    pub fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.ipv6), port)
    }

    /// The MAC of `eth0`.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The file that represents the network namespace.
    pub fn namespace(&self) -> PathBuf {
        namespace::path(&self.namespace)
    }

    /// The folder in which this host's agent pins its eBPF objects. The lab removes it if it exists.
    pub fn bpf_directory(&self) -> PathBuf {
        namespace::bpf_directory(&self.namespace)
    }

    /// A command that runs `program` on this host. The process dies with the thread that starts it; use
    /// [`Host::spawn`] if it must live longer.
    ///
    /// It enters only the network namespace. `ip netns exec` would also mount a new /sys, which hides
    /// /sys/fs/bpf.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        namespace::command(&self.namespace(), program)
    }

    /// Runs a command to its end and returns its standard output.
    ///
    /// # Errors
    /// The command cannot be started, or fails; the error holds its standard error.
    pub fn output(&self, command: &[&str]) -> Result<String> {
        let [program, arguments @ ..] = command else { bail!("no command") };
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .context("cannot start nsenter; it is part of the package util-linux")?;
        if !output.status.success() {
            bail!(
                "on {}: `{}`: {}: {}{}",
                self.name,
                command.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim(),
                String::from_utf8_lossy(&output.stdout).trim(),
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a command made by [`Host::command`]. Its output goes to `<log_name>.log` in the lab's folder.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn spawn(&self, command: Command, log_name: &str) -> Result<Process> {
        let log = self.directory.join(format!("{log_name}.log"));
        Process::spawn(command, &format!("{log_name} on {}", self.name), &log)
    }

    /// Runs `work` on a new thread of this process, inside the namespace. A socket stays in the namespace in
    /// which it was opened, so it may be returned and used anywhere.
    ///
    /// # Errors
    /// The namespace can't be entered.
    ///
    /// # Panics
    /// With the panic of `work`.
    pub fn run_inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        namespace::run_inside(&self.namespace(), work)
    }

    /// Moves the calling thread into the namespace for good. The thread must do nothing else until it ends.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn enter_for_good(&self) -> Result<()> {
        namespace::enter(&self.namespace())
    }

    /// See [`Lab::without_offload`](super::Lab::without_offload).
    pub(super) fn turn_offload_off(&self) -> Result<()> {
        self.output(&["ethtool", "-K", Self::LINK, "tx", "off"]).map(drop)
    }

    /// Runs lines of `ip` commands on this host, e.g. `addr add 192.0.2.200/32 dev eth0`.
    ///
    /// # Errors
    /// `ip` refused one of the lines.
    pub fn ip(&self, commands: &str) -> Result<()> {
        namespace::ip(Some(&self.namespace), commands)
    }

    /// The addresses on `eth0` with their prefix lengths, as `ip -o addr` prints them, without link-local ones.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn addresses(&self) -> Result<Vec<String>> {
        let output = self.output(&["ip", "-o", "addr", "show", "dev", Self::LINK])?;
        // "2: eth0    inet 192.0.2.20/24 scope global eth0 ..."
        Ok(output
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3))
            .filter(|address| !address.starts_with("fe80:"))
            .map(str::to_owned)
            .collect())
    }

    /// Whether `address` is on `eth0`, with any prefix length.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn has_address(&self, address: IpAddr) -> Result<bool> {
        let prefix = format!("{address}/");
        Ok(self.addresses()?.iter().any(|known| known.starts_with(&prefix)))
    }

    /// Deletes the link and creates it again, with the same name and addresses.
    ///
    /// # Errors
    /// `ip` refused.
    pub fn replace_link(&self) -> Result<()> {
        namespace::ip(Some(&self.segment), &format!("link delete {}", self.name))?;
        self.add_link()
    }

    /// Creates the link between the host and the segment, with the host's addresses.
    pub(super) fn add_link(&self) -> Result<()> {
        let (name, link) = (&self.name, Self::LINK);
        let mac = self.mac.map(|byte| format!("{byte:02x}")).join(":");
        namespace::ip(
            Some(&self.segment),
            &format!(
                "link add {name} type veth peer name {link} address {mac} netns {}\nlink set {name} master {BRIDGE} up\n",
                self.namespace,
            ),
        )?;
        self.ip(&format!(
            "link set lo up\nlink set {link} up\naddr add {}/24 dev {link}\naddr add {}/64 dev {link} nodad\n",
            self.ipv4, self.ipv6,
        ))
    }

    /// Unplugs the cable: from now on nobody hears the host, as after a power cut.
    ///
    /// # Errors
    /// `ip` refused.
    pub fn unplug(&self) -> Result<()> {
        namespace::ip(Some(&self.segment), &format!("link set {} down", self.name))
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// `ip` refused.
    pub fn plug_in(&self) -> Result<()> {
        namespace::ip(Some(&self.segment), &format!("link set {} up", self.name))
    }

    /// The lab's folder, for logs and the test's files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}
