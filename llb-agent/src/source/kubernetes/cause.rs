// SPDX-License-Identifier: Apache-2.0
//! Why a watch failed: what is said about it, and what to do.

use kube::runtime::watcher;

use crate::error_chain::ErrorChain;
use crate::kube_error::KubeError;

/// The API server, for messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) url: String,
    /// Which CA its certificate is checked against.
    pub(super) ca: String,
}

/// Why a watch failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// No Kubernetes API answers, whatever is asked for.
    Outage(String),
    /// The API server refuses this request, or its answer makes no sense.
    Refusal(String),
}

/// `worked`: the same watch has worked before.
pub(super) fn cause_of(what: &str, error: watcher::Error, server: &Server, worked: bool) -> Cause {
    let (verb, error) = match error {
        watcher::Error::InitialListFailed(error) => ("list", error),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => ("watch", error),
        watcher::Error::WatchError(status) => ("watch", kube::Error::Api(status)),
        error @ watcher::Error::NoResourceVersion => {
            return Cause::Refusal(format!("cannot watch {what}: {error}"));
        }
    };
    let code = match &error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    };
    let is_garbled = matches!(&error, kube::Error::SerdeError(_));
    let error = KubeError::from(error);
    let (text, url) = (ErrorChain(&error).to_string(), &server.url);
    if error.is_from_no_api() {
        return Cause::Outage(format!(
            "no Kubernetes API answers at {url}: {text}; check the server of the kubeconfig"
        ));
    }
    match code {
        Some(401) => Cause::Refusal(format!(
            "cannot {verb} {what}: the API server does not accept the credentials ({text}); renew the token or certificate of the kubeconfig"
        )),
        Some(403) if worked => Cause::Refusal(format!(
            "cannot {verb} {what}: {text}; it was allowed before: an API server that has just started refuses it until it has read \
             its roles; if this lasts longer than a minute, somebody took the verbs list and watch from llb's user \
             (`llb-agent rbac` prints all rights)"
        )),
        Some(403) => Cause::Refusal(format!(
            "cannot {verb} {what}: {text}; grant llb's user the verbs list and watch on them (`llb-agent rbac` prints all rights), \
             unless the API server has just started: until it has read its roles, it refuses everybody"
        )),
        Some(_) => Cause::Refusal(format!("cannot {verb} {what}: {text}")),
        None if is_garbled => Cause::Refusal(format!("cannot read {what}: {text}")),
        None => match text.split_once(UNTRUSTED) {
            Some((_, why)) => Cause::Outage(format!(
                "the certificate of {url} is not trusted: {}; it was checked against {}; check certificate-authority-data in the kubeconfig",
                short(why),
                server.ca
            )),
            None => Cause::Outage(format!("{url} does not answer: {text}")),
        },
    }
}

/// Whether other credentials or another CA could help: the API server does not accept the credentials, or one side
/// does not accept the other's certificate.
pub(super) fn concerns_credentials(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error)
    | watcher::Error::WatchStartFailed(error)
    | watcher::Error::WatchFailed(error)) = error
    else {
        return false;
    };
    match error {
        kube::Error::Api(status) => status.code == 401,
        other => {
            let text = ErrorChain(other).to_string();
            text.contains(UNTRUSTED) || text.contains(ALERT)
        }
    }
}

/// How rustls begins its errors about an alert of the other side, which may concern the client's certificate.
const ALERT: &str = "received fatal alert: ";

/// How rustls begins its errors about the other side's certificate. Its type is hidden in
/// an `io::Error`, and another version of rustls would be another type.
const UNTRUSTED: &str = "invalid peer certificate: ";

/// The reason without the types that rustls wraps some of its reasons in.
fn short(why: &str) -> &str {
    let inner = why.strip_prefix("Other(OtherError(").and_then(|inner| inner.split(')').next());
    inner.unwrap_or(why)
}

#[cfg(test)]
mod tests {
    use std::io;

    use kube::core::Status;

    use super::*;

    fn server() -> Server {
        Server {
            url: "https://192.0.2.1:6443/".to_owned(),
            ca: "certificate-authority-data of cluster c".to_owned(),
        }
    }

    fn of(error: kube::Error, worked: bool) -> Cause {
        cause_of("nodes", watcher::Error::InitialListFailed(error), &server(), worked)
    }

    fn api(code: u16, message: &str, reason: &str) -> kube::Error {
        let (message, reason) = (message.to_owned(), reason.to_owned());
        kube::Error::Api(Box::new(Status { code, message, reason, ..Status::default() }))
    }

    fn service(text: &str) -> kube::Error {
        kube::Error::Service(Box::new(io::Error::other(text)))
    }

    #[test]
    fn an_outage_names_the_server_and_the_cause() {
        for (error, expected) in [
            (service("connection refused"), "https://192.0.2.1:6443/ does not answer: connection refused"),
            (
                api(404, "<html>not here</html>", "Failed to parse error data"),
                "no Kubernetes API answers at https://192.0.2.1:6443/: it answered HTTP 404 without a Kubernetes status; \
                 check the server of the kubeconfig",
            ),
            (
                kube::Error::SerdeError(serde_json::from_str::<Status>("<html>").unwrap_err()),
                "no Kubernetes API answers at https://192.0.2.1:6443/: its answer is not JSON; check the server of the kubeconfig",
            ),
            (
                service("client error (Connect): invalid peer certificate: UnknownIssuer"),
                "the certificate of https://192.0.2.1:6443/ is not trusted: UnknownIssuer; it was checked against \
                 certificate-authority-data of cluster c; check certificate-authority-data in the kubeconfig",
            ),
            (
                service("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))"),
                "the certificate of https://192.0.2.1:6443/ is not trusted: CaUsedAsEndEntity; it was checked against \
                 certificate-authority-data of cluster c; check certificate-authority-data in the kubeconfig",
            ),
        ] {
            assert_eq!(of(error, false), Cause::Outage(expected.to_owned()));
        }
    }

    #[test]
    fn errors_that_other_credentials_could_end_are_recognized() {
        let concerns = |error| concerns_credentials(&watcher::Error::InitialListFailed(error));
        assert!(concerns(api(401, "Unauthorized", "Unauthorized")));
        assert!(concerns(service("received fatal alert: CertificateExpired")));
        assert!(concerns(service("client error (Connect): invalid peer certificate: UnknownIssuer")));
        assert!(!concerns(api(403, "forbidden", "Forbidden")) && !concerns(service("connection refused")));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (error, worked, said) in [
            (api(401, "Unauthorized", "Unauthorized"), true, "renew the token or certificate"),
            (api(403, "nodes is forbidden", "Forbidden"), false, "grant llb's user the verbs list and watch"),
            (
                api(403, "nodes is forbidden", "Forbidden"),
                true,
                "it was allowed before: an API server that has just started",
            ),
            (api(500, "etcdserver: leader changed", "InternalError"), true, "cannot list nodes: etcdserver"),
        ] {
            let Cause::Refusal(message) = of(error, worked) else { panic!("{said}") };
            assert!(message.contains(said), "{message}");
            assert!(!worked || !message.contains("grant"), "{message}");
        }
    }
}
