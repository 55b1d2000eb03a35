// SPDX-License-Identifier: Apache-2.0
//! VIPs on real links: what the kernel makes of them, and that llb never touches foreign addresses.
//! `announcing.rs`: what neighbours hear. `conflicts.rs`: other hosts with the same address. `host.rs`: gateways. `watching.rs`:
//! links and addresses that others change. `state_file.rs`: tags in a file. `table.rs`: the table under test.
//! `segment.rs`: the links.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod announcing;
mod conflicts;
mod host;
mod segment;
mod state_file;
mod table;
mod watching;

use std::path::Path;
use std::sync::Arc;

use llb_agent::addresses::{AddressError, AddressTable, AgentLocks, NetlinkAddresses};
use llb_agent::config::AddressTag;
use llb_agent::model::{AddressKey, Family, LinkAddress};
use llb_tests::wait::wait_until_async;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;

use segment::{
    LIMIT, LINK, NEIGHBOUR, OWN, Segment, VIPS, add_foreign, ip, key, routes, set_sysctl, shown, tag,
};
use table::{NO_STATE_DIR, add, kernel_table, observed};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_vip_is_added_once_and_removed_once() {
    Segment::run(async |_| {
        let mut table = kernel_table();
        let routes_before = routes();
        for (vip, length) in VIPS {
            let key = key(vip);
            add(&mut table, &key, length).await.unwrap();
            let expected =
                LinkAddress { net: format!("{vip}/{length}").parse().unwrap(), ours: true, primary: false };
            assert_eq!(observed(&mut table, vip).await, Some(expected));
            let info = shown(vip).unwrap();
            assert_eq!(tag(vip).await, Some(0x6c));
            assert_eq!(info["scope"], "global", "{info}");

            add(&mut table, &key, length).await.unwrap();
            assert_eq!(shown(vip), Some(info), "a second add changes nothing");
            assert_eq!(routes(), routes_before, "a VIP brings no route");
            assert!(observed(&mut kernel_table(), vip).await.unwrap().ours, "after a restart, too");
        }

        let link = table.observe().await.unwrap().remove(0);
        for (family, own) in [(Family::V4, OWN[0]), (Family::V6, OWN[1])] {
            let own: ipnet::IpNet = own.parse().unwrap();
            assert_eq!(link.primary_address(family), Some(own.addr()));
        }

        for (vip, length) in VIPS {
            table.remove(&key(vip), length).await.unwrap();
            assert_eq!(shown(vip), None);
            table.remove(&key(vip), length).await.unwrap();
        }
        assert_eq!(routes(), routes_before);
        assert!(OWN.iter().all(|own| shown(own.split('/').next().unwrap()).is_some()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_foreign_address_is_never_touched() {
    Segment::run(async |_| {
        let mut table = kernel_table();
        for (vip, length) in VIPS {
            for other_tag in [None, Some(4), Some(0xff)] {
                add_foreign(vip, length, other_tag).await;
                assert_eq!(tag(vip).await, other_tag);
                // Duplicate address detection takes some time even if it is off.
                wait_until_async(LIMIT, "the end of duplicate address detection", async || {
                    Ok(shown(vip).unwrap().get("tentative").is_none().then_some(()))
                })
                .await
                .unwrap();
                let before = shown(vip).unwrap();
                add(&mut table, &key(vip), length).await.unwrap();
                assert!(!observed(&mut table, vip).await.unwrap().ours);
                table.remove(&key(vip), length).await.unwrap();
                add(&mut table, &key(vip), length - 1).await.unwrap();
                assert_eq!(shown(vip), Some(before));
                assert_eq!(tag(vip).await, other_tag);
                ip(&format!("addr del {vip}/{length} dev {LINK}"));
            }
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn another_prefix_length_replaces_the_vip() {
    Segment::run(async |_| {
        let mut table = kernel_table();
        for (vip, length) in VIPS {
            add(&mut table, &key(vip), length).await.unwrap();
            add(&mut table, &key(vip), length + 1).await.unwrap();
            let links = table.observe().await.unwrap();
            let lengths: Vec<u8> = links[0]
                .addresses
                .iter()
                .filter(|known| known.net.addr() == key(vip).address)
                .map(|known| known.net.prefix_len())
                .collect();
            assert_eq!(lengths, [length + 1]);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_hosts_own_address_can_be_replaced_under_a_vip() {
    Segment::run(async |_| {
        set_sysctl("ipv4/conf/all/promote_secondaries", "1");
        let mut table = kernel_table();
        let (vip, length) = VIPS[0];
        add(&mut table, &key(vip), length).await.unwrap();
        ip(&format!("addr del {} dev {LINK}", OWN[0]));
        ip(&format!("addr add {} dev {LINK}", OWN[0]));
        assert!(observed(&mut table, vip).await.unwrap().primary, "the VIP was promoted");
        assert!(ip("-4 route").contains("192.0.2.0/24"), "the host keeps its subnet");

        table.remove(&key(vip), length).await.unwrap();
        assert_eq!(shown(vip), None);
        assert!(ip("-4 route").contains("192.0.2.0/24"), "the host keeps its subnet");
        assert!(shown("192.0.2.9").is_some(), "and its address");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_vip_on_which_foreign_addresses_depend_stays() {
    Segment::run(async |_| {
        set_sysctl("ipv4/conf/all/promote_secondaries", "0");
        set_sysctl(&format!("ipv4/conf/{LINK}/promote_secondaries"), "0");
        ip(&format!("addr del {} dev {LINK}", OWN[0]));
        let mut table = kernel_table();
        let (vip, length) = VIPS[0];
        add(&mut table, &key(vip), length).await.unwrap();
        ip(&format!("addr add {} dev {LINK}", OWN[0]));
        let error = table.remove(&key(vip), length).await.unwrap_err();
        assert!(matches!(error, AddressError::TakesOthers { .. }), "{error}");
        assert!(error.to_string().contains("net.ipv4.conf.vip0.promote_secondaries=1"), "{error}");
        assert!(shown("192.0.2.9").is_some());

        set_sysctl(&format!("ipv4/conf/{LINK}/promote_secondaries"), "1");
        table.remove(&key(vip), length).await.unwrap();
        assert_eq!(shown(vip), None);
        assert!(shown("192.0.2.9").is_some());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_new_vip_accepts_connections_at_once_and_is_not_used_as_source() {
    Segment::run(async |segment| {
        // With duplicate address detection, an address would stay tentative here for seconds.
        set_sysctl(&format!("ipv6/conf/{LINK}/accept_dad"), "1");
        set_sysctl(&format!("ipv6/conf/{LINK}/dad_transmits"), "10");
        ip(&format!("addr add 2001:db8::77/64 dev {LINK}"));
        assert_eq!(shown("2001:db8::77").unwrap()["tentative"], true);
        let mut table = kernel_table();
        for ((vip, length), neighbour) in VIPS.into_iter().zip(NEIGHBOUR) {
            let vip_address = key(vip).address;
            add(&mut table, &key(vip), length).await.unwrap();
            let info = shown(vip).unwrap();
            if vip_address.is_ipv6() {
                assert_eq!(info.get("tentative"), None, "{info}");
                assert_eq!(info["deprecated"], true, "{info}");
                assert_eq!(info["nodad"], true, "{info}");
                assert_eq!(info["noprefixroute"], true, "{info}");
            }
            let listener = TcpListener::bind((vip_address, 0)).await.unwrap();
            let at = listener.local_addr().unwrap();
            let socket = segment.at_neighbour(|| match vip_address.is_ipv4() {
                true => tokio::net::TcpSocket::new_v4().unwrap(),
                false => tokio::net::TcpSocket::new_v6().unwrap(),
            });
            let client: TcpStream = socket.connect(at).await.unwrap();
            let (_, peer) = listener.accept().await.unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            assert_eq!(client.peer_addr().unwrap().ip(), vip_address);

            let neighbour: ipnet::IpNet = neighbour.parse().unwrap();
            let source =
                UdpSocket::bind((if vip_address.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).await.unwrap();
            source.connect((neighbour.addr(), 9)).await.unwrap();
            let own: ipnet::IpNet = OWN[usize::from(vip_address.is_ipv6())].parse().unwrap();
            assert_eq!(source.local_addr().unwrap().ip(), own.addr(), "not the VIP");
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_may_come_and_go() {
    Segment::run(async |_| {
        let names = ["a-name-that-no-link-can-have", "late0", LINK].map(str::to_owned);
        let changed = Arc::new(Notify::new());
        let mut table =
            NetlinkAddresses::new(names.into(), AddressTag::Auto, NO_STATE_DIR.into(), Arc::clone(&changed))
                .unwrap();
        let late = AddressKey { link: "late0".to_owned(), address: key(VIPS[0].0).address };
        assert_eq!(names_of(&mut table).await, [LINK]);
        let error = add(&mut table, &late, 24).await.unwrap_err();
        assert!(matches!(error, AddressError::NoSuchLink { .. }), "{error}");
        table.remove(&late, 24).await.unwrap();

        ip("link add late0 type veth peer name late1");
        changed.notified().await;
        assert_eq!(names_of(&mut table).await, ["late0", LINK]);
        add(&mut table, &late, 24).await.unwrap();
        changed.notified().await;
        assert!(table.observe().await.unwrap()[0].addresses[0].ours);

        ip("link del late0");
        while names_of(&mut table).await != [LINK] {
            changed.notified().await;
        }
        table.remove(&late, 24).await.unwrap();
    });
}

async fn names_of(table: &mut NetlinkAddresses) -> Vec<String> {
    table.observe().await.unwrap().into_iter().map(|link| link.name).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_kind_of_change_on_a_configured_link_is_noticed() {
    Segment::run(async |_| {
        let changed = Arc::new(Notify::new());
        let _table = NetlinkAddresses::new(
            vec![LINK.to_owned()],
            AddressTag::Auto,
            NO_STATE_DIR.into(),
            Arc::clone(&changed),
        );
        for change in [
            "addr add 192.0.2.77/24 dev vip0",
            "addr del 192.0.2.77/24 dev vip0",
            "addr add 2001:db8::77/64 dev vip0 nodad",
            "addr del 2001:db8::77/64 dev vip0",
            "link set vip0 mtu 1400",
        ] {
            quiet(&changed).await;
            ip(change);
            changed.notified().await;
        }
        quiet(&changed).await;
        ip("link add other0 type veth peer name other1");
        ip("addr add 198.51.100.1/24 dev other0");
        let other = tokio::time::timeout(std::time::Duration::from_millis(500), changed.notified()).await;
        assert!(other.is_err(), "another link is of no interest");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn one_agent_has_a_link_that_is_made_again() {
    Segment::run(async |_| {
        let names = ["late0".to_owned(), LINK.to_owned()];
        let mut table =
            NetlinkAddresses::new(names.to_vec(), AddressTag::Auto, NO_STATE_DIR.into(), Arc::default())
                .unwrap();
        ip("link add late0 index 70 type veth peer name late1");
        table.keep_others_off(AgentLocks::take(&names, Path::new("/first")).await.unwrap());
        assert_eq!(names_of(&mut table).await, ["late0", LINK]);
        let refused = AgentLocks::take(&names[..1], Path::new("/second")).await.unwrap_err();
        assert!(refused.to_string().contains("--state-dir \"/first\") has link late0"), "{refused}");

        // Another agent is faster than this one.
        ip("link del late0");
        assert_eq!(names_of(&mut table).await, [LINK]);
        ip("link add late0 index 71 type veth peer name late1");
        let other = AgentLocks::take(&names[..1], Path::new("/second")).await.unwrap();
        assert_eq!(names_of(&mut table).await, [LINK]);
        let problem = table.problems().remove(0).to_string();
        assert!(problem.starts_with("link late0: LinkBusy: another llb-agent (pid"), "{problem}");
        let key = AddressKey { link: "late0".to_owned(), address: key(VIPS[0].0).address };
        let error = add(&mut table, &key, 24).await.unwrap_err();
        assert!(matches!(error, AddressError::NoSuchLink { .. }), "{error}");

        drop(other);
        wait_until_async(LIMIT, "the link to be used", async || {
            Ok((names_of(&mut table).await == ["late0", LINK]).then_some(()))
        })
        .await
        .unwrap();
        assert!(table.problems().is_empty());
    });
}

/// Returns when no change was noticed for a while.
async fn quiet(changed: &Notify) {
    while tokio::time::timeout(std::time::Duration::from_millis(200), changed.notified()).await.is_ok() {}
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_say_what_to_do() {
    Segment::run(async |_| {
        set_sysctl(&format!("ipv6/conf/{LINK}/disable_ipv6"), "1");
        let mut table = kernel_table();
        let error = add(&mut table, &key(VIPS[1].0), VIPS[1].1).await.unwrap_err();
        assert!(matches!(error, AddressError::Ipv6Disabled { .. }), "{error:?}");
        let error = add(&mut table, &key(VIPS[0].0), 33).await.unwrap_err();
        assert!(matches!(error, AddressError::Refused { .. }), "{error:?}");

        let (vip, length) = VIPS[0];
        add(&mut table, &key(vip), length).await.unwrap();
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
        set_capabilities(None, sets).unwrap();
        let mut table = kernel_table(); // Without announcements, but it works.
        assert!(observed(&mut table, vip).await.unwrap().ours);
        for error in [
            add(&mut table, &key("192.0.2.6"), length).await.unwrap_err(),
            table.remove(&key(vip), length).await.unwrap_err(),
        ] {
            assert!(matches!(error, AddressError::NotPermitted { .. }), "{error:?}");
        }
        assert!(shown(vip).is_some());
    });
}
