// SPDX-License-Identifier: Apache-2.0
//! What users can rely on, on every plane. Each scenario builds its own lab, so they can run at the same time.

pub(crate) mod answers;
pub(crate) mod changes;
pub(crate) mod chaos;
pub(crate) mod crash;
pub(crate) mod dead_backends;
pub(crate) mod flows;
pub(crate) mod handover;
pub(crate) mod health;
pub(crate) mod life;
pub(crate) mod memory;
pub(crate) mod observed;
pub(crate) mod other_clients;
pub(crate) mod packets;
pub(crate) mod reload;
pub(crate) mod replacement;
pub(crate) mod rights;
pub(crate) mod soak;
pub(crate) mod sockmap;
pub(crate) mod tenant;
pub(crate) mod terms;
pub(crate) mod traffic;
pub(crate) mod trouble;
pub(crate) mod vips;
