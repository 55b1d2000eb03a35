// SPDX-License-Identifier: Apache-2.0
//! Errors of the Kubernetes client as text. No other code turns them into text.

use std::error::Error;
use std::fmt;

use kube::client::AuthError;

/// An error of the Kubernetes client. Shows the API server's answer, or what went wrong
/// before there was one. The client's own prefixes ("ServiceError: ") are left out.
#[derive(Debug)]
pub struct KubeError(Box<kube::Error>);

impl From<kube::Error> for KubeError {
    fn from(error: kube::Error) -> Self {
        Self(Box::new(error))
    }
}

/// The reason that the client gives an error whose body it cannot read.
const NO_STATUS: &str = "Failed to parse error data";

impl KubeError {
    /// Whether something else than a Kubernetes API has answered. An overloaded API server
    /// and a proxy before it also answer without a status, with 429 or 5xx.
    pub fn is_from_no_api(&self) -> bool {
        match &*self.0 {
            kube::Error::Api(answer) => answer.reason == NO_STATUS && answer.code < 500 && answer.code != 429,
            kube::Error::SerdeError(error) => is_no_json(error),
            _ => false,
        }
    }
}

/// Whether the text is not JSON from its first character on.
fn is_no_json(error: &serde_json::Error) -> bool {
    error.is_syntax() && error.line() == 1 && error.column() <= 2
}

impl fmt::Display for KubeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            kube::Error::Api(answer) if answer.message.is_empty() => {
                write!(f, "the API server answered {} {}", answer.code, answer.reason)
            }
            kube::Error::Api(answer) if answer.reason == NO_STATUS => {
                write!(f, "it answered HTTP {} without a Kubernetes status", answer.code)
            }
            kube::Error::Api(answer) => f.write_str(&answer.message),
            kube::Error::SerdeError(error) if is_no_json(error) => f.write_str("its answer is not JSON"),
            kube::Error::Auth(AuthError::AuthExecStart(_)) => {
                f.write_str("cannot run the command of the kubeconfig that gives the credentials (exec)")
            }
            kube::Error::Auth(AuthError::AuthExecRun { cmd, out }) => {
                let said = String::from_utf8_lossy(&out.stderr);
                write!(f, "{cmd} (exec in the kubeconfig) failed with {}: {}", out.status, said.trim())
            }
            kube::Error::Service(cause) => cause.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl Error for KubeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &*self.0 {
            kube::Error::Api(_) => None,
            kube::Error::SerdeError(error) if is_no_json(error) => None,
            kube::Error::Auth(AuthError::AuthExecStart(cause)) => Some(cause),
            kube::Error::Auth(AuthError::AuthExecRun { .. }) => None,
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

    #[test]
    fn an_answer_of_something_else_is_told_apart() {
        let html = |code| Status {
            message: "<html>".to_owned(),
            reason: NO_STATUS.to_owned(),
            code,
            ..Status::default()
        };
        let answer = |code| KubeError::from(kube::Error::Api(Box::new(html(code))));
        assert!(answer(404).is_from_no_api());
        assert!(!answer(429).is_from_no_api() && !answer(503).is_from_no_api());
        assert_eq!(answer(503).to_string(), "it answered HTTP 503 without a Kubernetes status");
        let json = |text| {
            KubeError::from(kube::Error::SerdeError(serde_json::from_str::<Status>(text).unwrap_err()))
        };
        assert!(json("<html>").is_from_no_api());
        assert_eq!(ErrorChain(&json("<html>")).to_string(), "its answer is not JSON");
        assert!(!json("{\"kind\": [").is_from_no_api());
    }

    #[test]
    fn a_command_for_credentials_is_named() {
        let missing = kube::Error::Auth(AuthError::AuthExecStart(io::Error::other("no such file")));
        let expected =
            "cannot run the command of the kubeconfig that gives the credentials (exec): no such file";
        assert_eq!(shown(missing), expected);
    }
}
