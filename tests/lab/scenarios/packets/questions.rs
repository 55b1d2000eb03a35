// SPDX-License-Identifier: Apache-2.0
//! Many clients ask one question each over UDP, as of DNS, and few source ports are there for them.

use std::time::Duration;

use llb_tests::manifests::PortSpec;
use llb_tests::questions::Late;
use llb_tests::wait::wait_for;
use llb_tests::{Answers, Questions};

use super::flood::target;
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup};

const DNS: PortSpec<'static> = PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };

const FEW_PORTS: &str = "20000-20199";
/// A question holds its port until its answer and two ticks more, some 2 s, so about 160 of the 400 ports of both
/// backends are taken. All 16 ports that are tried at one backend are taken in 1 of 10^6 cases.
const QUESTIONS_PER_SEC: u32 = 80;
/// Many more than there are ports.
const QUESTIONS: u64 = 1_000;
/// Later than an answered question keeps its port, but not later than one without an answer does.
const LATE: Late = Late { one_in: 4, most: Duration::from_secs(4) };

pub(crate) fn a_late_answer_reaches_no_other_client(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--snat-ports", FEW_PORTS]);
    let _answers = NODES.map(|node| {
        let host = setup.lab.host(node);
        Answers::start(host, host.at(DNS.node_port), LATE).unwrap()
    });
    setup.serve("dns", &[setup.vip()], &[DNS]);
    let clients = setup.lab.add_host("clients").unwrap();
    Questions::prepare(&clients).unwrap();
    let questions = Questions::start(&clients, target(setup.vip(), DNS.port), QUESTIONS_PER_SEC).unwrap();
    wait_for(3 * LIMIT, "all questions", || questions.outcome().asked >= QUESTIONS).unwrap();
    questions.pause();
    wait_for(LIMIT, "the last answers", || {
        let outcome = questions.outcome();
        outcome.answered + outcome.wrong >= outcome.asked
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", questions.outcome()));
    let outcome = questions.stop().unwrap();
    println!("{outcome:?}");
    assert_eq!((outcome.answered, outcome.wrong), (outcome.asked, 0));
    let exhausted = setup.agent.metric("llb_packet_reasons_total{reason=\"ports_exhausted\"}").unwrap();
    assert_eq!(exhausted, 0);
}
