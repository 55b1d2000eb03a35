// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The names of the programs in the object `packet`. The kernel shows them in
//! `bpftool prog`, cut to 15 characters.

/// The XDP entry point.
pub const XDP_PROGRAM: &str = "llb_xdp";

/// The entry point at the TC ingress hook.
pub const TC_INGRESS_PROGRAM: &str = "llb_tc_ingress";
