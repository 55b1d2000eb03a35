// SPDX-License-Identifier: Apache-2.0
//! Answers made of bytes by hand: complete, interrupted, cut off, with an error
//! inside. One test asks the running kernel; changes of real links are in the
//! tests of addresses.

use std::io;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::answer::{Answer, End};
use super::connection::Connection;
use super::dump::{Dump, DumpError, Kind};
use super::failure::Failure;
use super::gateways::RTM_NEWROUTE;
use crate::error_chain::ErrorChain;

const SEQUENCE: u32 = 7;
const MULTIPART: u16 = 0x02;
const INTERRUPTED: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;

/// `struct nlmsghdr`, then `payload`, then padding.
fn message_of(sequence: u32, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = (16 + payload.len()) as u32;
    let mut bytes = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &(MULTIPART | flags).to_ne_bytes(),
        &sequence.to_ne_bytes(),
        &[0; 4],
        payload,
    ]
    .concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    message_of(SEQUENCE, kind, flags, payload)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// 192.0.2.`last`/24 on link 2.
fn address(last: u8, flags: u16) -> Vec<u8> {
    let header = [2, 24, 0, 0, 2, 0, 0, 0];
    message(RTM_NEWADDR, flags, &[&header[..], &attribute(2, &[192, 0, 2, last])].concat())
}

fn done(flags: u16) -> Vec<u8> {
    message(NLMSG_DONE, flags, &0_i32.to_ne_bytes())
}

/// An error, or with code 0 an acknowledgement of the request.
fn error(code: i32) -> Vec<u8> {
    message(NLMSG_ERROR, 0, &[&(-code).to_ne_bytes()[..], &[0; 16]].concat())
}

/// The answer to a dump that arrives in these datagrams; `None` if it is not
/// complete with them.
fn dump_of(datagrams: &[Vec<u8>]) -> Result<Option<Answer>, Failure> {
    let mut answer = Answer::new(SEQUENCE, End::Done);
    for datagram in datagrams {
        if answer.add(datagram)? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

fn complete(datagrams: &[Vec<u8>]) -> Answer {
    dump_of(datagrams).unwrap().expect("NLMSG_DONE was there")
}

#[test]
fn a_dump_is_complete_with_its_last_message() {
    let datagrams = [[address(1, 0), address(2, 0)].concat(), address(3, 0), done(0)];
    let answer = complete(&datagrams);
    assert_eq!((answer.messages.len(), answer.interrupted), (3, false));
    assert!(dump_of(&datagrams[..2]).unwrap().is_none(), "without NLMSG_DONE it is not complete");
    let one_datagram = datagrams.concat();
    assert_eq!(complete(&[one_datagram]).messages.len(), 3);
    assert!(complete(&[done(0)]).messages.is_empty(), "an empty list");
}

#[test]
fn an_interruption_is_seen_on_any_message() {
    assert!(complete(&[address(1, INTERRUPTED), done(0)]).interrupted);
    assert!(complete(&[address(1, 0), done(INTERRUPTED)]).interrupted);
}

#[test]
fn messages_for_another_question_are_skipped() {
    let old = message_of(SEQUENCE - 1, NLMSG_DONE, INTERRUPTED, &0_i32.to_ne_bytes());
    let answer = complete(&[[old, address(1, 0)].concat(), done(0)]);
    assert_eq!((answer.messages.len(), answer.interrupted), (1, false));
}

#[test]
fn a_cut_off_dump_is_an_error() {
    let whole = [address(1, 0), address(2, 0), done(0)].concat();
    for length in 1..whole.len() {
        let answer = dump_of(&[whole[..length].to_vec()]);
        let is_between_messages = length % address(1, 0).len() == 0;
        match answer {
            Ok(None) => assert!(is_between_messages, "{length}"),
            Err(Failure::CutOff) => assert!(!is_between_messages, "{length}"),
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn an_error_inside_a_dump_is_an_error() {
    let refused = dump_of(&[[address(1, 0), error(libc::EPERM)].concat()]).unwrap_err();
    assert_eq!(io::Error::from(refused).raw_os_error(), Some(libc::EPERM));
    let failed = message(NLMSG_DONE, 0, &(-libc::ENOBUFS).to_ne_bytes());
    let failed = dump_of(&[address(1, 0), failed]).unwrap_err();
    assert_eq!(io::Error::from(failed).raw_os_error(), Some(libc::ENOBUFS));
    let lost = dump_of(&[address(1, 0), message(NLMSG_OVERRUN, 0, &[])]).unwrap_err();
    assert!(matches!(lost, Failure::Lost), "{lost}");
    let early = dump_of(&[address(1, 0), error(0)]).unwrap_err();
    assert!(matches!(early, Failure::EndedEarly), "{early}");
}

#[test]
fn an_undecodable_message_in_a_dump_is_an_error() {
    let header = [2, 24, 0, 0, 2, 0, 0, 0];
    let too_short = message(RTM_NEWADDR, 0, &[&header[..], &attribute(2, &[192, 0])].concat());
    let failure = dump_of(&[address(1, 0), too_short, done(0)]).unwrap_err();
    assert!(matches!(failure, Failure::Undecodable { message_type: RTM_NEWADDR, .. }), "{failure}");
}

#[test]
fn an_unknown_attribute_does_not_hide_a_link() {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_STATS64: u16 = 23;
    let header = [0; 16];
    // A bond whose data are cut off, and statistics of a wrong size.
    let info = [attribute(1, b"bond\0"), attribute(2, &attribute(1, &[]))].concat();
    let link = [
        &header[..],
        &attribute(IFLA_IFNAME, b"bond0\0"),
        &attribute(IFLA_LINKINFO, &info),
        &attribute(IFLA_STATS64, &[1]),
    ]
    .concat();
    let answer = complete(&[message(RTM_NEWLINK, 0, &link), done(0)]);
    let [RouteNetlinkMessage::NewLink(link)] = &answer.messages[..] else { panic!("{answer:?}") };
    assert!(link.attributes.contains(&LinkAttribute::IfName("bond0".to_owned())), "{link:?}");
}

#[test]
fn an_answer_about_one_object_ends_with_the_acknowledgement() {
    let mut answer = Answer::new(SEQUENCE, End::Ack);
    assert!(!answer.add(&address(1, 0)).unwrap());
    assert!(answer.add(&error(0)).unwrap());
    assert_eq!(answer.messages.len(), 1);
}

#[test]
fn an_interrupted_dump_is_read_again() {
    let mut dump = Dump::new(Kind::Addresses);
    let interrupted = complete(&[address(1, INTERRUPTED), done(0)]);
    assert!(dump.add(Ok(interrupted)).unwrap().is_none());
    let list = dump.add(Ok(complete(&[address(1, 0), address(2, 0), done(0)]))).unwrap();
    assert_eq!(list.unwrap().messages.len(), 2, "nothing of the interrupted one is left");
}

#[test]
fn a_dump_that_is_always_interrupted_is_an_error_that_names_the_list() {
    for (kind, name) in [
        (Kind::Links, "links"),
        (Kind::Addresses, "addresses"),
        (Kind::Neighbours, "neighbours"),
        (Kind::Routes, "routes"),
    ] {
        let mut dump = Dump::new(kind);
        let mut attempts = 1;
        let error = loop {
            match dump.add(Ok(complete(&[done(INTERRUPTED)]))) {
                Ok(None) => attempts += 1,
                Ok(Some(list)) => panic!("{list:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(attempts, 10);
        let expected = format!("the list of {name} changed during each of 10 attempts to read it");
        assert_eq!(error.to_string(), expected);
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::Interrupted);
    }
}

/// A route of this family with these attributes.
fn route(family: u8, flags: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    let header = [family, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    message(RTM_NEWROUTE, flags, &[&header[..], &attributes.concat()].concat())
}

/// One hop of a route that has several.
fn hop(link: u8, attributes: &[u8]) -> Vec<u8> {
    [&(8 + attributes.len() as u16).to_ne_bytes()[..], &[0, 0, link, 0, 0, 0], attributes].concat()
}

#[test]
fn a_list_of_routes_gives_the_gateways_of_all_their_hops() {
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let gateway = |last: u8| attribute(5, &[192, 0, 2, last]);
    let via = attribute(18, &[&10_u16.to_ne_bytes()[..], &v6].concat());
    // An attribute of a kind that no decoder knows.
    let unknown = attribute(200, &[1, 2, 3]);
    let hops = attribute(9, &[hop(7, &gateway(3)), hop(8, &[unknown.clone(), gateway(4)].concat())].concat());
    let routes = [
        route(2, 0, &[attribute(1, &[198, 51, 100, 0]), gateway(1), unknown]),
        route(2, 0, &[gateway(1)]),
        route(2, 0, &[hops]),
        route(2, 0, &[via, attribute(4, &[9, 0, 0, 0])]),
        route(10, 0, &[attribute(5, &v6)]),
        route(2, 0, &[attribute(4, &[2, 0, 0, 0])]),
        route(2, 0, &[attribute(5, &[1, 2]), attribute(9, &[3, 0])]),
    ];
    let answer = complete(&[routes.concat(), done(0)]);
    let gateways: Vec<String> = answer.gateways.iter().map(|(link, at)| format!("{at} by {link}")).collect();
    let expected =
        ["192.0.2.1 by 0", "2001:db8::9 by 0", "192.0.2.3 by 7", "192.0.2.4 by 8", "2001:db8::9 by 9"];
    assert_eq!(gateways, expected);
    assert!(answer.messages.is_empty() && !answer.interrupted);
    assert!(complete(&[route(2, INTERRUPTED, &[]), done(0)]).interrupted);
}

#[test]
fn an_error_of_a_dump_has_its_whole_chain_but_no_error_number() {
    let refused = Failure::Refused(io::Error::from_raw_os_error(libc::EPERM));
    let error: DumpError = Dump::new(Kind::Links).add(Err(refused)).unwrap_err();
    let error = io::Error::from(error);
    assert_eq!(error.raw_os_error(), None);
    assert_eq!(
        ErrorChain(&error).to_string(),
        "cannot read the list of links: the kernel refused the request: Operation not permitted (os error 1)"
    );
}

#[tokio::test]
async fn the_running_kernel_answers_each_question() {
    let mut connection = Connection::open().unwrap();
    let loopback = connection.link("lo").await.unwrap().expect("each namespace has a loopback link");
    assert!(!loopback.has_neighbours && loopback.neighbour_mac().is_none());
    assert!(connection.links().await.unwrap().contains(&loopback));
    for no_link in ["nothere0", "a-name-that-is-too-long-for-a-link", ""] {
        assert_eq!(connection.link(no_link).await.unwrap(), None, "{no_link}");
    }
    connection.macs().await.unwrap();
    connection.addresses().await.unwrap();
    connection.neighbours().await.unwrap();
    connection.route("192.0.2.1".parse().unwrap()).await.unwrap();
    assert!(connection.has_own_route("127.0.0.1".parse().unwrap()).await.unwrap());
    connection.gateways().await.unwrap();
    connection.gateway(loopback.ifindex, "192.0.2.1".parse().unwrap()).await.unwrap();
}
