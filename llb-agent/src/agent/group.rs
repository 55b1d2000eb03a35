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
    setup: GroupSetup,
    /// keepalived has a file with this setup.
    is_configured: bool,
    files: GroupFiles,
    keepalived: Keepalived,
    links: Vec<String>,
}

/// The running task. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct PeersTask {
    stop: Arc<Notify>,
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
    /// Changes nothing that keepalived reads while an agent serves: this one is not in charge yet.
    pub(super) fn open(config: &Config, group: &GroupConfig) -> anyhow::Result<Self> {
        Ok(Self {
            setup: setup(config, group)?,
            is_configured: false,
            files: GroupFiles::open(&config.state_dir)?,
            keepalived: Keepalived::new(&group.group, &config.state_dir),
            links: config.links.clone(),
        })
    }

    /// Follows the reports until the task is dropped. `problems` gets those with keepalived, and `wake` wakes the loop then.
    pub(super) fn follow(
        mut self,
        state_dir: PathBuf,
        reports: watch::Receiver<Arc<Report>>,
        problems: watch::Sender<Vec<Problem>>,
        wake: Arc<Notify>,
    ) -> PeersTask {
        let links = self.links.clone();
        // Whoever waits for an agent that is ready may start keepalived then.
        problems.send_replace(self.configure());
        let stop = Arc::<Notify>::default();
        let task = tokio::spawn(run(self, reports, problems, wake, Arc::clone(&stop)));
        PeersTask { stop, task, links, state_dir }
    }

    /// Writes the configuration of keepalived, if that is still to be done, and returns what is wrong.
    fn configure(&mut self) -> Vec<Problem> {
        if self.is_configured {
            return Vec::new();
        }
        match self.files.configure(&self.setup) {
            Ok(is_new) => {
                self.is_configured = true;
                if is_new {
                    self.keepalived.changed();
                }
                Vec::new()
            }
            Err(error) => vec![self.keepalived.problem(format!("{}; it is tried again", ErrorChain(&error)))],
        }
    }

    /// Looks at keepalived, and returns what is wrong.
    fn look(&mut self) -> Vec<Problem> {
        let problems = self.configure();
        if problems.is_empty() { self.keepalived.look() } else { problems }
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
    pub(super) async fn leave(&mut self, report: &Report, keep: bool) {
        // What the task writes now must not come after what is written here. It fails only if the task has panicked.
        self.stop.notify_one();
        let _ = (&mut self.task).await;
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
fn admin(config: &AdminConfig) -> String {
    match (config.address, &config.socket) {
        (Some(address), _) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            SocketAddr::new(ip, address.port()).to_string()
        }
        (None, Some(socket)) => socket.path.display().to_string(),
        // The flags of a group are refused without one.
        (None, None) => String::new(),
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
        admin: admin(&config.admin),
    })
}

async fn run(
    mut peers: Peers,
    mut reports: watch::Receiver<Arc<Report>>,
    problems: watch::Sender<Vec<Problem>>,
    wake: Arc<Notify>,
    stop: Arc<Notify>,
) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        let is_look = tokio::select! {
            biased;
            () = stop.notified() => return,
            _ = look.tick() => true,
            changed = reports.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
        };
        let report = Arc::clone(&reports.borrow_and_update());
        // Files may block.
        let done = tokio::task::spawn_blocking(move || {
            peers.write(&report);
            let found = is_look.then(|| peers.look());
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
