// SPDX-License-Identifier: Apache-2.0
//! The sources that backends see, with the addresses of this machine that must be known to choose them. What is
//! chosen is decided in `sources.rs`.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::sources::{Asked, Sources};
use crate::clock;
use crate::netlink::{Connection, OwnAddress};

/// Addresses of this machine that were read within this time count as those of now.
const ADDRESSES_LIFETIME: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct OwnSources {
    sources: Sources,
    /// The addresses of this machine, and when they were read.
    here: Option<(Instant, Vec<OwnAddress>)>,
}

impl OwnSources {
    /// Begins with what an agent before this one has chosen.
    pub(super) fn restored(chosen: impl IntoIterator<Item = Asked>) -> Self {
        Self { sources: Sources::restored(chosen), here: None }
    }

    /// The address that a backend sees; `None` if none was chosen.
    pub(super) fn of(&self, backend: IpAddr) -> Option<IpAddr> {
        self.sources.of(backend)
    }

    /// Reads the addresses of this machine, if they must be known to follow these answers.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn read_for(&mut self, asked: &[Asked], connection: &mut Connection) -> io::Result<()> {
        let must_be_known = asked.iter().any(|asked| self.sources.needs_addresses(asked));
        let are_fresh = self.here.as_ref().is_some_and(|(read, _)| read.elapsed() < ADDRESSES_LIFETIME);
        if must_be_known && !are_fresh {
            let read = clock::now();
            self.here = Some((read, connection.own_addresses().await?));
        }
        Ok(())
    }

    /// Follows what the kernel says about each backend; `None`: there is no way to it.
    pub(super) fn follow(&mut self, answers: &[(IpAddr, Option<Asked>)]) {
        let here = self.here.as_ref().map_or(&[][..], |(_, here)| here);
        let now = clock::now();
        self.sources.follow(answers.iter().filter_map(|(_, asked)| *asked), here, now);
        let lost = answers.iter().filter(|(_, asked)| asked.is_none());
        self.sources.lost(lost.map(|(backend, _)| *backend), now);
    }

    /// Forgets all backends but these.
    pub(super) fn keep(&mut self, backends: &BTreeSet<IpAddr>) {
        self.sources.keep(backends);
    }
}
