// SPDX-License-Identifier: Apache-2.0
//! Why the kernel can't move the bytes of any connection, or of one connection.

use std::io;

use super::btf::KERNEL_BTF;

/// Why the kernel can't move bytes.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum SockmapError {
    #[error("it was not asked for")]
    NotWanted,
    #[error("this agent was built without eBPF programs; run cargo xtask build-ebpf, then build it again")]
    NotBuilt,
    #[error("{0}")]
    KnownTrouble(String),
    #[error("missing rights: {0}; run it as root, or grant them")]
    MissingRights(String),
    #[error("cannot read the kernel's type information ({KERNEL_BTF})")]
    NoBtf {
        #[source]
        source: io::Error,
    },
    #[error("this kernel has no {field}")]
    NoField { field: &'static str },
    #[error("the eBPF object has no {name}")]
    NotInObject { name: &'static str },
    #[error("cannot load the eBPF object, which needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Load(#[from] aya::EbpfError),
    #[error("cannot load an eBPF program, which needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Program(#[from] aya::programs::ProgramError),
    #[error("cannot use an eBPF map")]
    Map(#[from] aya::maps::MapError),
    #[error("cannot get the cookie of a socket")]
    Cookie(#[from] rustix::io::Errno),
    #[error("a socket has an error")]
    SocketLost(#[from] io::Error),
    #[error("bytes were lost between the two sockets")]
    BytesLost,
    #[error("a socket was not found in its map")]
    NotInMap,
    #[error("the self-test failed: {step}")]
    SelfTest {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot watch pairs of sockets")]
    Watch(#[source] io::Error),
}
