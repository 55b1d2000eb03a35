// SPDX-License-Identifier: Apache-2.0
//! Carries out events, and puts back what they changed. It decides nothing.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use llb_tests::chaos::Event;
use llb_tests::{Agent, Host};

use super::network::{Network, OTHER_SOURCE, OTHER_SOURCE_V6, by_the_other_link};
use super::way::vips;
use crate::setup::{NODES, Setup};

/// MTU of a narrow link: more than the least of IPv6.
const NARROW: u32 = 1300;
const WIDE: u32 = 1500;

/// MAC addresses that are locally administered, and nobody's.
const NEW_MAC: &str = "02:00:5e:00:53:99";

/// The hand that does it.
pub(super) struct Hand<'a> {
    pub(super) setup: &'a mut Setup,
    pub(super) network: &'a Network,
    /// Agents that others have taken over from, and which may still have connections.
    pub(super) old: &'a mut Vec<Agent>,
}

impl Hand<'_> {
    pub(super) fn begin(&mut self, event: Event) -> Result<()> {
        let node = self.setup.lab.host(NODES[0]).clone();
        let (lab, network) = (&self.setup.lab, self.network);
        let (balancer, client, gateway) = (lab.balancer(), lab.client(), &network.gateway);
        match event {
            Event::BalancerForgetsNeighbours => forget_neighbours(balancer),
            Event::ClientForgetsNeighbours => forget_neighbours(client),
            Event::NodeForgetsNeighbours => forget_neighbours(&node),
            Event::GatewayForgetsNeighbours => forget_neighbours(gateway),
            Event::BalancerLosesCarrier => balancer.unplug(),
            Event::ClientLosesCarrier => client.unplug(),
            Event::NodeLosesCarrier => node.unplug(),
            Event::AllNodesLoseCarrier => {
                NODES.iter().try_for_each(|node| lab.host(node).unplug())?;
                gateway.unplug()
            }
            Event::GatewayAway => gateway.unplug(),
            Event::VipsRemoved => self.remove_vips(),
            Event::OwnAddressesAway => {
                let (v4, v6) = (balancer.ipv4(), balancer.ipv6());
                balancer.ip(&format!("addr del {v4}/24 dev eth0\naddr del {v6}/64 dev eth0\n"))
            }
            Event::NodeChangesMac => node.ip(&format!("link set eth0 address {NEW_MAC}\n")),
            Event::GatewayChangesMac => gateway.ip(&format!("link set eth0 address {NEW_MAC}\n")),
            Event::FarLinkIsNarrow => self.set_far_mtu(NARROW),
            Event::BalancerLinkIsNarrow => balancer.ip(&format!("link set eth0 mtu {NARROW}\n")),
            Event::RouteChangesGateway => {
                let (v4, v6) = (network.other_gateway.ipv4(), network.other_gateway.ipv6());
                let (own, own_v6) = (balancer.ipv4(), balancer.ipv6());
                let route = format!("via {v4} dev eth0 src {own}");
                network.route_to_far(lab, &route, &format!("via {v6} dev eth0 src {own_v6}"))
            }
            Event::RouteChangesLink => {
                let [v4, v6] = by_the_other_link();
                network.route_to_far(lab, &v4, &v6)
            }
            Event::SourceChanges => network.prefer_source(lab, OTHER_SOURCE, OTHER_SOURCE_V6),
            Event::AgentKilled => self.setup.agent.process().kill9(),
            Event::AgentHandsOver => self.hand_over(),
            Event::FramesLost => self.filter(
                "table bridge chaos { chain lose { type filter hook forward priority 0; \
                 numgen random mod 5 == 0 drop; }; }",
            ),
            Event::FramesDoubled => self.filter(
                "table netdev chaos { chain double { type filter hook ingress \
                 devices = { \"client\", \"node-1\", \"node-2\" } priority 0; \
                 numgen random mod 5 == 0 dup to \"balancer\"; }; }",
            ),
            Event::LinkReplaced => {
                balancer.replace_link()?;
                network.restore_balancer(lab)
            }
        }
    }

    pub(super) fn end(&mut self, event: Event) -> Result<()> {
        let node = self.setup.lab.host(NODES[0]).clone();
        let (lab, network) = (&self.setup.lab, self.network);
        let (balancer, client, gateway) = (lab.balancer(), lab.client(), &network.gateway);
        match event {
            Event::BalancerForgetsNeighbours
            | Event::ClientForgetsNeighbours
            | Event::NodeForgetsNeighbours
            | Event::GatewayForgetsNeighbours
            | Event::LinkReplaced
            | Event::AgentHandsOver
            | Event::VipsRemoved => Ok(()),
            Event::BalancerLosesCarrier => balancer.plug_in(),
            Event::ClientLosesCarrier => client.plug_in(),
            Event::NodeLosesCarrier => node.plug_in(),
            Event::AllNodesLoseCarrier => {
                NODES.iter().try_for_each(|node| lab.host(node).plug_in())?;
                gateway.plug_in()
            }
            Event::GatewayAway => gateway.plug_in(),
            Event::OwnAddressesAway
            | Event::RouteChangesGateway
            | Event::RouteChangesLink
            | Event::SourceChanges => network.restore_balancer(lab),
            Event::NodeChangesMac => restore_mac(&node),
            Event::GatewayChangesMac => restore_mac(gateway),
            Event::FarLinkIsNarrow => self.set_far_mtu(WIDE),
            Event::BalancerLinkIsNarrow => balancer.ip(&format!("link set eth0 mtu {WIDE}\n")),
            Event::AgentKilled => {
                self.setup.spawn_agent();
                Ok(())
            }
            Event::FramesLost => self.filter("delete table bridge chaos"),
            Event::FramesDoubled => self.filter("delete table netdev chaos"),
        }
    }

    /// The running agent must not have ended by itself.
    pub(super) fn check_agent(&mut self) -> Result<()> {
        let status = self.setup.agent.process().exit_status()?;
        ensure!(status.is_none(), "the agent has ended: {status:?}\n{}", self.setup.agent.log());
        Ok(())
    }

    fn remove_vips(&self) -> Result<()> {
        let balancer = self.setup.lab.balancer();
        let addresses = balancer.addresses()?;
        for vip in vips(self.setup) {
            // It may be away already.
            if let Some(one) = addresses.iter().find(|one| one.starts_with(&format!("{vip}/"))) {
                balancer.ip(&format!("addr del {one} dev eth0\n"))?;
            }
        }
        Ok(())
    }

    fn set_far_mtu(&self, mtu: u32) -> Result<()> {
        self.network.gateway.ip(&format!("link set r-near mtu {mtu}\n"))?;
        self.network.far.ip(&format!("link set near mtu {mtu}\n"))
    }

    /// A new agent starts. One that has just begun can't hand over, so nothing happens then.
    fn hand_over(&mut self) -> Result<()> {
        if self.setup.agent.listens()? {
            let old = self.setup.succeed_agent_at_once();
            self.old.push(old);
        }
        self.old.retain_mut(|agent| !matches!(agent.process().exit_status(), Ok(Some(_))));
        Ok(())
    }

    fn filter(&self, rules: &str) -> Result<()> {
        let output = self.setup.lab.inside_segment(|| Command::new("nft").arg(rules).output())?;
        let output = output.context("cannot start nft; it is part of the package nftables")?;
        ensure!(output.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn forget_neighbours(host: &Host) -> Result<()> {
    host.ip("neigh flush dev eth0\n")
}

fn restore_mac(host: &Host) -> Result<()> {
    let mac = host.mac().map(|byte| format!("{byte:02x}")).join(":");
    host.ip(&format!("link set eth0 address {mac}\n"))
}
