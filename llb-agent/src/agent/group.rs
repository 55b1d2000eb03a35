// SPDX-License-Identifier: Apache-2.0
//! A box of a group: the task that tells keepalived and `llb-agent share` what this agent serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::config::{AdminConfig, Config, GroupConfig};
use crate::error_chain::ErrorChain;
use crate::model::{AddressKey, Phase, PlaneKind, Problem};
use crate::ownership::{self, Group, GroupSetup, Placement, Ranks};
use crate::peers::{GroupFiles, Keepalived, PeersError};
use crate::reconcile::Report;

/// How often to look whether keepalived runs.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the kernel shows if the program was replaced while it ran.
const REPLACED: &str = " (deleted)";

/// The group of this box, as the loop needs it.
pub(super) fn group_of(config: &GroupConfig, links: &[String]) -> Group {
    Group {
        name: config.group.clone(),
        member: config.member.clone(),
        ranks: Ranks::new(&config.group, &config.members),
        links: links.to_vec(),
    }
}

/// The files of a group, and its keepalived.
#[derive(Debug)]
pub(super) struct Peers {
    files: GroupFiles,
    keepalived: Keepalived,
    links: Vec<String>,
}

/// The running task. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct PeersTask {
    task: JoinHandle<()>,
    links: Vec<String>,
    state_dir: PathBuf,
}

impl Drop for PeersTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peers {
    /// Writes the configuration of keepalived.
    pub(super) fn start(config: &Config, group: &GroupConfig) -> anyhow::Result<Self> {
        let files = GroupFiles::open(&config.state_dir)?;
        let mut keepalived = Keepalived::new(&group.group, &config.state_dir);
        if files.configure(&setup(config, group)?)? {
            keepalived.changed();
        }
        Ok(Self { files, keepalived, links: config.links.clone() })
    }

    /// Follows the reports until the task is dropped. `problems` gets those with keepalived, and `wake` wakes the loop then.
    pub(super) fn follow(
        self,
        state_dir: PathBuf,
        reports: watch::Receiver<Arc<Report>>,
        problems: watch::Sender<Vec<Problem>>,
        wake: Arc<Notify>,
    ) -> PeersTask {
        let links = self.links.clone();
        PeersTask { task: tokio::spawn(run(self, reports, problems, wake)), links, state_dir }
    }

    fn write(&mut self, report: &Report) {
        // What is not known yet changes nothing: an agent before this one may have written the files.
        if !report.ready || report.is_blind {
            return;
        }
        let written = self.files.place(placement_of(report, &self.links, |_| true));
        if let Err(error) = written.and_then(|()| self.files.set_ready(true)) {
            tracing::warn!(error = %ErrorChain(&error), "it is tried again with the next change");
        }
    }
}

impl PeersTask {
    /// This agent is about to end. With `keep`, the packet plane goes on, and so do its VIPs; what was relayed ends.
    /// Without, nothing will be served here any more, so the other boxes get the shares now.
    pub(super) fn leave(&self, report: &Report, keep: bool) {
        self.task.abort();
        self.write(|files| match keep {
            true => files.place(placement_of(report, &self.links, |plane| plane == PlaneKind::Packet)),
            false => files.set_ready(false),
        });
    }

    /// This agent has removed its addresses: nobody is to put them back.
    pub(super) fn left(&self) {
        self.write(|files| files.place(ownership::placement(&self.links, std::iter::empty())));
    }

    fn write(&self, work: impl FnOnce(&mut GroupFiles) -> Result<(), PeersError>) {
        if let Err(error) = GroupFiles::open(&self.state_dir).and_then(|mut files| work(&mut files)) {
            tracing::warn!(error = %ErrorChain(&error), "the other boxes of the group are not told that this agent ends");
        }
    }
}

/// Where keepalived asks whether the agent is alive.
fn admin(config: &AdminConfig) -> anyhow::Result<String> {
    match (config.address, &config.socket) {
        (Some(address), _) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            Ok(SocketAddr::new(ip, address.port()).to_string())
        }
        (None, Some(socket)) => Ok(socket.path.display().to_string()),
        (None, None) => anyhow::bail!(
            "--group needs an admin endpoint, by which keepalived finds out whether the agent is alive: give --admin or \
             --admin-socket"
        ),
    }
}

fn setup(config: &Config, group: &GroupConfig) -> anyhow::Result<GroupSetup> {
    let program = std::env::current_exe()?.display().to_string();
    let Group { name, member, ranks, links } = group_of(group, &config.links);
    Ok(GroupSetup {
        group: name,
        member,
        ranks,
        links,
        advert: group.advert,
        first_router_id: group.first_router_id,
        program: PathBuf::from(program.trim_end_matches(REPLACED)),
        state_dir: std::path::absolute(&config.state_dir)?,
        admin: admin(&config.admin)?,
    })
}

async fn run(
    mut peers: Peers,
    mut reports: watch::Receiver<Arc<Report>>,
    problems: watch::Sender<Vec<Problem>>,
    wake: Arc<Notify>,
) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        let is_look = tokio::select! {
            changed = reports.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
            _ = look.tick() => true,
        };
        let report = Arc::clone(&reports.borrow_and_update());
        // Files may block.
        let done = tokio::task::spawn_blocking(move || {
            peers.write(&report);
            let found = is_look.then(|| peers.keepalived.look());
            (peers, found)
        });
        let Ok((back, found)) = done.await else { return };
        peers = back;
        if let Some(found) = found
            && problems.send_if_modified(|known| std::mem::replace(known, found.clone()) != found)
        {
            wake.notify_one();
        }
    }
}

/// The VIPs of which a frontend serves on a plane that `goes_on`, and which are published: `llb-agent share` puts these on
/// links without a probe.
fn placement_of(report: &Report, links: &[String], goes_on: impl Fn(PlaneKind) -> bool) -> Placement {
    let serving = report
        .observed
        .frontends
        .iter()
        .filter(|(_, status)| status.phase == Phase::Serving && goes_on(status.placement.plane));
    let serving: BTreeSet<_> = serving.map(|(frontend, _)| frontend.vip).collect();
    let published: BTreeSet<_> =
        report.observed.statuses.values().flat_map(|status| status.addresses()).collect();
    let known: BTreeMap<&AddressKey, u8> = report
        .desired
        .addresses
        .iter()
        .chain(&report.desired.elsewhere)
        .map(|(key, &length)| (key, length))
        .collect();
    let is_there = |key: &AddressKey| serving.contains(&key.address) && published.contains(&key.address);
    ownership::placement(links, known.into_iter().filter(|(key, _)| is_there(key)))
}
