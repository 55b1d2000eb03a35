// SPDX-License-Identifier: Apache-2.0
//! Routing daemons of the lab: BIRD and FRR on boxes, with the files of `deploy/routing/`, and BIRD on the router.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use llb_tests::environment::failovers;
use llb_tests::{Host, Process, wait_until};

use crate::setup::LIMIT;

/// Where Debian has the daemons of FRR.
const FRR: &str = "/usr/lib/frr";

/// The addresses in the files of `deploy/routing/`.
const BOX_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Daemons that run until this is dropped.
pub(crate) struct Daemons {
    processes: Vec<Process>,
}

impl Daemons {
    /// BIRD on a box.
    pub(crate) fn bird_on_box(host: &Host, router: &Host) -> Self {
        Self::bird(host, &for_box("bird.conf", host, router))
    }

    /// FRR on a box.
    pub(crate) fn frr_on_box(host: &Host, router: &Host) -> Self {
        let folder = folder(host);
        let text = for_box("frr.conf", host, router);
        fs::write(folder.join("frr.conf"), text).unwrap();
        fs::write(folder.join("empty.conf"), "").unwrap();
        let whole = folder.to_str().unwrap();
        // Its daemons give up root.
        host.output(&["chown", "-R", "frr:frr", whole]).unwrap();
        let start = |name: &str, more: &[&str]| {
            let mut command = host.command(format!("{FRR}/{name}"));
            command.args(["--vty_socket", whole, "-z", &format!("{whole}/zserv"), "--log", "stdout"]);
            command.args(["-i", &format!("{whole}/{name}.pid"), "-f", &format!("{whole}/empty.conf")]);
            command.args(more);
            host.spawn(command, &format!("{name}-{}", host.name())).unwrap()
        };
        let mut processes = vec![start("zebra", &[])];
        wait_for_file(&folder.join("zserv"));
        processes.push(start("bfdd", &["--bfdctl", &format!("{whole}/bfdd.sock")]));
        processes.push(start("bgpd", &[]));
        for name in ["zebra.vty", "bfdd.vty", "bgpd.vty"] {
            wait_for_file(&folder.join(name));
        }
        let file = format!("{whole}/frr.conf");
        host.output(&["vtysh", "--vty_socket", whole, "-f", &file]).unwrap();
        Self { processes }
    }

    /// BIRD on the router.
    pub(crate) fn router(router: &Host, boxes: &[Host]) -> Self {
        let text = include_str!("router.conf")
            .replace("@ROUTER@", &router.ipv4().to_string())
            .replace("@A4@", &boxes[0].ipv4().to_string())
            .replace("@B4@", &boxes[1].ipv4().to_string())
            .replace("@A6@", &boxes[0].ipv6().to_string())
            .replace("@B6@", &boxes[1].ipv6().to_string());
        Self::bird(router, &patient(&text))
    }

    fn bird(host: &Host, text: &str) -> Self {
        let folder = folder(host);
        let file = |name: &str| folder.join(name).display().to_string();
        fs::write(file("bird.conf"), text).unwrap();
        let mut command = host.command("bird");
        command.args(["-f", "-c", &file("bird.conf"), "-s", &file("bird.ctl"), "-P", &file("bird.pid")]);
        Self { processes: vec![host.spawn(command, &format!("bird-{}", host.name())).unwrap()] }
    }

    pub(crate) fn logs(&self) -> String {
        self.processes.iter().map(|process| process.log_tail() + "\n").collect()
    }
}

/// A file of `deploy/routing/` with the addresses of the lab.
fn for_box(name: &str, host: &Host, router: &Host) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/routing").join(name);
    let mut text = fs::read_to_string(file).unwrap();
    for (known, own) in [
        // The longer ones first: one address begins like another one.
        (BOX_V4.to_string(), host.ipv4().to_string()),
        (ROUTER_V4.to_string(), router.ipv4().to_string()),
        (ROUTER_V6.to_string(), router.ipv6().to_string()),
    ] {
        assert!(text.contains(&known), "{name} has no {known}");
        text = text.replace(&known, &own);
    }
    patient(&text)
}

/// With slower BFD, except for a run that measures: the tests share their processors, and must not see boxes die that
/// are only slow.
fn patient(text: &str) -> String {
    let (bird, frr) = (text.matches("interval 50 ms").count(), text.matches("-interval 50\n").count());
    assert_eq!(bird + frr, 2, "{text}");
    match failovers() {
        Some(_) => text.to_owned(),
        None => {
            text.replace("interval 50 ms", "interval 300 ms").replace("-interval 50\n", "-interval 300\n")
        }
    }
}

fn folder(host: &Host) -> PathBuf {
    let folder = host.directory().join(format!("{}.routing", host.name()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn wait_for_file(path: &Path) {
    wait_until(LIMIT, &path.display().to_string(), || Ok(path.exists().then_some(()))).unwrap();
}
