// SPDX-License-Identifier: Apache-2.0
//! One look at a cluster, for `llb-agent doctor`: whether its API answers, its clock, the rights of llb's user, and how
//! kube-proxy is set up. It writes nothing: the API server answers a SelfSubjectAccessReview and keeps none.

use std::pin::pin;
use std::time::{Duration, UNIX_EPOCH};

use futures::StreamExt;
use http::Request;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::Api;
use kube::api::PostParams;
use kube::client::Body;
use kube::runtime::watcher;

use super::cause::{Cause, cause_of};
use super::connect::Cluster;
use super::kube_proxy::KubeProxy;
use super::probe::in_time;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::kube_error::KubeError;

/// Questions at one time.
const AT_ONCE: usize = 8;
/// How long all questions about rights may take together.
const RIGHTS_LIMIT: Duration = Duration::from_secs(10);

/// A right to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// One verb.
    pub verb: &'static str,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// As in a role, so with a subresource: `services/status`.
    pub resource: &'static str,
    /// `None`: in the whole cluster.
    pub namespace: Option<String>,
    /// The only object; `None`: all.
    pub name: Option<String>,
    /// llb also works without it.
    pub is_optional: bool,
}

/// What a cluster has answered. Each text is an error with its causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Why no Kubernetes API answers, or refuses llb's user.
    pub refusal: Option<String>,
    /// By how many seconds this machine's clock is ahead of the API server's.
    pub clock_ahead: Option<i64>,
    /// The rights that llb's user lacks.
    pub missing: Vec<Right>,
    /// Why the rights could not be asked for.
    pub rights_unknown: Option<String>,
    /// `None` in it: there is no such ConfigMap, or it says nothing.
    pub kube_proxy: Result<Option<KubeProxy>, String>,
}

/// Asks the cluster.
pub async fn inspect(cluster: &Cluster, rights: Vec<Right>) -> Inspection {
    let (refusal, clock_ahead) = first_answer(cluster).await;
    let mut inspection = Inspection {
        refusal,
        clock_ahead,
        missing: Vec::new(),
        rights_unknown: None,
        kube_proxy: Err("the API server was not asked".to_owned()),
    };
    if inspection.refusal.is_some() {
        return inspection;
    }
    let questions = rights.into_iter().map(|right| async move { (is_allowed(cluster, &right).await, right) });
    let mut answers = pin!(futures::stream::iter(questions).buffered(AT_ONCE));
    let end = clock::now() + RIGHTS_LIMIT;
    loop {
        let Ok(next) = tokio::time::timeout_at(end, answers.next()).await else {
            inspection.rights_unknown = Some(format!("no answers within {} s", RIGHTS_LIMIT.as_secs()));
            break;
        };
        let Some((answer, right)) = next else { break };
        match answer {
            Ok(true) => {}
            Ok(false) => inspection.missing.push(right),
            Err(error) => inspection.rights_unknown = Some(text(error)),
        }
    }
    inspection.kube_proxy = kube_proxy(cluster).await;
    inspection
}

/// Why the API does not answer, if it does not; and by how much this machine's clock is ahead of the API server's.
async fn first_answer(cluster: &Cluster) -> (Option<String>, Option<i64>) {
    let refusal = |error| {
        let cause = cause_of("anything", watcher::Error::InitialListFailed(error), &cluster.server(), false);
        match cause {
            Cause::Outage(text) | Cause::Refusal(text) => Some(text),
        }
    };
    let request = match Request::get("/version").body(Body::empty()) {
        Ok(request) => request,
        Err(error) => return (refusal(kube::Error::HttpError(error)), None),
    };
    let answer = match in_time(cluster.client.send(request)).await {
        Ok(answer) => answer,
        Err(error) => return (refusal(error), None),
    };
    let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let ahead = date.and_then(seconds_of).map(|theirs| own_seconds() - theirs);
    // Everybody may ask for the version. This says whether the API is one, and knows llb's user.
    match in_time(super::probe::ask_for_identity(&cluster.client)).await {
        Ok(_) => (None, ahead),
        Err(kube::Error::Api(status)) if status.code == 403 => (None, ahead),
        Err(error) => (refusal(error), ahead),
    }
}

/// The seconds since 1970 of an HTTP date (RFC 9110 section 5.6.7).
fn seconds_of(date: &str) -> Option<i64> {
    rfc2822::DateTimeParser::new().parse_timestamp(date).ok().map(|time| time.as_second())
}

fn own_seconds() -> i64 {
    clock::time_of_day().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64)
}

async fn is_allowed(cluster: &Cluster, right: &Right) -> Result<bool, kube::Error> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    let attributes = ResourceAttributes {
        verb: Some(right.verb.to_owned()),
        group: Some(right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        namespace: right.namespace.clone(),
        name: right.name.clone(),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec {
        resource_attributes: Some(attributes),
        ..SelfSubjectAccessReviewSpec::default()
    };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let answer = in_time(api.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// From the ConfigMap that kubeadm writes.
async fn kube_proxy(cluster: &Cluster) -> Result<Option<KubeProxy>, String> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kube-system");
    let map = in_time(api.get_opt("kube-proxy")).await.map_err(text)?;
    let data = map.and_then(|map| map.data).unwrap_or_default();
    data.get("config.conf").map(|content| KubeProxy::parse(content)).transpose()
}

fn text(error: kube::Error) -> String {
    ErrorChain(&KubeError::from(error)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read() {
        assert_eq!(seconds_of("Thu, 01 Jan 1970 00:01:40 GMT"), Some(100));
        assert_eq!(seconds_of("yesterday"), None);
    }
}
