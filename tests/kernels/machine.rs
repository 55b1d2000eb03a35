// SPDX-License-Identifier: Apache-2.0
//! A virtual machine on a lab's segment. It takes commands one after the other, and dies with the test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use llb_tests::guest::{Answer, Order, PORT};
use llb_tests::{Lab, Process, wait_until};

use crate::card::Card;
use crate::kernel::{Kernel, find};

/// The lab's folder in the machine.
pub(crate) const SHARE: &str = "/run/share";

/// From the start to the first answer. Without KVM, two machines on two busy cores take about 30 s.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// For a command that does no work to speak of.
const LIMIT: Duration = Duration::from_secs(60);

/// QEMU makes the socket of the port when it starts.
const SOCKET_LIMIT: Duration = Duration::from_secs(20);

/// A kernel that runs on the CPU itself says so within a second.
const KVM_LIMIT: Duration = Duration::from_secs(10);

/// MiB: for two agents at once, the host's programs in the page cache, and a kernel that looks at large programs.
const MEMORY: &str = "3072";

const QEMU: &str = "qemu-system-x86_64";

/// A running machine; killed when dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    port: BufReader<UnixStream>,
    process: Process,
    /// What `uname -srv` prints.
    pub(crate) version: String,
}

impl Machine {
    /// Starts the kernel with all cards on the lab's segment, and waits until it takes commands. With a disk, that has
    /// the machine's system; without, it has the host's files.
    pub(crate) fn start(kernel: &Kernel, lab: &Lab, cards: &[Card], disk: Option<&Path>) -> Result<Self> {
        let folder = lab.directory();
        let (initramfs, socket, console) =
            (folder.join("initramfs"), folder.join("port"), folder.join("console.log"));
        kernel.write_initramfs(&initramfs, Path::new(env!("CARGO_BIN_EXE_llb-guest")))?;
        let mut command = lab.segment_command(find(QEMU)?);
        command.args(accelerator(kernel, folder)?).args(["-smp", "2", "-m", MEMORY, "-nic", "none"]);
        command
            .args(["-nographic", "-no-reboot", "-kernel"])
            .arg(kernel.image())
            .arg("-initrd")
            .arg(initramfs);
        command.args([
            "-append",
            "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable clocksource=tsc no_timer_check nowatchdog net.ifnames=0",
        ]);
        command.args(files("host", Path::new("/"), ",readonly=on,multidevs=remap"));
        command.args(files("share", folder, ",multidevs=remap"));
        command.args(["-device", "virtio-serial-pci", "-chardev"]);
        command.arg(format!("socket,id=port,path={},server=on,wait=off", socket.display()));
        command.args(["-device", &format!("virtserialport,chardev=port,name={PORT}")]);
        command.args(cards.iter().flat_map(|card| card.arguments()));
        command.args(disk.into_iter().flat_map(drive));
        let mut process = Process::spawn(command, &format!("the machine with {}", kernel.release), &console)?;
        let stream = wait_until(SOCKET_LIMIT, "the machine's port", || {
            if let Some(status) = process.exit_status()? {
                return Ok(Some(Err(status)));
            }
            Ok(Some(Ok(UnixStream::connect(&socket)?)))
        })?;
        let stream = match stream {
            Ok(stream) => stream,
            Err(status) => bail!("QEMU has ended: {status}:\n{}", process.log()),
        };
        let mut machine = Self { port: BufReader::new(stream), process, version: String::new() };
        machine.version =
            machine.answer(BOOT_LIMIT).context("the machine does not boot")?.output.trim().to_owned();
        Ok(machine)
    }

    /// Runs a line of shell and returns its output. What it starts in the background must have an output of its own.
    pub(crate) fn run(&mut self, command: &str) -> Result<String> {
        self.run_for(LIMIT, command)
    }

    /// As [`Machine::run`], for what takes longer.
    pub(crate) fn run_for(&mut self, limit: Duration, command: &str) -> Result<String> {
        let mut line = serde_json::to_vec(&Order { command: command.to_owned() })?;
        line.push(b'\n');
        if let Err(error) = self.port.get_mut().write_all(&line) {
            bail!("the machine takes no command: {error}; {}", self.end());
        }
        let Answer { status, output } = self.answer(limit).with_context(|| command.to_owned())?;
        ensure!(status == 0, "in the machine: `{command}`: status {status}: {}", output.trim());
        Ok(output)
    }

    /// How QEMU has ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.exit_status().ok().flatten()
    }

    /// Shuts the machine's system down, and waits until the machine is off.
    pub(crate) fn power_off(&mut self) -> Result<()> {
        // What answers may be ended before it has answered.
        let _ = self.run("systemctl poweroff");
        self.process.wait_exit(BOOT_LIMIT).map(drop)
    }

    /// What the kernel and the first process have printed.
    pub(crate) fn console(&self) -> String {
        self.process.log()
    }

    fn answer(&mut self, limit: Duration) -> Result<Answer> {
        self.port.get_ref().set_read_timeout(Some(limit))?;
        let mut line = String::new();
        let read = self.port.read_line(&mut line);
        let read =
            read.with_context(|| format!("no answer within {limit:?}; the console:\n{}", self.console()))?;
        if read == 0 {
            bail!("the machine has ended; {}", self.end());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// How QEMU has ended, and why the kernel in it may have ended it.
    fn end(&mut self) -> String {
        // The socket closes a moment before the process is gone.
        let status = match self.process.wait_exit(SOCKET_LIMIT) {
            Ok(status) => format!("QEMU has ended: {status}"),
            Err(_) => "QEMU runs".to_owned(),
        };
        format!("{status}; its console ends with:\n{}", self.process.log_tail())
    }
}

/// Arguments that give the machine a disk. What is not written yet when QEMU is killed is lost, as the disk is.
fn drive(image: &Path) -> [String; 2] {
    ["-drive".to_owned(), format!("file={},format=raw,if=virtio,cache=unsafe", image.display())]
}

/// Arguments that give the machine a folder of the host.
fn files(tag: &str, folder: &Path, more: &str) -> [String; 4] {
    [
        "-fsdev".to_owned(),
        format!("local,id={tag},path={},security_model=none{more}", folder.display()),
        "-device".to_owned(),
        format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]
}

/// Arguments for the fastest way to run the kernel here. A machine may have /dev/kvm and not be able to run a usual
/// kernel with it, so it is tried.
fn accelerator(kernel: &Kernel, folder: &Path) -> Result<&'static [&'static str]> {
    const KVM: &[&str] = &["-accel", "kvm", "-cpu", "host"];
    const EMULATED: &[&str] = &["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"];
    static HAS_KVM: OnceLock<bool> = OnceLock::new();
    let log: PathBuf = folder.join("kvm.log");
    let qemu = find(QEMU)?;
    let is_there = *HAS_KVM.get_or_init(|| {
        if !Path::new("/dev/kvm").exists() {
            return false;
        }
        let mut command = Command::new(qemu);
        command.args(KVM).args(["-m", "256", "-nic", "none", "-nographic", "-no-reboot", "-kernel"]);
        command.arg(kernel.image()).args(["-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]);
        let Ok(trial) = Process::spawn(command, "the trial of KVM", &log) else { return false };
        let says_something = || Ok(trial.log().contains("Linux version").then_some(()));
        let works = wait_until(KVM_LIMIT, "a kernel on KVM", says_something).is_ok();
        println!(
            "KVM {}",
            if works { "runs the kernels" } else { "does not run the kernels: they are emulated" }
        );
        works
    });
    Ok(if is_there { KVM } else { EMULATED })
}
