// SPDX-License-Identifier: Apache-2.0
//! Counts flows by client, by backend and by frontend.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::rows::{CountRow, FlowSummary, Names};
use crate::model::{FlowEnds, Frontend};

/// The most clients that are counted separately, in about 20 MB. Flows of further ones are counted together, and the
/// summary says so.
pub const CLIENTS_COUNTED: usize = 262_144;

/// The number of flows of each client, backend and frontend.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    flows: u64,
    clients: HashMap<IpAddr, u64>,
    of_uncounted: u64,
    backends: BTreeMap<SocketAddr, u64>,
    frontends: BTreeMap<Frontend, u64>,
}

impl Counts {
    /// Counts one more flow.
    pub(crate) fn add(&mut self, ends: &FlowEnds) {
        let client = ends.client.ip();
        self.flows += 1;
        if self.clients.len() < CLIENTS_COUNTED || self.clients.contains_key(&client) {
            *self.clients.entry(client).or_default() += 1;
        } else {
            self.of_uncounted += 1;
        }
        *self.backends.entry(ends.backend).or_default() += 1;
        *self.frontends.entry(ends.frontend).or_default() += 1;
    }

    /// At most `limit` rows of each kind.
    pub(crate) fn summary(self, names: &Names, limit: usize) -> FlowSummary {
        let mut services: BTreeMap<String, u64> = BTreeMap::new();
        for (frontend, flows) in &self.frontends {
            let name = names.get(frontend).map_or_else(|| frontend.to_string(), str::to_owned);
            *services.entry(name).or_default() += flows;
        }
        let (clients, more_clients) = most(self.clients, limit);
        let (backends, more_backends) = most(self.backends, limit);
        let (services, more_services) = most(services, limit);
        FlowSummary {
            flows: self.flows,
            clients,
            more_clients,
            flows_of_uncounted_clients: self.of_uncounted,
            backends,
            more_backends,
            services,
            more_services,
        }
    }
}

/// Those with the most flows, and how many others there are. Those with the same number are ordered by name.
fn most<K: Ord + ToString>(counts: impl IntoIterator<Item = (K, u64)>, limit: usize) -> (Vec<CountRow>, u64) {
    let mut counts: Vec<(K, u64)> = counts.into_iter().collect();
    counts.sort_unstable_by(|(name, flows), (other, others)| {
        (Reverse(flows), name).cmp(&(Reverse(others), other))
    });
    let more = counts.len().saturating_sub(limit) as u64;
    let rows = counts.into_iter().take(limit).map(|(name, flows)| CountRow { name: name.to_string(), flows });
    (rows.collect(), more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{FrontendRow, ServiceRow, Standing};

    fn ends(client: u8, vip_port: u16, backend: u8) -> FlowEnds {
        FlowEnds {
            frontend: Frontend::named(&format!("192.0.2.100:{vip_port}/TCP")).unwrap(),
            client: ([198, 51, 100, client], 40_000).into(),
            backend: ([192, 0, 2, backend], 30_080).into(),
        }
    }

    #[test]
    fn a_summary_has_the_largest_first_and_says_what_is_left_out() {
        let row = FrontendRow {
            frontend: "192.0.2.100:80/TCP".to_owned(),
            standing: Standing::Serving,
            link: None,
            published: true,
            plane: None,
            mode: None,
            why: String::new(),
            traffic: None,
            backends: Vec::new(),
        };
        let web = ServiceRow {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            frontends: vec![row],
            problems: Vec::new(),
        };
        let mut counts = Counts::default();
        for flow in [ends(1, 80, 31), ends(2, 80, 32), ends(2, 81, 32), ends(3, 80, 31)] {
            counts.add(&flow);
        }
        let summary = counts.summary(&Names::of(&[web]), 2);
        let rows = |rows: &[CountRow]| -> Vec<(String, u64)> {
            rows.iter().map(|row| (row.name.clone(), row.flows)).collect()
        };
        let named = |name: &str, flows| (name.to_owned(), flows);
        assert_eq!(summary.flows, 4);
        assert_eq!(rows(&summary.clients), [named("198.51.100.2", 2), named("198.51.100.1", 1)]);
        assert_eq!(summary.more_clients, 1);
        assert_eq!(rows(&summary.backends), [named("192.0.2.31:30080", 2), named("192.0.2.32:30080", 2)]);
        assert_eq!(rows(&summary.services), [named("default/web", 3), named("192.0.2.100:81/TCP", 1)]);
        assert_eq!((summary.more_backends, summary.more_services), (0, 0));
    }

    #[test]
    fn clients_beyond_the_limit_are_counted_together() {
        let mut counts = Counts::default();
        for number in 0..CLIENTS_COUNTED as u32 + 10 {
            let client = IpAddr::from(number.to_be_bytes());
            counts.add(&FlowEnds { client: (client, 1).into(), ..ends(1, 80, 31) });
        }
        counts.add(&FlowEnds { client: ([0, 0, 0, 0], 2).into(), ..ends(1, 80, 31) });
        let summary = counts.summary(&Names::default(), 1);
        assert_eq!(summary.flows, CLIENTS_COUNTED as u64 + 11);
        assert_eq!(summary.flows_of_uncounted_clients, 10);
        assert_eq!((summary.clients[0].name.as_str(), summary.clients[0].flows), ("0.0.0.0", 2));
    }
}
