// SPDX-License-Identifier: Apache-2.0
//! What the questions over HTTP/1 and HTTP/2 share.

use crate::model::Failure;

/// How llb names itself to backends.
pub(super) const NAME: &str = concat!("llb/", env!("CARGO_PKG_VERSION"));

/// What came of a question that is asked on an open connection.
pub(super) type Answer = Result<(), Failure>;

/// Waits for the answer, while the connection does its work.
pub(super) async fn drive<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let (mut connection, mut answer) = (std::pin::pin!(connection), std::pin::pin!(answer));
    let mut has_ended = false;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            // The answer is there, or an error.
            _ = &mut connection, if !has_ended => has_ended = true,
        }
    }
}
