// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The contract between the agent and its eBPF programs: names, layouts and sizes of everything that both
//! sides read or write, and the algorithms that must be the same on both, such as the choice of a backend.
//! `no_std`, no `unsafe`, no I/O, no allocation; tested on the host.
//!
//! Keys, values and events of maps have a fixed layout (`repr(C)` or `repr(transparent)`) without hidden
//! padding. Numbers are in native byte order, addresses and ports as in packets. Fields called `padding` must
//! be zeros, because the kernel compares keys byte by byte.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod backend;
pub mod checksum;
pub mod conntrack;
pub mod counters;
pub mod early;
pub mod flow_table;
pub mod frontend;
pub mod hash;
pub mod life_cycle;
pub mod maglev;
pub mod maps;
pub mod notice;
pub mod parse;
pub mod port_holder;
pub mod programs;
pub mod reason;
pub mod settings;
pub mod sockmap;
pub mod time;
pub mod trace;
