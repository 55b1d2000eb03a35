// SPDX-License-Identifier: Apache-2.0
//! The architectures that are shipped, and what each tool calls them.

use std::fmt;

use clap::ValueEnum;

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Architecture {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Architecture {
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The architecture of this machine, if llb is shipped for it.
    pub(crate) fn of_this_machine() -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.rpm() == std::env::consts::ARCH)
    }

    /// rustc's name.
    pub(super) fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }

    /// The name in packages of rpm. The kernel's name too.
    pub(super) fn rpm(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The name in images, and in packages of Debian.
    pub(super) fn oci(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The C compiler for the few files of `ring` that are written in C. It links nothing.
    pub(super) fn c_compiler(self) -> &'static str {
        match self {
            Self::X86_64 => "musl-gcc",
            Self::Aarch64 => "aarch64-linux-gnu-gcc",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rpm())
    }
}
