// SPDX-License-Identifier: Apache-2.0
//! A box of a group: the task that tells keepalived and `llb-agent share` what this agent serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::{AdminConfig, Config, GroupConfig};
use crate::error_chain::ErrorChain;
use crate::model::{AddressKey, NoPacketPlane, Phase, PlaneKind, Problem, SHARES};
use crate::ownership::{
    self, Condition, Fitness, Group, GroupSetup, News, Orders, PACE, Placement, Ranks, Standing,
};
use crate::peers::{GroupFiles, Identity, Keepalived, PeersError, read_orders, take_orders};
use crate::reconcile::Report;

/// How often to read the orders (`drain`, `undrain`, `move`).
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After this many readings of the orders, it checks whether keepalived runs.
const KEEPALIVED_EVERY: u32 = 5;

/// When the agent ends, the other boxes get this time to take the shares, in addition to the time for steps and adverts.
const TAKE_LIMIT: Duration = Duration::from_secs(1);
/// The most adverts that pass until another box has a share for which this one is no longer ready.
const TAKE_ADVERTS: u32 = 10;
/// The limit of all of that, however slow the adverts are.
const GIVE_AWAY_LIMIT: Duration = Duration::from_secs(5);
/// How long the end waits for a write of the task that hangs.
const TASK_LIMIT: Duration = Duration::from_secs(2);

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
    orders: Orders,
    /// Why the orders can't be read; it is logged already.
    orders_error: Option<String>,
    fitness: Fitness,
    /// When a share was last made to move.
    moved: Option<Instant>,
    /// This agent is about to end, and then serves nothing.
    is_ending: bool,
    problems: Vec<Problem>,
    /// How often it has looked at the orders.
    looks: u32,
}

/// The running task. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct PeersTask {
    stop: Arc<Notify>,
    ends: Arc<Notify>,
    task: JoinHandle<()>,
    links: Vec<String>,
    state_dir: PathBuf,
    advert: Duration,
}

impl Drop for PeersTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peers {
    /// Changes nothing that keepalived reads: another agent may still serve, and this one is not in charge yet.
    pub(super) fn open(config: &Config, group: &GroupConfig) -> anyhow::Result<Self> {
        Ok(Self {
            setup: setup(config, group)?,
            is_configured: false,
            files: GroupFiles::open(&config.state_dir)?,
            keepalived: Keepalived::new(&group.group, &config.state_dir),
            links: config.links.clone(),
            orders: take_orders(&config.state_dir),
            orders_error: None,
            fitness: Fitness::new(clock::now_std()),
            moved: None,
            is_ending: false,
            problems: Vec::new(),
            looks: 0,
        })
    }

    /// Lowers the numbers of shares that are at other boxes. To be called before keepalived can see that an agent lives, if
    /// none has served until now. If the agent before was dead for long, its shares are at other boxes. Without this they
    /// would all come back at once, before this agent serves anything. With it, they come back one by one when it serves.
    /// The call itself moves no share.
    pub(super) fn queue_up(&mut self, markers: &BTreeSet<Ipv4Addr>) -> Result<(), PeersError> {
        let lower = ownership::at_start(self.files.said(), &ownership::holding(&self.links, markers));
        lower.into_iter().try_for_each(|(share, number)| self.files.say(share, number))
    }

    /// Follows the reports until the task is dropped. It sends problems and what keepalived has been told to `news`, and then
    /// wakes the loop by `wake`.
    pub(super) fn follow(
        mut self,
        reports: watch::Receiver<Arc<Report>>,
        news: watch::Sender<News>,
        wake: Arc<Notify>,
    ) -> PeersTask {
        let (links, advert, state_dir) =
            (self.links.clone(), self.setup.advert, self.setup.state_dir.clone());
        // The agent before may have written to the files since this one was started.
        match GroupFiles::open(&self.setup.state_dir) {
            Ok(files) => self.files = files,
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "the files of the group are not read again")
            }
        }
        self.fitness = Fitness::new(clock::now_std());
        // A script that waits until the agent is ready may start keepalived next, which needs its configuration.
        self.problems = self.configure();
        news.send_replace(self.news());
        let (stop, ends) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let signals = [Arc::clone(&stop), Arc::clone(&ends)];
        let task = tokio::spawn(run(self, reports, news, wake, signals));
        PeersTask { stop, ends, task, links, state_dir, advert }
    }

    /// Writes the configuration of keepalived if that is not done yet, and returns what is wrong.
    fn configure(&mut self) -> Vec<Problem> {
        if self.is_configured {
            return Vec::new();
        }
        let GroupSetup { group, member, ranks, state_dir, .. } = &self.setup;
        let members = ranks.order(0).iter().cloned().collect();
        let identity = Identity { group: group.clone(), member: member.clone(), members };
        match identity.write(state_dir).and_then(|()| self.files.configure(&self.setup)) {
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

    /// Reads the orders, and every few times looks at keepalived, too.
    fn look(&mut self) {
        self.look_at_orders();
        if self.looks.is_multiple_of(KEEPALIVED_EVERY) {
            let problems = self.configure();
            self.problems = if problems.is_empty() { self.keepalived.look() } else { problems };
        }
        self.looks = self.looks.wrapping_add(1);
    }

    fn look_at_orders(&mut self) {
        let error = match read_orders(&self.setup.state_dir) {
            Ok(orders) => {
                if orders != self.orders {
                    tracing::info!(drained = orders.drained, moved = ?orders.moved, "new orders for this box of the group");
                    self.orders = orders;
                }
                None
            }
            Err(error) => Some(ErrorChain(&error).to_string()),
        };
        if let Some(error) = error.as_ref().filter(|error| self.orders_error.as_ref() != Some(*error)) {
            tracing::warn!(%error, "the previous orders stay in force; the next `llb-agent drain`, `undrain` or `move` replaces the file");
        }
        self.orders_error = error;
    }

    fn follow_report(&mut self, report: &Report) {
        let condition = condition(report);
        self.fitness.is_now(condition, clock::now_std());
        // The agent before may have written the file, and an unknown state must not overwrite it.
        if condition == Condition::Unknown {
            return;
        }
        if let Err(error) = self.files.place(placement_of(report, &self.links, |_| true)) {
            tracing::warn!(error = %ErrorChain(&error), "it is tried again with the next change");
        }
    }

    /// Tells keepalived what is due now. Returns how long to wait for the rest.
    fn step(&mut self) -> Option<Duration> {
        let now = clock::now_std();
        let drained = self.orders.drained || self.is_ending;
        let orders = Orders { drained, moved: self.orders.moved.clone() };
        let box_of = (&self.setup.ranks, self.setup.member.as_str());
        let wanted = ownership::wanted(&orders, &self.fitness, box_of, self.files.said(), now);
        let step = ownership::next_step(self.files.said(), &wanted)?;
        if let Some(rest) = self.moved.and_then(|moved| PACE.checked_sub(now.duration_since(moved)))
            && step.moves
            && !rest.is_zero()
        {
            return Some(rest);
        }
        for (share, number) in &step.write {
            if let Err(error) = self.files.say(*share, *number) {
                tracing::warn!(error = %ErrorChain(&error), "it is tried again");
                return Some(LOOK_EVERY);
            }
        }
        if step.moves {
            self.moved = Some(clock::now_std());
        }
        Some(PACE)
    }

    fn news(&self) -> News {
        let standing = Standing { orders: self.orders.clone(), said: *self.files.said() };
        News { problems: self.problems.clone(), standing }
    }
}

impl PeersTask {
    /// This agent is about to end, and nothing will be served here: the other boxes get the shares, one after the other.
    /// Returns how long that may take.
    pub(super) fn give_away(&self) -> Duration {
        self.ends.notify_one();
        (PACE * u32::from(SHARES) + self.advert * TAKE_ADVERTS + TAKE_LIMIT).min(GIVE_AWAY_LIMIT)
    }

    /// This agent is about to end. With `keep`, the packet plane and its VIPs go on, and relayed connections end.
    /// Without `keep`, the other boxes get the shares that they have not taken yet.
    pub(super) async fn leave(&mut self, report: &Report, keep: bool) {
        // The task must stop first: otherwise it could overwrite what is written here.
        self.stop.notify_one();
        if tokio::time::timeout(TASK_LIMIT, &mut self.task).await.is_err() {
            tracing::warn!(limit = ?TASK_LIMIT, "a file of the group is still being written; the agent ends all the same");
            return;
        }
        self.write(|files| match keep {
            true => files.place(placement_of(report, &self.links, |plane| plane == PlaneKind::Packet)),
            false => files.give_up_all(),
        });
    }

    /// This agent has removed its addresses: `llb-agent share` must not put them back.
    pub(super) fn left(&self) {
        self.write(|files| files.place(ownership::placement(&self.links, std::iter::empty())));
    }

    fn write(&self, work: impl FnOnce(&mut GroupFiles) -> Result<(), PeersError>) {
        if let Err(error) = GroupFiles::open(&self.state_dir).and_then(|mut files| work(&mut files)) {
            tracing::warn!(error = %ErrorChain(&error), "the other boxes of the group are not told that this agent ends");
        }
    }
}

/// Returns when the loop has reported that this box has no share.
pub(super) async fn until_no_share_is_here(mut reports: watch::Receiver<Arc<Report>>) {
    let is_without = |report: &Arc<Report>| report.group.as_ref().is_none_or(|group| group.counts().0 == 0);
    // The wait fails only if the loop has ended.
    let _ = reports.wait_for(is_without).await;
}

/// What this agent serves.
fn condition(report: &Report) -> Condition {
    let has_failed = matches!(report.planes.no_packet_plane, Some(NoPacketPlane::Failed { .. }));
    match report.ready && !report.is_blind {
        false => Condition::Unknown,
        true if has_failed || !report.observed.unready_links.is_empty() => Condition::InPart,
        true => Condition::InFull,
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
        // The configuration refuses a group without an admin endpoint.
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
    news: watch::Sender<News>,
    wake: Arc<Notify>,
    [stop, ends]: [Arc<Notify>; 2],
) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut rest = None;
    loop {
        let mut is_look = false;
        tokio::select! {
            biased;
            () = stop.notified() => return,
            () = ends.notified() => peers.is_ending = true,
            _ = look.tick() => is_look = true,
            () = tokio::time::sleep(rest.unwrap_or_default()), if rest.is_some() => {}
            changed = reports.changed() => if changed.is_err() {
                return;
            },
        }
        let report = Arc::clone(&reports.borrow_and_update());
        // Files may block.
        let done = tokio::task::spawn_blocking(move || {
            if is_look {
                peers.look();
            }
            peers.follow_report(&report);
            let rest = peers.step();
            (peers, rest)
        });
        let Ok(done) = done.await else { return };
        (peers, rest) = done;
        let now = peers.news();
        if news.send_if_modified(|known| std::mem::replace(known, now.clone()) != now) {
            wake.notify_one();
        }
    }
}

/// The VIPs that are published and have a frontend that serves on a plane that `goes_on`. `llb-agent share` puts these on
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
