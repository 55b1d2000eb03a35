// SPDX-License-Identifier: Apache-2.0
//! A plain map with the limits of a flow table. Which flows find room depends on where the others are, so a
//! real table beside it, in this process, decides that.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use llb_tests::FlowLines;

/// Entries that have a place in the table.
pub(crate) struct Placed<N, E> {
    entries: BTreeMap<N, E>,
    lines: FlowLines,
    /// The bytes of a name as a key of the programs' table.
    key: fn(&N) -> [u8; 24],
}

impl<N: Ord, E> Placed<N, E> {
    pub(crate) fn new(lines: u32, key: fn(&N) -> [u8; 24]) -> Self {
        Self { entries: BTreeMap::new(), lines: FlowLines::new(lines as usize), key }
    }

    /// `false` if there is no room for it.
    pub(crate) fn insert(&mut self, name: N, entry: E) -> bool {
        let has_room = self.lines.table::<[u8; 24], u64>().insert(&(self.key)(&name), &0);
        if has_room {
            self.entries.insert(name, entry);
        }
        has_room
    }

    pub(crate) fn remove(&mut self, name: &N) {
        self.lines.table::<[u8; 24], u64>().remove(&(self.key)(name));
        self.entries.remove(name);
    }

    pub(crate) fn get_mut(&mut self, name: &N) -> Option<&mut E> {
        self.entries.get_mut(name)
    }
}

impl<N, E> Deref for Placed<N, E> {
    type Target = BTreeMap<N, E>;

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl<N: fmt::Debug, E: fmt::Debug> fmt::Debug for Placed<N, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.fmt(f)
    }
}
