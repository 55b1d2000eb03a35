// SPDX-License-Identifier: Apache-2.0
//! etcd, kube-apiserver and kube-controller-manager as processes on one host: start, readiness, outage.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::arguments;
use super::audit::{self, Write};
use super::binaries::Binaries;
use super::certificates::Certificates;
use super::kubeconfig;
use super::kubectl::Kubectl;
use crate::lab::Host;
use crate::process::Process;
use crate::wait::wait_until;

/// The API server takes 3 s to get ready on two idle slow cores.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The name of the kubeconfig of the controller manager.
const MANAGER: &str = "controller-manager";

/// `token,user,uid,groups` of the users that are not ServiceAccounts. They exist only inside the lab.
const ADMIN_TOKEN: &str = "lab-admin";
const MANAGER_TOKEN: &str = "lab-controller-manager";
const PROXY_TOKEN: &str = "lab-kube-proxy";
const TOKENS: &str = "\
lab-admin,admin,1,system:masters
lab-controller-manager,system:kube-controller-manager,2
lab-kube-proxy,system:kube-proxy,3
";

// Fields are dropped in this order: the programs that use another one go first.
#[derive(Debug)]
pub(super) struct ControlPlane {
    controller_manager: Process,
    /// `None` while the API server is stopped.
    apiserver: Option<Process>,
    etcd: Process,
    host: Host,
    binaries: Binaries,
    certificates: Certificates,
    folder: PathBuf,
    pub(super) kubectl: Kubectl,
    /// The kubeconfig of kube-proxy.
    pub(super) proxy: PathBuf,
}

impl ControlPlane {
    pub(super) fn start(host: Host, binaries: Binaries) -> Result<Self> {
        let folder = host.directory().join("control-plane");
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(tokens_file(&folder), TOKENS)?;
        audit::write_policy(&folder)?;
        let address = IpAddr::V4(host.ipv4());
        let names = [address, Ipv4Addr::LOCALHOST.into(), arguments::FIRST_SERVICE_ADDRESS.parse()?];
        let certificates = Certificates::write(&folder, &names)?;
        let kubeconfig = |name: &str, token: &str| {
            kubeconfig::write(&folder, name, &server(&host), &certificates.authority, token)
        };
        let admin = kubeconfig("admin", ADMIN_TOKEN)?;
        kubeconfig(MANAGER, MANAGER_TOKEN)?;
        let proxy = kubeconfig("kube-proxy", PROXY_TOKEN)?;

        let etcd = spawn(&host, &binaries.etcd, "etcd", arguments::etcd(&folder.join("etcd")))?;
        let mut apiserver = spawn_apiserver(&host, &binaries, &certificates, &folder)?;
        let kubectl = Kubectl::new(host.clone(), binaries.kubectl.clone(), admin);
        wait_ready(&kubectl, &mut apiserver)?;
        let controller_manager = spawn_controller_manager(&host, &binaries, &certificates, &folder)?;
        Ok(Self {
            controller_manager,
            apiserver: Some(apiserver),
            etcd,
            host,
            binaries,
            certificates,
            folder,
            kubectl,
            proxy,
        })
    }

    /// Kills the API server, as a power cut does: no watch ends in order.
    pub(super) fn stop_apiserver(&mut self) -> Result<()> {
        match self.apiserver.take() {
            Some(mut apiserver) => apiserver.kill9(),
            None => bail!("the API server is stopped already"),
        }
    }

    pub(super) fn start_apiserver(&mut self) -> Result<()> {
        let mut apiserver = spawn_apiserver(&self.host, &self.binaries, &self.certificates, &self.folder)?;
        wait_ready(&self.kubectl, &mut apiserver)?;
        self.apiserver = Some(apiserver);
        Ok(())
    }

    /// Copies etcd's data to a folder. The API server is away for that time.
    pub(super) fn save_etcd(&mut self, name: &str) -> Result<()> {
        self.stop_apiserver()?;
        // It flushes its data.
        self.etcd.signal(Signal::TERM)?;
        self.etcd.wait_exit(READY_LIMIT)?;
        self.copy("etcd", name)?;
        self.start_etcd()?;
        self.start_apiserver()
    }

    /// Replaces etcd's data by what [`ControlPlane::save_etcd`] copied, as a restore from a backup does. The
    /// controller manager starts anew after it, as an operator has to see to.
    pub(super) fn restore_etcd(&mut self, name: &str) -> Result<()> {
        self.stop_apiserver()?;
        self.etcd.kill9()?;
        fs::remove_dir_all(self.folder.join("etcd"))?;
        self.copy(name, "etcd")?;
        self.start_etcd()?;
        self.start_apiserver()?;
        self.controller_manager.kill9()?;
        self.controller_manager =
            spawn_controller_manager(&self.host, &self.binaries, &self.certificates, &self.folder)?;
        Ok(())
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        self.host.output(&["cp", "-a", &path(from), &path(to)]).map(drop)
    }

    fn start_etcd(&mut self) -> Result<()> {
        let arguments = arguments::etcd(&self.folder.join("etcd"));
        self.etcd = spawn(&self.host, &self.binaries.etcd, "etcd", arguments)?;
        Ok(())
    }

    /// Gives the API server a certificate of another authority, and restarts it. Returns the old ones, for
    /// [`ControlPlane::use_certificates`].
    pub(super) fn renew_authority(&mut self) -> Result<Certificates> {
        let folder = self.folder.join("renewed");
        fs::create_dir_all(&folder)?;
        let address = IpAddr::V4(self.host.ipv4());
        let mut renewed = Certificates::write(&folder, &[address, Ipv4Addr::LOCALHOST.into()])?;
        let old = self.certificates.clone();
        // Tokens stay valid.
        renewed.token_private_key.clone_from(&old.token_private_key);
        renewed.token_public_key.clone_from(&old.token_public_key);
        self.use_certificates(renewed)?;
        Ok(old)
    }

    /// Restarts the API server with these certificates.
    pub(super) fn use_certificates(&mut self, certificates: Certificates) -> Result<()> {
        self.certificates = certificates;
        self.write_kubeconfig("admin", ADMIN_TOKEN)?;
        self.stop_apiserver()?;
        self.start_apiserver()
    }

    pub(super) fn authority(&self) -> &Path {
        &self.certificates.authority
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn write_kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        kubeconfig::write(&self.folder, name, &server(&self.host), &self.certificates.authority, token)
    }

    pub(super) fn writes_in(&self, namespace: &str) -> Result<Vec<Write>> {
        audit::writes_in(&self.folder, namespace)
    }

    pub(super) fn binaries(&self) -> &Binaries {
        &self.binaries
    }
}

/// Starts `program` with `arguments` on `host`. Its log is called after `name`.
pub(super) fn spawn(host: &Host, program: &Path, name: &str, arguments: Vec<String>) -> Result<Process> {
    let mut command = host.command(program);
    command.args(arguments);
    host.spawn(command, name)
}

fn spawn_controller_manager(
    host: &Host,
    binaries: &Binaries,
    certificates: &Certificates,
    folder: &Path,
) -> Result<Process> {
    let arguments =
        arguments::controller_manager(certificates, &folder.join(format!("{MANAGER}.kubeconfig")));
    spawn(host, &binaries.controller_manager, "kube-controller-manager", arguments)
}

fn spawn_apiserver(
    host: &Host,
    binaries: &Binaries,
    certificates: &Certificates,
    folder: &Path,
) -> Result<Process> {
    let mut arguments = arguments::apiserver(certificates, &tokens_file(folder), IpAddr::V4(host.ipv4()));
    arguments.extend(arguments::audit(&audit::policy_file(folder), &audit::log_file(folder)));
    spawn(host, &binaries.apiserver, "kube-apiserver", arguments)
}

fn wait_ready(kubectl: &Kubectl, apiserver: &mut Process) -> Result<()> {
    let mut ended = None;
    wait_until(READY_LIMIT, "the API server to be ready", || {
        ended = apiserver.exit_status()?;
        // There is nothing left to wait for; the error is made below.
        if ended.is_some() {
            return Ok(Some(()));
        }
        kubectl.run(&["get", "--raw", "/readyz"]).map(|_| Some(()))
    })
    .with_context(|| format!("its log ends with:\n{}", apiserver.log_tail()))?;
    match ended {
        Some(status) => bail!("the API server ended ({status}):\n{}", apiserver.log_tail()),
        None => Ok(()),
    }
}

fn server(host: &Host) -> String {
    format!("https://{}", host.at(arguments::APISERVER_PORT))
}

fn tokens_file(folder: &Path) -> PathBuf {
    folder.join("tokens.csv")
}
