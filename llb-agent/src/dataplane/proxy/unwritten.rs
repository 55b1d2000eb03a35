// SPDX-License-Identifier: Apache-2.0
//! Bytes that one direction has read from its source and not yet written to its
//! target: in memory of their own, or in a pipe.

use std::io;

use rustix::net::SendFlags;
use tokio::net::TcpStream;

use super::pipe::Pipe;

/// Read and not yet written.
#[derive(Debug, Default)]
pub(super) enum Unwritten {
    #[default]
    Nothing,
    Bytes {
        all: Box<[u8]>,
        written: usize,
    },
    Pipe(Pipe),
}

impl Unwritten {
    /// A copy of `bytes`.
    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        Self::Bytes { all: bytes.into(), written: 0 }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Writes once. Becomes `Nothing` with the last byte.
    pub(super) fn write(&mut self, to: &TcpStream) -> io::Result<usize> {
        let (moved, is_empty) = match self {
            Self::Nothing => return Ok(0),
            Self::Bytes { all, written } => {
                let moved = send(to, &all[*written..])?;
                *written += moved;
                (moved, *written == all.len())
            }
            Self::Pipe(pipe) => {
                let moved = pipe.drain(to)?;
                (moved, pipe.level() == 0)
            }
        };
        if is_empty {
            *self = Self::Nothing;
        }
        Ok(moved)
    }
}

/// Writes once, without a signal if the peer is gone.
pub(super) fn send(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(to, bytes, SendFlags::NOSIGNAL)?)
}
