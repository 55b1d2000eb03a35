// SPDX-License-Identifier: Apache-2.0
//! Random events of a network under open connections, requests and UDP, beside plain routing through the same events: no
//! connection is lost that plain routing keeps.
//!
//! `LLB_CHAOS_SECS=1800 LLB_CHAOS_CONNECTIONS=1000 cargo xtask test --only lab plain_routing_keeps` makes the long run.
//! `LLB_SEED` repeats a schedule; `LLB_CHAOS_EVENTS` chooses events by name.

#![expect(clippy::disallowed_methods, reason = "the chaos measures by the real clock")]

mod hand;
mod network;
mod way;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use llb_tests::chaos::{Answers, Conversations, Event, Group, Questions, Schedule, Step, Tally};
use llb_tests::client::{self, Load, http_get};
use llb_tests::wait::holds_throughout;
use llb_tests::{Agent, environment, manifests, wait_until};

use self::hand::Hand;
use self::network::Network;
use self::way::{Way, vips};
use super::packets::{DNS, ECHO, HTTP};
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// Without the variables: all planes together take two minutes.
const SECS: u64 = 14;
const CONNECTIONS: u64 = 96;
/// UDP clients by each way.
const ASKING: usize = 24;
/// The pause between two requests, which keeps the CPUs free and the client's ports fresh.
const PAUSE: Duration = Duration::from_millis(40);
/// Time to open all connections.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// From the last event until all is served again: llb puts back what others have removed again and again after pauses.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn no_connection_is_lost_that_plain_routing_keeps(plane: Plane) {
    Chaos::new(Way { plane, is_dsr: false }).run().assert_no_worse();
}

pub(crate) fn in_mode_dsr_no_connection_is_lost_that_plain_routing_keeps(plane: Plane) {
    Chaos::new(Way { plane, is_dsr: true }).run().assert_no_worse();
}

/// The yardstick sees a loss: the relay's connections die with the agent, and plain routing does not need one.
pub(crate) fn connections_that_llb_loses_are_seen(plane: Plane) {
    let mut chaos = Chaos::new(Way { plane, is_dsr: false });
    chaos.events = vec![Event::AgentKilled];
    chaos.span = Duration::from_secs(1);
    chaos.is_proxied = false;
    let outcome = chaos.run();
    assert_eq!(outcome.plain.lost, BTreeMap::new(), "{:?}", outcome.plain.lines);
    let complaints = outcome.llb.worse_than(&outcome.plain);
    assert!(
        complaints.iter().any(|line| line.contains("Reset") || line.contains("Closed")),
        "{complaints:?}"
    );
}

/// A run that can begin.
struct Chaos {
    way: Way,
    events: Vec<Event>,
    span: Duration,
    connections: usize,
    /// Whether a connection of llb counts only from its first echo on.
    is_proxied: bool,
    seed: u64,
    network: Network,
    /// Agents that others have taken over from. They end before their lab.
    old: Vec<Agent>,
    setup: Setup,
}

/// What both groups saw.
struct Outcome {
    seed: u64,
    /// What happened when.
    journal: Vec<String>,
    llb: Tally,
    plain: Tally,
    llb_answers: Answers,
    plain_answers: Answers,
    requests: [client::Tally; 2],
    log: String,
}

impl Chaos {
    fn new(way: Way) -> Self {
        let seed = environment::seed().unwrap_or_else(rand::random);
        println!("LLB_SEED={seed} repeats the schedule");
        let mut setup = Setup::with_arguments(way.plane, &["--drain-timeout", "2h"]);
        let network = Network::build(&mut setup, way);
        let (vips, ports) = (vips(&setup), [ECHO, HTTP, DNS]);
        if way.is_dsr {
            let yaml = manifests::annotated_service("chaos", &vips, &ports, "llb.dev/mode: dsr");
            setup.manifests.write("chaos.yaml", &yaml).unwrap();
            for (vip, port) in vips.iter().flat_map(|vip| ports.map(|port| (*vip, port))) {
                setup.wait_serving(vip, port.port, port.protocol);
            }
        } else {
            setup.serve("chaos", &vips, &ports);
        }
        let events = way.events(seed);
        Self {
            way,
            is_proxied: way.may_relay(&events),
            events,
            span: Duration::from_secs(environment::chaos_secs().unwrap_or(SECS)),
            connections: environment::chaos_connections().unwrap_or(CONNECTIONS) as usize,
            seed,
            network,
            old: Vec::new(),
            setup,
        }
    }

    fn run(mut self) -> Outcome {
        let since = Instant::now();
        let client = self.setup.client().clone();
        let vips = vips(&self.setup);
        let plain_to = |port| self.network.plain_targets(self.way, port);
        let llb_to = |port| vips.map(|vip| (vip, port).into()).to_vec();
        let open = |name, targets| {
            let is_proxied = name == "llb" && self.is_proxied;
            let (count, seed) = (self.connections, self.seed);
            let group = Group { name, targets, count, is_proxied, seed, since };
            Conversations::open(&client, &group, OPEN_LIMIT).unwrap_or_else(|error| panic!("{error:#}"))
        };
        let plain = open("plain", plain_to(ECHO.node_port));
        let llb = open("llb", llb_to(ECHO.port));
        let plain_questions = Questions::start(&client, &plain_to(DNS.node_port), ASKING, self.seed);
        let llb_questions = Questions::start(&client, &llb_to(DNS.port), ASKING, self.seed);
        let web = (vips[0], HTTP.port).into();
        let loads = [web, plain_to(HTTP.node_port)[0]].map(|target| Load::paced(&client, target, PAUSE));

        let journal = self.carry_out(since);
        self.wait_until_whole();
        let requests = loads.map(|load| load.stop().unwrap());
        Outcome {
            seed: self.seed,
            journal,
            plain: plain.stop().unwrap(),
            llb: llb.stop().unwrap(),
            plain_answers: plain_questions.stop().unwrap(),
            llb_answers: llb_questions.stop().unwrap(),
            requests,
            log: self.setup.agent.log(),
        }
    }

    /// Lets all events happen, and returns one line for each step, with the time since `since`.
    fn carry_out(&mut self, since: Instant) -> Vec<String> {
        let begun = Instant::now();
        let mut journal = Vec::new();
        let mut hand = Hand { setup: &mut self.setup, network: &self.network, old: &mut self.old };
        let mut is_agent_away = false;
        for (time, step) in Schedule::new(self.seed, &self.events, self.span) {
            let pause = time.saturating_sub(begun.elapsed());
            holds_throughout(pause, "the agent runs", || {
                if is_agent_away { Ok(()) } else { hand.check_agent() }
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{journal:#?}"));
            is_agent_away = match step {
                Step::Begin(Event::AgentKilled) => true,
                Step::End(Event::AgentKilled) => false,
                _ => is_agent_away,
            };
            journal.push(format!("{:.1} s: {step:?}", since.elapsed().as_secs_f32()));
            let done = match step {
                Step::Begin(event) => hand.begin(event),
                Step::End(event) => hand.end(event),
            };
            done.unwrap_or_else(|error| panic!("{step:?}: {error:#}\n{journal:#?}"));
        }
        journal
    }

    /// Waits until llb serves as before.
    fn wait_until_whole(&self) {
        let what = "an answer by each way after the last event";
        let plain = self.network.plain_targets(self.way, HTTP.node_port);
        let targets = vips(&self.setup).map(|vip| (vip, HTTP.port).into()).into_iter().chain(plain);
        for target in targets {
            wait_until(WHOLE_LIMIT, what, || http_get(self.setup.client(), target).map(Some))
                .unwrap_or_else(|error| panic!("{error:#}\n{}", self.setup.agent.log()));
        }
        wait_until(LIMIT, "the agent", || self.setup.agent.state().map(Some)).unwrap();
    }
}

impl Outcome {
    fn assert_no_worse(&self) {
        let text = self.text();
        println!("{text}");
        let mut complaints = self.llb.worse_than(&self.plain);
        complaints.extend(self.llb_answers.worse_than(&self.plain_answers));
        assert_eq!(complaints, [""; 0], "LLB_SEED={}\n{text}\n{}", self.seed, self.log);
    }

    fn text(&self) -> String {
        let mut text = self.journal.join("\n");
        let groups = [
            ("llb", &self.llb, &self.llb_answers, &self.requests[0]),
            ("plain", &self.plain, &self.plain_answers, &self.requests[1]),
        ];
        for (name, tally, answers, requests) in groups {
            let Tally { kept, messages, lost, not_opened, lines } = tally;
            let first = lines.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n  ");
            text.push_str(&format!(
                "\n{name}: {kept} connections kept, {messages} messages, lost: {lost:?}, not opened: {not_opened:?}\n  {first}\
                 \n{name}: UDP: {} answered, missing: {:?}, wrong: {}, stuck: {}\
                 \n{name}: requests: {} answered, failed: {:?}",
                answers.answered,
                answers.missing,
                answers.wrong.len(),
                answers.stuck,
                requests.answers.values().sum::<usize>(),
                by_text(&requests.failures),
            ));
        }
        text
    }
}

fn by_text(failures: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    failures.iter().for_each(|failure| *counts.entry(failure.as_str()).or_default() += 1);
    counts
}
