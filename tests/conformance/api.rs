// SPDX-License-Identifier: Apache-2.0
//! Threads that talk to the API server from inside a host's namespace.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Result;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use llb_tests::Host;
use tokio::sync::watch;
use tokio::task::LocalSet;

/// Runs `work` with a client on a thread of its own inside the namespace of `host`, until it ends or `stopped` is true.
/// Then what it has spawned ends too. A failure is printed: the tests that depend on the work then fail.
pub(crate) fn thread<F: Future<Output = Result<()>>>(
    host: &Host,
    kubeconfig: &Path,
    mut stopped: watch::Receiver<bool>,
    work: impl FnOnce(Client) -> F + Send + 'static,
) -> Result<JoinHandle<()>> {
    let (host, kubeconfig) = (host.clone(), kubeconfig.to_owned());
    let name = format!("api-{}", host.name());
    Ok(std::thread::Builder::new().name(name).spawn(move || {
        let run = || {
            host.enter_for_good()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, async {
                let work = work(client(kubeconfig).await?);
                tokio::select! {
                    result = work => result,
                    _ = stopped.wait_for(|&stop| stop) => Ok(()),
                }
            })
        };
        if let Err(error) = run() {
            eprintln!("on {}: {error:#}", host.name());
        }
    })?)
}

async fn client(kubeconfig: PathBuf) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
