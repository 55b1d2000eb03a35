// SPDX-License-Identifier: Apache-2.0
//! The sockets that the previous agent has passed on, until a frontend uses them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::Socket;

use super::role::Role;
use crate::model::Frontend;

/// A socket that takes traffic, on its way from one agent to the next.
#[derive(Debug)]
pub struct RelaySocket {
    /// Its frontend.
    pub frontend: Frontend,
    /// The packet plane serves the frontend, and the relay only the clients that no program sees.
    pub is_beside_packets: bool,
    /// The socket.
    pub socket: OwnedFd,
}

/// Inherited sockets by the frontend that they belong to.
#[derive(Debug, Default)]
pub(super) struct InheritedSockets(Mutex<BTreeMap<Frontend, (Role, Vec<Socket>)>>);

impl InheritedSockets {
    pub(super) fn add(&self, sockets: Vec<RelaySocket>) {
        let mut inherited = self.lock();
        for RelaySocket { frontend, is_beside_packets, socket } in sockets {
            let role = if is_beside_packets { Role::Beside } else { Role::Main };
            let (_, sockets) = inherited.entry(frontend).or_insert_with(|| (role, Vec::new()));
            sockets.push(socket.into());
        }
    }

    /// The role in which the previous agent had `frontend`, if it gave sockets of it.
    pub(super) fn role(&self, frontend: &Frontend) -> Option<Role> {
        self.lock().get(frontend).map(|(role, _)| *role)
    }

    /// Takes the sockets of `frontend`, if there are any.
    pub(super) fn take(&self, frontend: &Frontend) -> Option<Vec<Socket>> {
        self.lock().remove(frontend).map(|(_, sockets)| sockets)
    }

    /// Closes all that are left.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Frontend, (Role, Vec<Socket>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
