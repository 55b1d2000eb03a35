// SPDX-License-Identifier: Apache-2.0
//! The orders for this box (`llb-agent drain`, `undrain`, `move`), in a file that the commands write and the agent reads. So an
//! order outlives the agent. A second file, which the agent writes, tells the commands the group.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::PeersError;
use crate::ownership::Orders;
use crate::statefile;

const ORDERS: &str = "orders";
/// The lock by which commands that run at the same time change the orders one after the other.
const ORDERS_LOCK: &str = "orders.lock";
const IDENTITY: &str = "group";

/// The group of a box, as its agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name of the group.
    pub group: String,
    /// The name of this box.
    pub member: String,
    /// The names of all boxes, this one too.
    pub members: BTreeSet<String>,
}

impl Identity {
    /// Tells the commands.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), PeersError> {
        write(folder, IDENTITY, self)
    }

    /// What the agent with this state folder has told. `None`: it has never been in a group.
    ///
    /// # Errors
    /// The file can't be read or understood.
    pub fn read(folder: &Path) -> Result<Option<Self>, PeersError> {
        read(folder, IDENTITY)
    }
}

/// Changes the orders for the agent with this state folder, whether it runs or not. Nothing is written if `change` fails.
/// Orders that can't be understood are set aside.
///
/// # Errors
/// That of `change`, or the file can't be written.
pub fn change_orders<T, E: From<PeersError>>(
    folder: &Path,
    change: impl FnOnce(Orders) -> Result<(Orders, T), E>,
) -> Result<T, E> {
    let path = folder.join(ORDERS_LOCK);
    let locked = File::create(&path).and_then(|file| file.lock().map(|()| file));
    // Until the end of this function.
    let _lock = locked.map_err(|source| PeersError { verb: "lock", path, source })?;
    let (orders, told) = change(take_orders(folder))?;
    write(folder, ORDERS, &orders)?;
    Ok(told)
}

/// The orders now, for an agent that already has some: an error leaves those in place.
///
/// # Errors
/// The file can't be read or understood.
pub fn read_orders(folder: &Path) -> Result<Orders, PeersError> {
    Ok(read(folder, ORDERS)?.unwrap_or_default())
}

/// The orders now, for a process that has none yet: orders that can't be read or understood are logged, set aside and ignored.
pub fn take_orders(folder: &Path) -> Orders {
    statefile::read_or_set_aside(&folder.join(ORDERS)).unwrap_or_default()
}

fn write(folder: &Path, name: &str, content: &impl Serialize) -> Result<(), PeersError> {
    let path = folder.join(name);
    statefile::write(&path, content).map_err(|source| PeersError { verb: "write", path, source })
}

/// `None`: there is no file.
fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, PeersError> {
    let path = folder.join(name);
    let read = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
    };
    read.map(Some).map_err(|source| PeersError { verb: "read", path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_the_group_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(read_orders(path).unwrap(), Orders::default());
        assert_eq!(Identity::read(path).unwrap(), None);
        let orders = Orders { drained: true, moved: [(3, "box-b".to_owned())].into() };
        change_orders(path, |_| Ok::<_, PeersError>((orders.clone(), ()))).unwrap();
        assert_eq!(read_orders(path).unwrap(), orders);
        let members = ["box-a", "box-b"].map(str::to_owned).into();
        let identity = Identity { group: "edge".to_owned(), member: "box-a".to_owned(), members };
        identity.write(path).unwrap();
        assert_eq!(Identity::read(path).unwrap(), Some(identity));
        fs::write(path.join(ORDERS), "{").unwrap();
        assert!(read_orders(path).is_err());
        assert_eq!(take_orders(path), Orders::default());
        assert!(path.join("orders.unreadable").exists());
        assert_eq!(read_orders(path).unwrap(), Orders::default());
    }

    #[test]
    fn orders_that_are_given_at_the_same_time_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let give = &|share: u8| {
            let add = |mut orders: Orders| {
                orders.moved.insert(share, "box-b".to_owned());
                Ok::<_, PeersError>((orders, ()))
            };
            change_orders(folder.path(), add).unwrap();
        };
        std::thread::scope(|scope| {
            (0..16).for_each(|share| drop(scope.spawn(move || give(share))));
        });
        assert_eq!(read_orders(folder.path()).unwrap().moved.len(), 16);
    }
}
