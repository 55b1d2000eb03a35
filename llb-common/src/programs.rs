// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Names of the programs in the object `packet`. `bpftool prog` shows their first 15 characters.

/// The entry point at the XDP hook.
pub const XDP_PROGRAM: &str = "llb_xdp";

/// The entry point at the TC ingress hook.
pub const TC_INGRESS_PROGRAM: &str = "llb_tc_ingress";
