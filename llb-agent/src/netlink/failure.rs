// SPDX-License-Identifier: Apache-2.0
//! Why a question to the kernel has no complete answer.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::DecodeError;

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The kernel answered with an error number. The connection is fine.
    #[error("the kernel refused the request")]
    Refused(#[source] io::Error),
    #[error("the netlink socket failed")]
    Socket(#[source] io::Error),
    #[error("the kernel did not answer within {limit:?}")]
    TimedOut { limit: Duration },
    #[error("the kernel's answer was cut off in the middle of a message")]
    CutOff,
    #[error("the kernel's answer ended too early")]
    EndedEarly,
    #[error("messages of the kernel's answer were lost")]
    Lost,
    #[error("a message of type {message_type} in the kernel's answer cannot be decoded")]
    Undecodable {
        message_type: u16,
        #[source]
        source: DecodeError,
    },
}

/// Only the kernel's refusal has an error number ([`io::Error::raw_os_error`]),
/// so that no caller mistakes a failed connection for an answer.
impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure {
            Failure::Refused(source) => return source,
            Failure::Socket(ref source) => source.kind(),
            Failure::TimedOut { .. } => io::ErrorKind::TimedOut,
            Failure::EndedEarly => io::ErrorKind::UnexpectedEof,
            Failure::CutOff | Failure::Lost | Failure::Undecodable { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, failure)
    }
}
