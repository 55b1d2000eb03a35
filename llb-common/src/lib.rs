//! The contract between the agent and its eBPF programs: names, shapes and
//! sizes of everything that both sides read or write. `no_std`, no `unsafe`,
//! no I/O; tested on the host.
#![no_std]

pub mod counters;
pub mod programs;
