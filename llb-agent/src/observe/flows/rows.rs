// SPDX-License-Identifier: Apache-2.0
//! The rows of flows, as JSON has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{FlowEnds, FlowState, Frontend};
use crate::observe::ServiceRow;

/// A list of flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The first ones, by VIP, port, client.
    pub flows: Vec<FlowRow>,
    /// How many more there are.
    pub more: u64,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// ADDRESS:PORT.
    pub client: String,
    /// VIP:PORT/PROTOCOL.
    pub frontend: String,
    /// NAMESPACE/NAME; `None`: not known.
    pub service: Option<String>,
    /// ADDRESS:PORT.
    pub backend: String,
    /// Seconds since the last packet.
    pub idle_seconds: u32,
    /// Where it is in its life.
    pub state: FlowState,
}

/// The number of flows by client, backend and Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSummary {
    /// All of them.
    pub flows: u64,
    /// By client, those with the most flows first.
    pub clients: Vec<CountRow>,
    /// How many more clients there are.
    pub more_clients: u64,
    /// Flows of clients that are not counted separately, because there are too many.
    pub flows_of_uncounted_clients: u64,
    /// By backend.
    pub backends: Vec<CountRow>,
    /// How many more backends have flows.
    pub more_backends: u64,
    /// By Service; by VIP:PORT/PROTOCOL if the Service is not known.
    pub services: Vec<CountRow>,
    /// How many more Services have flows.
    pub more_services: u64,
}

/// The number of flows of one client, backend or Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountRow {
    /// Its name.
    pub name: String,
    /// How many.
    pub flows: u64,
}

/// The names of Services by their frontends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(BTreeMap<Frontend, String>);

impl Names {
    /// Those of the API's rows.
    pub(crate) fn of(services: &[ServiceRow]) -> Self {
        let rows = services.iter().flat_map(|service| {
            let name = format!("{}/{}", service.namespace, service.name);
            service.frontends.iter().map(move |row| (row, name.clone()))
        });
        Self(rows.filter_map(|(row, name)| Some((Frontend::named(&row.frontend)?, name))).collect())
    }

    /// The Service of a frontend.
    pub(crate) fn get(&self, frontend: &Frontend) -> Option<&str> {
        self.0.get(frontend).map(String::as_str)
    }

    /// All frontends that have a name.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = Frontend> {
        self.0.keys().copied()
    }
}

impl FlowRow {
    pub(crate) fn new(ends: &FlowEnds, (idle_seconds, state): (u32, FlowState), names: &Names) -> Self {
        Self {
            client: ends.client.to_string(),
            frontend: ends.frontend.to_string(),
            service: names.get(&ends.frontend).map(str::to_owned),
            backend: ends.backend.to_string(),
            idle_seconds,
            state,
        }
    }
}
