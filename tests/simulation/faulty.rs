// SPDX-License-Identifier: Apache-2.0
//! The fakes of plane, links and statuses with faults: a call fails before it
//! does anything, or does everything and then reports failure, or leaves out a
//! part of the answer.
//!
//! A green run does not prove that the loop survives every answer of a kernel.
//! Two kinds of wrong answer are missing here, because the real rooms promise
//! never to give them: a list of links without the machine's own addresses or
//! without a link that exists (a dump is complete or an error; the loop would ask
//! to add an address of the machine), and a plane that says that it serves a
//! frontend and does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use llb_agent::addresses::fake::FakeAddresses;
use llb_agent::addresses::{Addition, AddressError, AddressTable};
use llb_agent::dataplane::fake::FakePlane;
use llb_agent::dataplane::{DataPlane, DataPlaneError};
use llb_agent::model::{
    AddressKey, FailedBackends, Frontend, FrontendStatus, Host, Link, Mac, PublishedStatus, Rule,
    ServiceName, Snapshot,
};
use llb_agent::status::fake::FakeStatuses;
use llb_agent::status::{Effect, Event, StatusError, StatusOrder, StatusSink};

use super::faults::{Fault, Faults};

fn broken() -> io::Error {
    io::Error::other("failed on purpose")
}

// === Plane ===

pub(crate) struct FaultyPlane {
    pub(crate) inner: FakePlane,
    pub(crate) faults: Faults,
}

impl DataPlane for FaultyPlane {
    fn observe(&mut self) -> BTreeMap<Frontend, FrontendStatus> {
        self.inner.observe()
    }

    async fn upsert(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        let failure = || DataPlaneError::Bind { frontend, source: broken() };
        if self.faults.strikes(Fault::UpsertFrontendFails) {
            return Err(failure());
        }
        self.inner.upsert(frontend, rule).await?;
        if self.faults.strikes(Fault::UpsertFrontendReportsFailure) {
            return Err(failure());
        }
        Ok(())
    }

    fn failed_backends(&mut self) -> FailedBackends {
        self.inner.failed_backends()
    }

    fn remove(&mut self, frontend: &Frontend) {
        if !self.faults.strikes(Fault::RemoveFrontendFails) {
            self.inner.remove(frontend);
        }
    }
}

// === Links ===

pub(crate) struct FaultyAddresses {
    pub(crate) inner: FakeAddresses,
    pub(crate) faults: Faults,
}

impl AddressTable for FaultyAddresses {
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError> {
        if self.faults.strikes(Fault::ObserveLinksFails) {
            return Err(AddressError::Read(broken()));
        }
        let mut links = self.inner.observe().await?;
        let has_ours = links.iter().any(|link| link.addresses.iter().any(|known| known.ours));
        if has_ours && self.faults.strikes(Fault::ObserveLinksIsIncomplete) {
            // The first of ours, the third, and so on.
            let mut is_missing = false;
            for link in &mut links {
                link.addresses.retain(|known| {
                    is_missing = known.ours && !is_missing;
                    !is_missing
                });
            }
        }
        Ok(links)
    }

    async fn host(&mut self, pods: BTreeSet<IpAddr>) -> Result<Host, AddressError> {
        self.inner.host(pods).await
    }

    async fn probe(&mut self, key: &AddressKey) -> Result<Addition, AddressError> {
        if self.faults.strikes(Fault::ProbeFails) {
            return Err(AddressError::Refused { verb: "probe for", key: key.clone(), source: broken() });
        }
        self.inner.probe(key).await
    }

    fn is_free(&self, key: &AddressKey) -> bool {
        self.inner.is_free(key)
    }

    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<Addition, AddressError> {
        let failure = || AddressError::Refused { verb: "add", key: key.clone(), source: broken() };
        if self.faults.strikes(Fault::AddAddressFails) {
            return Err(failure());
        }
        let added = self.inner.add(key, prefix_length).await?;
        if added == Addition::Done && self.faults.strikes(Fault::AddAddressReportsFailure) {
            return Err(failure());
        }
        Ok(added)
    }

    async fn remove(&mut self, key: &AddressKey, prefix_length: u8) -> Result<(), AddressError> {
        let failure = || AddressError::Refused { verb: "remove", key: key.clone(), source: broken() };
        if self.faults.strikes(Fault::RemoveAddressFails) {
            return Err(failure());
        }
        self.inner.remove(key, prefix_length).await?;
        if self.faults.strikes(Fault::RemoveAddressReportsFailure) {
            return Err(failure());
        }
        Ok(())
    }

    fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        self.inner.conflicts()
    }
}

// === Statuses ===

#[derive(Clone)]
pub(crate) struct FaultyStatuses {
    pub(crate) inner: FakeStatuses,
    pub(crate) faults: Faults,
}

impl StatusSink for FaultyStatuses {
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus> {
        self.inner.observe(snapshot)
    }

    async fn write(&self, order: StatusOrder) -> Result<Effect, StatusError> {
        if self.faults.strikes(Fault::WriteStatusFails) {
            return Err(StatusError::Injected);
        }
        let service = order.service.clone();
        let effect = self.inner.write(order).await?;
        if self.faults.strikes(Fault::WriteStatusReportsFailure) {
            return Err(StatusError::TimedOut { service });
        }
        Ok(effect)
    }

    async fn record(&self, event: Event) {
        self.inner.record(event).await;
    }
}
