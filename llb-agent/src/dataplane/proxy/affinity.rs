// SPDX-License-Identifier: Apache-2.0
//! Who had which backend: the memory behind sessionAffinity ClientIP, for all
//! Services of a plane. It remembers the backend's address without the port, so
//! that it holds across the ports of a Service. Pure: the time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::frontend::FrontendContext;
use super::selection::{Chosen, Wanted};
use crate::model::{Backend, Rule, ServiceName};

/// Clients that are remembered, of all Services together: about 16 MB. One more,
/// and the one that was away longest is forgotten; it is balanced anew.
const MOST_CLIENTS: usize = 65_536;

/// The next backend for `client` by the rule, its affinity included, that is
/// not in `tried`. `None`: all were tried.
pub(super) fn choose(
    context: &FrontendContext,
    rule: &Arc<Rule>,
    client: SocketAddr,
    tried: &[Backend],
    now: Instant,
) -> Option<Chosen> {
    let select = |preferred| {
        let wanted = Wanted { client, preferred, tried };
        context.selection.next(rule, wanted, now)
    };
    match rule.terms.affinity_timeout {
        Some(timeout) => context.plane.affinity.keep((&rule.service, client.ip()), timeout, now, select),
        None => select(None),
    }
}

/// The memory.
#[derive(Debug)]
pub(super) struct Affinity {
    most_clients: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clients: HashMap<Key, Memory>,
    /// By last use: the first is the next to be forgotten.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
}

type Key = (ServiceName, IpAddr);

#[derive(Debug)]
struct Memory {
    backend: IpAddr,
    used: Instant,
    /// In `by_use`.
    use_number: u64,
}

impl Default for Affinity {
    fn default() -> Self {
        Self { most_clients: MOST_CLIENTS, state: Mutex::default() }
    }
}

impl Affinity {
    /// Lets `select` choose a backend for `client`, and remembers which. It is
    /// told the one that the client had, if that was less than `timeout` ago.
    ///
    /// One step for all threads: a browser that comes with six connections at
    /// once must not get six backends.
    fn keep(
        &self,
        (service, client): (&ServiceName, IpAddr),
        timeout: Duration,
        now: Instant,
        select: impl FnOnce(Option<IpAddr>) -> Option<Chosen>,
    ) -> Option<Chosen> {
        let mut state = self.lock();
        let key = (service.clone(), client);
        let chosen = select(state.recall(&key, timeout, now))?;
        state.remember(key, chosen.backend.address.ip(), now);
        while state.clients.len() > self.most_clients
            && let Some((_, oldest)) = state.by_use.pop_first()
        {
            state.clients.remove(&oldest);
        }
        Some(chosen)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn recall(&self, key: &Key, timeout: Duration, now: Instant) -> Option<IpAddr> {
        let memory = self.clients.get(key)?;
        (now < memory.used + timeout).then_some(memory.backend)
    }

    fn remember(&mut self, key: Key, backend: IpAddr, used: Instant) {
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        let memory = Memory { backend, used, use_number: self.uses };
        if let Some(before) = self.clients.insert(key, memory) {
            self.by_use.remove(&before.use_number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::selection::Selection;
    use super::super::traffic::Traffic;
    use super::*;
    use crate::model::{Frontend, Port, Protocol, Terms, Weight};

    const TIMEOUT: Duration = Duration::from_secs(600);

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_client_is_remembered_until_the_timeout_after_its_last_use() {
        let (mut state, start) = (State::default(), Instant::now());
        let web = (ServiceName::new("default", "web"), ip(1));
        state.remember(web.clone(), ip(101), start);
        let just_before = TIMEOUT - Duration::from_nanos(1);
        assert_eq!(state.recall(&web, TIMEOUT, start + just_before), Some(ip(101)));
        assert_eq!(state.recall(&web, TIMEOUT, start + TIMEOUT), None);
        let sooner = TIMEOUT / 2;
        assert_eq!(state.recall(&web, sooner, start + sooner), None, "a shorter one counts at once");
        let other_client = (web.0.clone(), ip(2));
        assert_eq!(state.recall(&other_client, TIMEOUT, start), None);
        let other_service = (ServiceName::new("default", "dns"), ip(1));
        assert_eq!(state.recall(&other_service, TIMEOUT, start), None);

        state.remember(web.clone(), ip(102), start + sooner);
        assert_eq!(state.recall(&web, TIMEOUT, start + TIMEOUT), Some(ip(102)), "refreshed by use");
    }

    #[test]
    fn of_too_many_the_one_that_was_away_longest_is_forgotten() {
        let affinity = Affinity { most_clients: 2, ..Affinity::default() };
        let (web, now) = (ServiceName::new("default", "web"), Instant::now());
        let backends = [(Backend { address: (ip(100), 80).into() }, Weight::MIN)].into();
        let rule = Arc::new(Rule::new(web.clone(), backends, Terms::default()));
        let frontend = Frontend { vip: ip(9), port: Port::new(80).unwrap(), protocol: Protocol::Tcp };
        let selection = Selection::new(frontend, Traffic::default());
        for client in [1, 2, 1, 3].map(ip) {
            let chosen = affinity.keep((&web, client), TIMEOUT, now, |preferred| {
                let wanted = Wanted { client: (client, 1).into(), preferred, tried: &[] };
                selection.next(&rule, wanted, now)
            });
            assert!(chosen.is_some());
        }
        let state = affinity.lock();
        let known = [1, 2, 3].map(|client| state.clients.contains_key(&(web.clone(), ip(client))));
        assert_eq!(known, [true, false, true]);
        assert_eq!((state.clients.len(), state.by_use.len()), (2, 2));
    }
}
