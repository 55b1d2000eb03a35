// SPDX-License-Identifier: Apache-2.0
//! The lab's servers and clients against each other, without an agent in between. A failure here says nothing
//! about llb.

use std::io;
use std::time::Duration;

use llb_tests::client::{Load, connect, echo_all, echo_on, http_get, udp_ask};
use llb_tests::{Lab, Server, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn http_answers_name_the_server_and_the_client() {
    let lab = Lab::new().unwrap();
    let (client, node) = (lab.client(), lab.host("node-1"));
    let _v4 = Server::http(node, node.at(80), "one").unwrap();
    let _v6 = Server::http(node, node.at_v6(80), "two").unwrap();
    let answer = http_get(client, node.at(80)).unwrap();
    assert_eq!((answer.name.as_str(), answer.peer.ip()), ("one", client.at(0).ip()));
    let answer = http_get(client, node.at_v6(80)).unwrap();
    assert_eq!((answer.name.as_str(), answer.peer.ip()), ("two", client.at_v6(0).ip()));
    // curl keeps its connection open for the second request.
    let url = format!("http://{}/", node.at(80));
    let twice =
        client.output(&["curl", "-sS", "--max-time", "5", "-w", "%{num_connects} ", &url, &url]).unwrap();
    assert!(twice.ends_with("0 ") && twice.contains("\n1 "), "{twice}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ten_mebibytes_come_back_after_a_half_close() {
    let lab = Lab::new().unwrap();
    let node = lab.host("node-1");
    let _server = Server::echo(node, node.at(7)).unwrap();
    let content: Vec<u8> = (0..10 << 20).map(|index: u32| (index % 251) as u8).collect();
    let stream = connect(lab.client(), node.at(7)).unwrap();
    assert!(echo_all(stream, content.clone()).unwrap() == content);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_stopped_udp_server_refuses() {
    let lab = Lab::new().unwrap();
    let (client, node) = (lab.client(), lab.host("node-1"));
    let server = Server::udp(node, node.at_v6(53), "one").unwrap();
    let answer = udp_ask(client, node.at_v6(53), "are you there").unwrap();
    assert_eq!((answer.name.as_str(), answer.content.as_str()), ("one", "are you there"));
    server.stop();
    let error = udp_ask(client, node.at_v6(53), "and now").unwrap_err();
    assert_eq!(error.downcast::<io::Error>().unwrap().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_stopping_server_answers_what_it_accepted_and_can_start_again() {
    let lab = Lab::new().unwrap();
    let (client, node) = (lab.client(), lab.host("node-1"));
    let server = Server::http(node, node.at(80), "one").unwrap();
    let mut early = connect(client, node.at(80)).unwrap();
    let load = Load::start(client, node.at(80));
    load.wait_for_more(50, LIMIT).unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    // Accepted before the stop, asked after it.
    wait_until(LIMIT, "a closed port", || Ok(connect(client, node.at(80)).is_err().then_some(()))).unwrap();
    io::Write::write_all(&mut early, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    io::Read::read_to_string(&mut early, &mut answer).unwrap();
    assert!(answer.contains("\r\n\r\none "), "{answer}");
    stopping.join().unwrap();
    load.wait_for_more(50, LIMIT).unwrap();
    let again = Server::http(node, node.at(80), "again").unwrap();
    load.wait_for_more(50, LIMIT).unwrap();
    let tally = load.stop().unwrap();
    again.stop();
    assert!(tally.answers["one"] >= 50 && tally.answers["again"] >= 1, "{:?}", tally.answers);
    // The load notices a server that is gone, so tests that count failures can fail.
    assert!(!tally.failures.is_empty());
    // Connections were refused, but none was cut off.
    let cut_off = tally.failures.iter().find(|failure| !failure.contains("refused"));
    assert_eq!(cut_off, None);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_address_in_use_is_an_error_and_does_not_hang() {
    let lab = Lab::new().unwrap();
    let node = lab.host("node-1");
    let server = Server::echo(node, node.at(7)).unwrap();
    let error = Server::echo(node, node.at(7)).unwrap_err();
    assert!(format!("{error:#}").contains("cannot bind 192.0.2.31:7 on node-1"), "{error:#}");
    // An open connection does not keep a dropped server alive.
    let mut stream = connect(lab.client(), node.at(7)).unwrap();
    echo_on(&mut stream, b"hello").unwrap();
    drop(server);
    assert!(echo_on(&mut stream, b"hello").is_err());
}
