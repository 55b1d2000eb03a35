// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The contract between the agent and its eBPF programs: names, shapes and
//! sizes of everything that both sides read or write, and the choice of a
//! backend, which must be the same on both. `no_std`, no `unsafe`, no I/O, no
//! allocation; tested on the host.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod backend;
pub mod checksum;
pub mod conntrack;
pub mod counters;
pub mod flow_table;
pub mod frontend;
pub mod hash;
pub mod maglev;
pub mod maps;
pub mod notice;
pub mod parse;
pub mod programs;
pub mod reason;
pub mod settings;
pub mod sockmap;
pub mod time;
pub mod trace;
