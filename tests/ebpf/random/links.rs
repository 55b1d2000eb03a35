// SPDX-License-Identifier: Apache-2.0
//! The links of the random worlds: they go, and come back with another number, as links that are made anew do. And the
//! routes to clients, which the programs ask the kernel for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use llb_tests::Host;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use super::addresses::address;
use crate::model::world::{MacBytes, State, World};

/// Two links whose MACs are in the map of links, and one whose MAC is not: what comes by another link cannot leave
/// by it.
pub(super) const LINKS: [(u32, MacBytes); 3] =
    [(7, [2, 0, 0, 0, 0, 7]), (8, [2, 0, 0, 0, 0, 8]), (9, [2, 0, 0, 0, 0, 9])];
/// A link that is made anew gets a number from here on.
const NEW_NUMBERS: std::ops::Range<u32> = 20..40;
/// The MAC of a backend that is reached again.
const BACKEND_MAC: MacBytes = [2, 0, 0, 0, 1, 9];

/// Clients with a whole way by the routes: the last byte of the address, the place of the link in [`LINKS`], and the
/// last byte of the router's MAC. Others have no route, no neighbour there, or a route that rejects.
const ROUTED: [(u8, usize, u8); 3] = [(10, 0, 0xa), (11, 1, 0xb), (12, 2, 0xc)];

fn router_mac(last: u8) -> MacBytes {
    [2, 0, 0, 0, 2, last]
}

/// What [`World::routes`] holds.
pub(super) fn routes() -> BTreeMap<IpAddr, (u32, MacBytes)> {
    let both = ROUTED.iter().flat_map(|routed| [(true, routed), (false, routed)]);
    both.map(|(is_v4, (last, place, mac))| (address(is_v4, *last), (LINKS[*place].0, router_mac(*mac))))
        .collect()
}

/// Makes the links on this host, with the routes to clients.
pub(super) fn lay_routes(host: &Host) -> Result<()> {
    for family in ["net.ipv4", "net.ipv6"] {
        host.output(&["sysctl", "-q", "-w", &format!("{family}.conf.lo.forwarding=1")])?;
    }
    let mut commands = String::new();
    for (ifindex, _) in LINKS {
        commands += &format!(
            "link add l{ifindex} index {ifindex} type veth peer name p{ifindex}\nlink set l{ifindex} up\nlink set p{ifindex} up\n\
             addr add 203.0.113.{ifindex}/32 dev l{ifindex}\naddr add 2001:db8:{ifindex}::1/64 dev l{ifindex} nodad\n"
        );
    }
    for (last, place, mac) in ROUTED {
        let (link, mac) = (LINKS[place].0, router_mac(mac).map(|byte| format!("{byte:02x}")).join(":"));
        for (is_v4, router) in [(true, "203.0.113.100".to_owned()), (false, format!("2001:db8:{link}::2"))] {
            let client = address(is_v4, last);
            commands += &format!(
                "neigh replace {router} lladdr {mac} dev l{link} nud permanent\n\
                 route add {client} via {router} dev l{link} onlink\n"
            );
        }
    }
    // Nobody knows the MAC of this router.
    commands += "route add 192.0.2.13 via 203.0.113.101 dev l7 onlink\nroute add 2001:db8::d via 2001:db8:7::3 dev l7\n\
                 route add unreachable 192.0.2.14\nroute add unreachable 2001:db8::e\n";
    host.ip(&commands)
}

/// Whether frames arrive by this link.
pub(super) fn is_there(world: &World, link: (u32, MacBytes)) -> bool {
    (0..LINKS.len()).any(|place| world.is_there[place] && world.places[place] == link)
}

/// The link at this place, or another one if that is away.
pub(super) fn at(world: &World, place: usize) -> (u32, MacBytes) {
    let mut all = (0..LINKS.len()).map(|behind| (place + behind) % LINKS.len());
    world.places[all.find(|place| world.is_there[*place]).expect("one link is always there")]
}

/// A link goes, one comes back, or the agent is told to answer clients by the routes, or no longer.
pub(super) fn change(world: &mut World, random: &mut StdRng) {
    if random.random_ratio(1, 4) {
        world.returns_by_routes = !world.returns_by_routes;
        return;
    }
    let place = random.random_range(0..LINKS.len());
    if !world.is_there[place] {
        return come_back(world, place, random);
    }
    if world.is_there.iter().filter(|is_there| **is_there).count() == 1 {
        return;
    }
    world.is_there[place] = false;
    // For a while the agent still uses the last way to the backends there.
    if random.random_bool(0.5) {
        let link = world.places[place].0;
        let there = world.backends.values_mut().filter(|backend| backend.link == link);
        there.for_each(|backend| (backend.state, backend.mac) = (State::Draining, None));
    }
}

/// The link has another number, and perhaps another MAC; sometimes it was only unplugged.
fn come_back(world: &mut World, place: usize, random: &mut StdRng) {
    world.is_there[place] = true;
    if random.random_ratio(1, 4) {
        return;
    }
    let known = |number: &u32| world.places.iter().all(|(other, _)| other != number);
    let number = NEW_NUMBERS.filter(known).choose(random).expect("there are more numbers than links");
    let mac = if random.random_bool(0.5) { LINKS[place].1 } else { [2, 0, 0, 0, 3, place as u8] };
    // The one that the routes lead to.
    let new = if random.random_ratio(1, 3) { LINKS[place] } else { (number, mac) };
    let old = std::mem::replace(&mut world.places[place], new).0;
    if world.links.remove(&old).is_none() {
        return;
    }
    world.links.insert(new.0, new.1);
    for backend in world.backends.values_mut().filter(|backend| backend.link == old) {
        (backend.link, backend.from_mac) = new;
        if backend.mac.is_none() {
            (backend.state, backend.mac) = (State::Active, Some(BACKEND_MAC));
        }
    }
}
