// SPDX-License-Identifier: Apache-2.0
//! The machine's own address changes, as with a new DHCP lease. The connections to the API server come from it, too.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow};
use llb_tests::client;
use llb_tests::wait_until;
use serde_json::json;

use crate::case::{Case, ECHO_PORT};

/// Far less than the minute in which a connection without its address ends by itself.
const SOON: Duration = Duration::from_secs(30);

pub(crate) fn services_and_statuses_follow_the_own_address_at_once(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&[])?;
    let (own, new) = (case.balancer.ipv4(), case.vip(0));
    case.apply_service("echo", &json!({}))?;
    case.wait_for_status("echo", &[own.into()])?;

    case.balancer.ip(&format!("addr del {own}/24 dev eth0\naddr add {new}/24 dev eth0\n"))?;
    let follows = |name: &str, port: u16| {
        let wanted = BTreeSet::<IpAddr>::from([new]);
        wait_until(SOON, &format!("the status of {name}"), || {
            let published = case.published(name)?;
            if published == wanted { Ok(Some(())) } else { Err(anyhow!("{published:?}\n{}", agent.log())) }
        })?;
        let address = SocketAddr::new(new, port);
        wait_until(SOON, "an answer", || client::http_get(case.lab.client(), address).map(Some)).map(drop)
    };
    follows("echo", ECHO_PORT)?;
    // It is known only to watches that work.
    case.apply_service("later", &json!({"ports": [{"port": 8889, "targetPort": ECHO_PORT}]}))?;
    follows("later", 8889)?;
    let log = agent.log();
    assert!(log.contains("is no address of this machine any more; llb connects again"), "{log}");
    Ok(())
}
