// SPDX-License-Identifier: Apache-2.0
//! The sockets that the previous agent has passed on, until a frontend uses them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::Socket;

use crate::model::Frontend;

/// Inherited sockets by the frontend that they belong to.
#[derive(Debug, Default)]
pub(super) struct InheritedSockets(Mutex<BTreeMap<Frontend, Vec<Socket>>>);

impl InheritedSockets {
    pub(super) fn add(&self, sockets: Vec<(Frontend, OwnedFd)>) {
        let mut inherited = self.lock();
        for (frontend, socket) in sockets {
            inherited.entry(frontend).or_default().push(socket.into());
        }
    }

    pub(super) fn contains(&self, frontend: &Frontend) -> bool {
        self.lock().contains_key(frontend)
    }

    /// Takes the sockets of `frontend`, if there are any.
    pub(super) fn take(&self, frontend: &Frontend) -> Option<Vec<Socket>> {
        self.lock().remove(frontend)
    }

    /// Closes all that are left.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Frontend, Vec<Socket>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
