// SPDX-License-Identifier: Apache-2.0
//! Remembers which backend each client had, for sessionAffinity ClientIP, for
//! all Services of a plane. It keeps the backend's address without the port, so
//! affinity holds across the ports of a Service. Pure: the time is an argument.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::selection::Chosen;
use crate::model::ServiceName;

/// Clients that are remembered, of all Services together. Beyond this, the
/// client that was away longest is forgotten and balanced anew.
const MOST_CLIENTS: usize = 65_536;

/// The backend that each client had last.
#[derive(Debug)]
pub(super) struct Affinity {
    most_clients: usize,
    clients: Mutex<Clients>,
}

/// Grows as needed, unlike a cache with a capacity, which takes its memory at once.
#[derive(Debug)]
struct Clients(LruCache<Client, LastBackend>);

type Client = (ServiceName, IpAddr);

#[derive(Debug)]
struct LastBackend {
    address: IpAddr,
    used: Instant,
}

impl Default for Affinity {
    fn default() -> Self {
        Self { most_clients: MOST_CLIENTS, clients: Mutex::new(Clients(LruCache::unbounded())) }
    }
}

impl Affinity {
    /// Lets `select` choose a backend for `client`, and remembers which. `select`
    /// gets the backend that the client had less than `timeout` ago.
    ///
    /// The lock is held all the time: a browser that opens six connections at
    /// once must not get six backends.
    pub(super) fn keep(
        &self,
        (service, client): (&ServiceName, IpAddr),
        timeout: Duration,
        now: Instant,
        select: impl FnOnce(Option<IpAddr>) -> Option<Chosen>,
    ) -> Option<Chosen> {
        let mut clients = self.lock();
        let client = (service.clone(), client);
        let chosen = select(clients.recall(&client, timeout, now))?;
        clients.remember(client, chosen.backend.address.ip(), now);
        while clients.0.len() > self.most_clients {
            clients.0.pop_lru();
        }
        Some(chosen)
    }

    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    fn recall(&self, client: &Client, timeout: Duration, now: Instant) -> Option<IpAddr> {
        let last = self.0.peek(client)?;
        (now < last.used + timeout).then_some(last.address)
    }

    fn remember(&mut self, client: Client, address: IpAddr, used: Instant) {
        self.0.put(client, LastBackend { address, used });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::selection::{Criteria, Selection};
    use super::super::traffic::Traffic;
    use super::*;
    use crate::clock;
    use crate::model::{Backend, Frontend, Port, Protocol, Rule, Terms, Weight};

    const TIMEOUT: Duration = Duration::from_secs(600);

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_client_is_remembered_until_the_timeout_after_its_last_use() {
        let (mut clients, start) = (Clients(LruCache::unbounded()), clock::now());
        let web = (ServiceName::new("default", "web"), ip(1));
        clients.remember(web.clone(), ip(101), start);
        let just_before = TIMEOUT - Duration::from_nanos(1);
        assert_eq!(clients.recall(&web, TIMEOUT, start + just_before), Some(ip(101)));
        assert_eq!(clients.recall(&web, TIMEOUT, start + TIMEOUT), None);
        let sooner = TIMEOUT / 2;
        assert_eq!(clients.recall(&web, sooner, start + sooner), None, "a shorter time-out counts at once");
        let other_client = (web.0.clone(), ip(2));
        assert_eq!(clients.recall(&other_client, TIMEOUT, start), None);
        let other_service = (ServiceName::new("default", "dns"), ip(1));
        assert_eq!(clients.recall(&other_service, TIMEOUT, start), None);

        clients.remember(web.clone(), ip(102), start + sooner);
        assert_eq!(clients.recall(&web, TIMEOUT, start + TIMEOUT), Some(ip(102)), "refreshed by use");
    }

    #[test]
    fn beyond_the_limit_the_client_that_was_away_longest_is_forgotten() {
        let affinity = Affinity { most_clients: 2, ..Affinity::default() };
        let (web, now) = (ServiceName::new("default", "web"), clock::now());
        let backends = [(Backend { address: (ip(100), 80).into() }, Weight::MIN)].into();
        let rule = Arc::new(Rule::new(web.clone(), backends, Terms::default()));
        let frontend = Frontend { vip: ip(9), port: Port::new(80).unwrap(), protocol: Protocol::Tcp };
        let selection = Selection::new(frontend, Traffic::default());
        for client in [1, 2, 1, 3].map(ip) {
            let chosen = affinity.keep((&web, client), TIMEOUT, now, |preferred| {
                let criteria = Criteria { client: (client, 1).into(), preferred, tried: &[] };
                selection.next(&rule, criteria, now)
            });
            assert!(chosen.is_some());
        }
        let clients = affinity.lock();
        let known = [1, 2, 3].map(|client| clients.0.contains(&(web.clone(), ip(client))));
        assert_eq!(known, [true, false, true]);
        assert_eq!(clients.0.len(), 2);
    }
}
