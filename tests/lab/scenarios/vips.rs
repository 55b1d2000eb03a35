// SPDX-License-Identifier: Apache-2.0
//! VIPs in trouble: other hosts that have them, other programs that flush them, links that come and go.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use llb_tests::client::http_get;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Host, wait_until};
use socket2::{Domain, Protocol, Socket, Type};

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, frontend, is_free_of_problems};

/// llb tries a refused VIP again within 30 s, and a conflict ends after 12 s of silence.
const HEALING_LIMIT: Duration = Duration::from_secs(60);

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

pub(crate) fn a_vip_of_another_host_is_refused_until_it_is_free(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    let rival = setup.lab.host("node-2");
    for vip in [setup.vip(), setup.vip_v6()] {
        rival.ip(&addr("add", vip)).unwrap();
    }
    setup.write_service("web", &[setup.vip(), setup.vip_v6()], &[HTTP]);
    let problem = setup.agent.wait_for_problem(LIMIT, "VipConflict").unwrap();
    assert!(problem.contains(&mac(rival)) && problem.contains("default/web"), "{problem}");

    // Nothing was forwarded for a VIP of another host, not even while it was probed for: this machine may route
    // its packets.
    let steps = [setup.vip(), setup.vip_v6()].map(|vip| {
        let serve = format!("serve {} for", frontend(vip, 80, "TCP"));
        let add = format!("add {vip}/{}", if vip.is_ipv4() { 24 } else { 64 });
        [serve, add, "publish for default/web".to_owned()]
    });
    let log = setup.agent.log();
    assert!(!steps.iter().flatten().any(|step| log.contains(step)), "{log}");

    // Other VIPs are served meanwhile.
    let other = setup.lab.vip(1);
    setup.serve("other", &[other], &[HTTP]);
    http_get(setup.client(), SocketAddr::new(other, 80)).unwrap();
    for vip in [setup.vip(), setup.vip_v6()] {
        assert!(!setup.lab.balancer().has_address(vip).unwrap());
    }

    for vip in [setup.vip(), setup.vip_v6()] {
        rival.ip(&addr("del", vip)).unwrap();
    }
    setup.agent.wait_for_state(HEALING_LIMIT, "no problems", is_free_of_problems).unwrap();
    for vip in [setup.vip(), setup.vip_v6()] {
        setup.wait_serving(vip, 80, "TCP");
        http_get(setup.client(), SocketAddr::new(vip, 80)).unwrap();
    }
    // An address that answers before its frontend is there would refuse its clients.
    let [vip, vip_v6] = [setup.vip(), setup.vip_v6()];
    wait_log(&setup, &format!("publish for default/web: {vip} {vip_v6}"));
    let log = setup.agent.log();
    for (vip, [serve, add, publish]) in [vip, vip_v6].into_iter().zip(steps) {
        let first = |step: &str, vip: &str| {
            let line = log.lines().position(|line| line.contains(step) && line.contains(vip));
            line.unwrap_or_else(|| panic!("{step}: {log}"))
        };
        // Each VIP may be published in a line of its own, as the other host gave up one after the other.
        let at = [first(&serve, ""), first(&add, ""), first(&publish, &vip.to_string())];
        assert!(at.is_sorted(), "{log}");
    }
}

pub(crate) fn a_refused_vip_is_not_published_when_its_link_is_gone(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    let rival = setup.lab.host("node-2");
    rival.ip(&addr("add", setup.vip())).unwrap();
    setup.write_service("web", &[setup.vip()], &[HTTP]);
    setup.agent.wait_for_problem(LIMIT, "VipConflict").unwrap();
    setup.lab.balancer().ip("link set eth0 down\nlink set eth0 name away0\n").unwrap();
    setup.agent.wait_for_problem(LIMIT, "LinkMissing").unwrap();
    // A status is written beside the loop. In the round of another Service, its write has ended or was logged.
    setup.write_service("other", &[setup.lab.vip(1)], &[HTTP]);
    setup.agent.wait_for_problem(LIMIT, "AddressNotAllowed").unwrap();
    let state = setup.agent.state().unwrap();
    assert!(!is_published(&state, "web"), "{state:#}");
    assert_eq!(state["observed"]["frontends"], serde_json::json!({}), "{state:#}");
    let log = setup.agent.log();
    assert!(!log.contains("publish for"), "{log}");
}

pub(crate) fn a_published_vip_that_another_host_has_now_is_withdrawn(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let published = |state: &serde_json::Value| is_published(state, "web");
    setup.agent.wait_for_state(LIMIT, "the VIP to be published", published).unwrap();
    // While no agent runs, the VIP goes to another host.
    setup.agent.process().kill9().unwrap();
    setup.lab.balancer().ip(&addr("del", setup.vip())).unwrap();
    setup.lab.host("node-2").ip(&addr("add", setup.vip())).unwrap();
    setup.restart_agent();
    setup.agent.wait_for_problem(LIMIT, "VipConflict").unwrap();
    let web = frontend(setup.vip(), 80, "TCP");
    let is_withdrawn = |state: &serde_json::Value| {
        !is_published(state, "web") && state["observed"]["frontends"][&web]["phase"] != "serving"
    };
    setup.agent.wait_for_state(LIMIT, "the VIP to be withdrawn", is_withdrawn).unwrap();

    setup.lab.host("node-2").ip(&addr("del", setup.vip())).unwrap();
    setup.agent.wait_for_state(HEALING_LIMIT, "the VIP to be published again", published).unwrap();
    let vip = SocketAddr::new(setup.vip(), 80);
    wait_until(LIMIT, "an answer", || http_get(setup.client(), vip).map(Some)).unwrap();
}

pub(crate) fn a_vip_that_another_host_takes_stays_and_is_reported(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let rival = setup.lab.host("node-2");
    rival.ip(&addr("add", setup.vip())).unwrap();
    // The host sends an ARP request with the VIP as its source.
    let from = SocketAddr::new(setup.vip(), 0);
    let socket = rival.run_inside(|| UdpSocket::bind(from)).unwrap().unwrap();
    socket.send_to(b"hello", (setup.lab.black_hole(), 9)).unwrap();
    let problem = setup.agent.wait_for_problem(LIMIT, "VipConflict").unwrap();
    assert!(problem.contains(&mac(rival)) && problem.contains("default/web"), "{problem}");
    assert!(setup.lab.balancer().has_address(setup.vip()).unwrap());

    drop(socket);
    rival.ip(&addr("del", setup.vip())).unwrap();
    setup.agent.wait_for_state(HEALING_LIMIT, "no problems", is_free_of_problems).unwrap();
    let vip = SocketAddr::new(setup.vip(), 80);
    wait_until(LIMIT, "an answer", || http_get(setup.client(), vip).map(Some)).unwrap();
}

pub(crate) fn a_flushed_vip_is_put_back(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &[HTTP]);
    for vip in [setup.vip(), setup.vip_v6()] {
        let heard = Announcements::of(vip, setup.client());
        setup.lab.balancer().ip(&format!("addr flush dev eth0 to {vip}\n")).unwrap();
        heard.wait();
        setup.wait_address(vip, true);
        http_get(setup.client(), SocketAddr::new(vip, 80)).unwrap();
    }
    wait_log(&setup, "was removed, but not by llb");
}

pub(crate) fn vips_are_announced_again_when_the_link_is_up_again(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    setup.lab.balancer().ip("link set eth0 down\n").unwrap();
    wait_log(&setup, "went down or lost its carrier");
    let heard = Announcements::of(setup.vip(), setup.client());
    setup.lab.balancer().ip("link set eth0 up\n").unwrap();
    heard.wait();
    wait_log(&setup, "is up again");
    let vip = SocketAddr::new(setup.vip(), 80);
    wait_until(LIMIT, "an answer", || http_get(setup.client(), vip).map(Some)).unwrap();
}

pub(crate) fn vips_are_announced_again_when_the_cable_is_back(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &[HTTP]);
    setup.lab.balancer().unplug().unwrap();
    wait_log(&setup, "went down or lost its carrier");
    let heard = [setup.vip(), setup.vip_v6()].map(|vip| Announcements::of(vip, setup.client()));
    setup.lab.balancer().plug_in().unwrap();
    heard.iter().for_each(Announcements::wait);
    for vip in [setup.vip(), setup.vip_v6()] {
        let at = SocketAddr::new(vip, 80);
        wait_until(LIMIT, "an answer", || http_get(setup.client(), at).map(Some)).unwrap();
    }
}

pub(crate) fn a_vip_gets_the_prefix_length_of_the_links_new_subnet(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let own = setup.lab.balancer().ipv4();
    // The kernel removes the VIP with the last address of its subnet.
    let commands = format!("addr del {own}/24 dev eth0\naddr add {own}/25 dev eth0\n");
    setup.lab.balancer().ip(&commands).unwrap();
    let expected = format!("{}/25", setup.vip());
    wait_until(LIMIT, &expected, || {
        let addresses = setup.lab.balancer().addresses()?;
        Ok(addresses.contains(&expected).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", setup.agent.log()));
    let vip = SocketAddr::new(setup.vip(), 80);
    wait_until(LIMIT, "an answer", || http_get(setup.client(), vip).map(Some)).unwrap();
    wait_log(&setup, "other addresses of its own");
}

pub(crate) fn a_service_on_the_links_own_address_follows_that_address(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    let yaml = manifests::service("web", &[], &[HTTP]);
    // An API server fills in the family. Without that, the Service would become an IPv6 one at the moment when
    // the link has no IPv4 address.
    let yaml = yaml
        .replace("  annotations:\n    llb.dev/vips: \"\"\n", "")
        .replace("  type: LoadBalancer\n", "  type: LoadBalancer\n  ipFamilies: [IPv4]\n");
    setup.manifests.write("web.yaml", &yaml).unwrap();
    let serves = |vip: IpAddr| {
        let frontend = frontend(vip, 80, "TCP");
        setup
            .agent
            .wait_for_state(LIMIT, &frontend, |state| {
                state["observed"]["frontends"][&frontend]["phase"] == "serving"
            })
            .unwrap();
        let at = SocketAddr::new(vip, 80);
        wait_until(LIMIT, "an answer", || http_get(setup.client(), at).map(Some)).unwrap();
    };
    let own = setup.lab.balancer().ipv4();
    serves(own.into());
    // No program gets the port later, whichever plane serves it.
    let bind = || TcpListener::bind((own, 80)).map(drop).map_err(|error| error.kind());
    let is_held = || Ok((setup.lab.balancer().run_inside(bind)? == Err(ErrorKind::AddrInUse)).then_some(()));
    wait_until(LIMIT, "the port to be held", is_held).unwrap();
    let new = setup.lab.vip(5);
    let commands = format!("addr del {own}/24 dev eth0\naddr add {new}/24 dev eth0\n");
    setup.lab.balancer().ip(&commands).unwrap();
    serves(new);
}

/// Whether the status of a Service names a VIP.
fn is_published(state: &serde_json::Value, name: &str) -> bool {
    let status = &state["observed"]["statuses"][format!("default/{name}")];
    status["vips"].as_array().is_some_and(|vips| !vips.is_empty())
}

/// Records the announcements of a VIP that a host hears.
struct Announcements {
    socket: Socket,
    vip: IpAddr,
}

impl Announcements {
    /// Listens from now on.
    fn of(vip: IpAddr, at: &Host) -> Self {
        const ETH_P_ALL: u16 = 3;
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = at.run_inside(|| Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol)));
        Self { socket: socket.unwrap().unwrap(), vip }
    }

    /// Waits for the next announcement.
    fn wait(&self) {
        wait_until(LIMIT, &format!("an announcement of {}", self.vip), || {
            let mut frame = [0; 2048];
            loop {
                match (&self.socket).read(&mut frame) {
                    Ok(length) if self.is_one(&frame[..length]) => return Ok(Some(())),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
        })
        .unwrap();
    }

    /// Whether a frame is an ARP packet with the VIP as sender and target, or a Neighbor Advertisement of it to
    /// all nodes.
    fn is_one(&self, frame: &[u8]) -> bool {
        match self.vip {
            IpAddr::V4(vip) => {
                frame.len() >= 42
                    && frame[12..14] == [0x08, 0x06]
                    && frame[28..32] == vip.octets()
                    && frame[38..42] == vip.octets()
            }
            IpAddr::V6(vip) => {
                frame.len() >= 86
                    && frame[..6] == [0x33, 0x33, 0, 0, 0, 1]
                    && frame[54] == 136
                    && frame[62..78] == vip.octets()
            }
        }
    }
}

fn addr(verb: &str, vip: IpAddr) -> String {
    let length = if vip.is_ipv4() { 24 } else { 64 };
    let nodad = if vip.is_ipv6() && verb == "add" { " nodad" } else { "" };
    format!("addr {verb} {vip}/{length} dev eth0{nodad}\n")
}

fn mac(host: &Host) -> String {
    host.mac().map(|byte| format!("{byte:02x}")).join(":")
}

fn wait_log(setup: &Setup, text: &str) {
    wait_until(LIMIT, &format!("a log line with {text:?}"), || {
        let log = setup.agent.log();
        if log.contains(text) { Ok(Some(())) } else { anyhow::bail!("{log}") }
    })
    .unwrap();
}
