// SPDX-License-Identifier: Apache-2.0
//! Errors of the Kubernetes client as text. No other code turns them into text.

use std::error::Error;
use std::fmt;

/// An error of the Kubernetes client. Shows the API server's answer, or what went wrong
/// before there was one. The client's own prefixes ("ServiceError: ") are left out.
#[derive(Debug)]
pub struct KubeError(Box<kube::Error>);

impl From<kube::Error> for KubeError {
    fn from(error: kube::Error) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for KubeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            kube::Error::Api(answer) if answer.message.is_empty() => {
                write!(f, "the API server answered {} {}", answer.code, answer.reason)
            }
            kube::Error::Api(answer) => f.write_str(&answer.message),
            kube::Error::Service(cause) => cause.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl Error for KubeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &*self.0 {
            kube::Error::Api(_) => None,
            kube::Error::Service(cause) => cause.source(),
            other => other.source(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use kube::core::Status;

    use super::*;
    use crate::error_chain::ErrorChain;

    fn shown(error: kube::Error) -> String {
        ErrorChain(&KubeError::from(error)).to_string()
    }

    #[test]
    fn an_answer_is_shown_as_the_server_wrote_it() {
        let mut status = Status { message: "nodes is forbidden".to_owned(), code: 403, ..Status::default() };
        assert_eq!(shown(kube::Error::Api(Box::new(status.clone()))), "nodes is forbidden");
        (status.message, status.reason) = (String::new(), "Forbidden".to_owned());
        assert_eq!(shown(kube::Error::Api(Box::new(status))), "the API server answered 403 Forbidden");
    }

    #[test]
    fn a_failure_has_all_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect")]
        struct Connect(#[source] io::Error);
        let cause = Connect(io::Error::other("no route"));
        assert_eq!(shown(kube::Error::Service(Box::new(cause))), "cannot connect: no route");
        assert_eq!(
            shown(kube::Error::ReadEvents(io::Error::other("cut off"))),
            "Error reading events stream: cut off"
        );
    }
}
