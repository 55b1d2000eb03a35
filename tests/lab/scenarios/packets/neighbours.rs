// SPDX-License-Identifier: Apache-2.0
//! Nodes that are replaced or go silent without telling anybody.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use llb_common::maps;
use llb_tests::client::{count_by_name, http_get};
use llb_tests::{Server, manifests, wait_until};

use super::HTTP;
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// More than `gc_thresh3`, by default.
const NODES: usize = 1500;
/// How often all of them are looked at, with requests in between.
const ROUNDS: usize = 3;
/// Requests in a row: enough that both nodes get one.
const REQUESTS: usize = 20;

pub(crate) fn a_node_whose_mac_changes_is_found_again(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.manifests.write("nodes.yaml", &manifests::nodes(&[setup.lab.host("node-1")])).unwrap();
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[HTTP]);
    let ask_all =
        || vips.iter().try_for_each(|vip| http_get(setup.client(), (*vip, HTTP.port).into()).map(drop));
    ask_all().unwrap();
    // A locally administered MAC; nothing announces it.
    setup.lab.host("node-1").ip("link set eth0 address 02:00:5e:00:53:99\n").unwrap();
    wait_until(LIMIT, "an answer from the node in its place", || ask_all().map(Some)).unwrap();
}

pub(crate) fn a_silent_node_is_left_out_until_it_is_back(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    let answered = || count_by_name(REQUESTS, || http_get(setup.client(), vip));
    assert_eq!(answered().unwrap().len(), 2);
    setup.lab.host("node-1").unplug().unwrap();
    wait_until(LIMIT, "no request to fail", || answered().map(Some)).unwrap();
    assert!(!answered().unwrap().contains_key("node-1"));
    setup.lab.host("node-1").plug_in().unwrap();
    wait_until(LIMIT, "both nodes to answer", || Ok(Some(answered()?).filter(|all| all.len() == 2))).unwrap();
}

/// The kernel remembers 1,024 neighbours of each family on the whole machine, but for those that llb keeps.
pub(crate) fn more_nodes_on_the_segment_than_the_kernel_remembers_are_all_reached(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--at-stop", "remove"]);
    let host = setup.lab.host("node-1");
    let addresses: Vec<IpAddr> =
        (0..NODES).map(|n| [198, 18, 1 + (n / 250) as u8, 1 + (n % 250) as u8].into()).collect();
    let lines = addresses.iter().map(|address| format!("addr add {address}/15 dev eth0\n"));
    host.ip(&lines.collect::<String>()).unwrap();
    setup.lab.balancer().ip("addr add 198.18.0.1/15 dev eth0\n").unwrap();
    let _server = Server::http(host, SocketAddr::from(([0, 0, 0, 0], HTTP.node_port)), "node").unwrap();
    let nodes =
        addresses.iter().enumerate().map(|(n, address)| manifests::node(&format!("n{n}"), &[*address]));
    setup.manifests.write("nodes.yaml", &nodes.collect::<String>()).unwrap();
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    let kept = || {
        let all = setup.lab.balancer().output(&["ip", "neigh", "show"])?;
        anyhow::Ok(all.lines().filter(|line| line.contains("extern_learn")).count())
    };
    for _ in 0..ROUNDS {
        wait_until(LIMIT, "all nodes to be reached", || {
            let explained = setup.agent.get("/explain/default/web")?;
            let active = explained.lines().filter(|line| line.contains("  active,")).count();
            ensure!(active == NODES, "{active} nodes are active, {} are kept", kept()?);
            Ok(Some(()))
        })
        .unwrap();
        (0..REQUESTS).for_each(|_| drop(http_get(setup.client(), vip).unwrap()));
    }
    assert!(kept().unwrap() >= NODES, "{}", kept().unwrap());

    // What is not needed any more is the kernel's again; those that have flows are still needed.
    setup.manifests.write("nodes.yaml", &manifests::node("n0", &addresses[..1])).unwrap();
    wait_until(4 * LIMIT, "the nodes to be released", || Ok((kept()? < NODES / 2).then_some(()))).unwrap();
    setup.agent.terminate().unwrap();
    assert!(setup.agent.wait_exit().unwrap().success(), "{}", setup.agent.log());
    let left = setup.lab.balancer().output(&["ip", "neigh", "show"]).unwrap();
    assert!(!left.contains("extern_learn"), "{left}");
}

pub(crate) fn a_link_that_was_deleted_and_created_again_forwards_again(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), 80);
    http_get(setup.client(), vip).unwrap();
    // As if it had been created again many times before.
    fill_links(&setup.lab.balancer().bpf_directory()).unwrap();
    setup.lab.balancer().replace_link().unwrap();
    wait_until(LIMIT, "an answer by the new link", || http_get(setup.client(), vip).map(Some)).unwrap();
    setup.serve("more", &[setup.lab.vip(1)], &[manifests::PortSpec::tcp("more", 81, HTTP.node_port)]);
}

/// Fills the table of links with links that are gone.
fn fill_links(bpf_dir: &Path) -> Result<()> {
    let layout = std::fs::read_dir(bpf_dir)?.next().context("no folder of a layout")??.path();
    let data = MapData::from_pin(layout.join("shared_between_links").join(maps::LINKS.name))?;
    let mut links = HashMap::<MapData, u32, [u8; 8]>::try_from(Map::HashMap(data))?;
    let gone = (1_000_000..).take_while(|ifindex| links.insert(ifindex, &[0; 8], 0).is_ok()).count();
    ensure!((1..maps::LINKS.capacity).contains(&gone), "{gone} links fitted");
    Ok(())
}
