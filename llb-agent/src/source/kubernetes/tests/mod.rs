// SPDX-License-Identifier: Apache-2.0
//! Connections, proxies, renewed credentials and the probe, with real sockets.

mod server;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::runtime::watcher;
use tokio::sync::watch;
use tokio::time::timeout;

use super::configuration::Variables;
use super::connect::{Cluster, connect};
use super::health::Health;
use super::probe::{Probe, ask_for_identity};
use super::reload::Reloader;
use super::timeouts::RENEWAL_INTERVAL;
use crate::clock;
use server::{Server, failure, kube_system};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Writes a kubeconfig for this server, with this token and these further lines of the cluster.
fn write(folder: &Path, server: &str, token: &str, more: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{server}'{more}}}}}]\n\
         users: [{{name: u, user: {{token: {token}}}}}]\n"
    );
    std::fs::write(folder.join("kubeconfig"), text).unwrap();
}

async fn cluster(folder: &Path) -> Cluster {
    connect(Some(&folder.join("kubeconfig")), None, Variables::default()).await.unwrap()
}

fn health(cluster: &Cluster) -> Arc<Health> {
    Arc::new(Health::new(cluster.server()))
}

fn message(health: &Health) -> String {
    health.problems(clock::now_std()).into_iter().map(|problem| problem.message).collect()
}

#[tokio::test]
async fn requests_go_through_the_proxy_of_the_kubeconfig() {
    let folder = tempfile::tempdir().unwrap();
    let api = Server::start(|_| (200, kube_system("u", "1"))).await;
    let proxy = Server::proxy(api.address).await;
    let more = format!(", proxy-url: 'http://user:pass%40word@{}'", proxy.address);
    write(folder.path(), "http://api.invalid:6443", "t", &more);
    let cluster = cluster(folder.path()).await;
    let answer = ask_for_identity(&cluster.client).await.unwrap();
    assert_eq!(answer.uid.as_deref(), Some("u"));
    let head = proxy.requests().concat();
    assert!(head.starts_with("CONNECT api.invalid:6443 "), "{head}");
    // user:pass@word
    assert!(head.to_lowercase().contains("proxy-authorization: basic"), "{head}");
    assert!(head.contains("dXNlcjpwYXNzQHdvcmQ="), "{head}");
}

#[tokio::test]
async fn a_new_token_is_used_as_soon_as_the_old_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let api = Server::start(|head| match head.contains("Bearer new") {
        true => (200, kube_system("u", "1")),
        false => failure(401, "Unauthorized"),
    });
    let api = api.await;
    let url = format!("http://{}", api.address);
    write(folder.path(), &url, "old", "");
    let cluster = cluster(folder.path()).await;
    let health = health(&cluster);
    let refused = ask_for_identity(&cluster.client).await.err().unwrap();
    write(folder.path(), &url, "new", "");
    health.fails("nodes", watcher::Error::InitialListFailed(refused), clock::now_std());
    let reloader = tokio::spawn(Reloader::new(cluster.clone(), health).run());
    let answered = async { while ask_for_identity(&cluster.client).await.is_err() {} };
    timeout(LIMIT, answered).await.expect("the new token is used");
    reloader.abort();
}

/// A command that gives a token without an end, from a file.
#[tokio::test]
async fn a_command_for_credentials_runs_again_when_they_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let api = Server::start(|head| match head.contains("Bearer new") {
        true => (200, kube_system("u", "1")),
        false => failure(401, "Unauthorized"),
    });
    let api = api.await;
    let credential = folder.path().join("credential");
    let give = |token: &str| {
        let text = format!(
            "{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{{\"token\":\"{token}\"}}}}"
        );
        std::fs::write(&credential, text).unwrap();
    };
    give("old");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\n\
         users: [{{name: u, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: cat, \
         args: ['{}'], interactiveMode: Never}}}}}}]\n",
        api.address,
        credential.display()
    );
    std::fs::write(folder.path().join("kubeconfig"), text).unwrap();
    let cluster = cluster(folder.path()).await;
    let mut reloader = Reloader::new(cluster.clone(), health(&cluster));
    assert!(ask_for_identity(&cluster.client).await.is_err());
    give("new");
    let start = clock::now_std();
    reloader.look(false, start + RENEWAL_INTERVAL).await.unwrap();
    assert!(ask_for_identity(&cluster.client).await.is_err(), "nothing was refused, and they have no end");
    reloader.look(true, start).await.unwrap();
    assert!(ask_for_identity(&cluster.client).await.is_err(), "it ran a moment ago");
    reloader.look(true, start + RENEWAL_INTERVAL).await.unwrap();
    ask_for_identity(&cluster.client).await.unwrap();
}

#[tokio::test]
async fn a_kubeconfig_that_makes_no_sense_or_leads_elsewhere_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let api = Server::start(|_| (200, kube_system("here", "1"))).await;
    let moved = Server::start(|_| (200, kube_system("here", "1"))).await;
    let other = Server::start(|_| (200, kube_system("elsewhere", "1"))).await;
    let closed = Server::start(|_| failure(403, "forbidden")).await;
    let url = |server: &Server| format!("http://{}", server.address);
    write(folder.path(), &url(&api), "t", "");
    let cluster = cluster(folder.path()).await;
    let health = health(&cluster);
    cluster.identity.send_modify(|identity| identity.uid = Some("here".to_owned()));
    let mut reloader = Reloader::new(cluster.clone(), health);
    for (server, said) in [(&other, "another cluster"), (&closed, "the verb list on namespace kube-system")] {
        write(folder.path(), &url(server), "t", "");
        let error = reloader.look(false, clock::now_std()).await.unwrap_err();
        assert!(error.contains(said), "{error}");
        assert_eq!(cluster.url(), format!("{}/", url(&api)));
    }
    std::fs::write(folder.path().join("kubeconfig"), "half a fi").unwrap();
    let error = reloader.look(false, clock::now_std()).await.unwrap_err();
    assert!(error.contains("the credentials that were read before stay in use"), "{error}");
    write(folder.path(), &url(&moved), "t", "");
    reloader.look(false, clock::now_std()).await.unwrap();
    assert_eq!(cluster.url(), format!("{}/", url(&moved)));
    assert!(ask_for_identity(&cluster.client).await.is_ok());
    assert_eq!((api.requests().len(), moved.requests().len()), (0, 2));
}

#[tokio::test]
async fn what_the_probe_finds_out_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let revision = Arc::new(AtomicU64::new(100));
    let now = revision.clone();
    let api = Server::start(move |head| match head.contains("kube-system") {
        true => (200, kube_system("u", &now.load(Ordering::Relaxed).to_string())),
        false => failure(404, "not found"),
    });
    let api = api.await;
    write(folder.path(), &format!("http://{}", api.address), "t", "");
    let cluster = cluster(folder.path()).await;
    let (health, (relist, mut lists)) = (health(&cluster), watch::channel(0));
    let mut identity = cluster.identity();
    let probe = Probe { cluster: cluster.clone(), namespaces: Vec::new(), health: health.clone(), relist };
    let task = tokio::spawn(probe.run());
    timeout(LIMIT, identity.wait_for(|identity| identity.uid.as_deref() == Some("u")))
        .await
        .unwrap()
        .unwrap();
    assert!(!lists.has_changed().unwrap());
    revision.store(50, Ordering::Relaxed);
    timeout(LIMIT, lists.changed()).await.expect("the revision went back").unwrap();
    drop(api);
    let away = async {
        while message(&health).is_empty() {
            health.changed.notified().await;
        }
    };
    timeout(LIMIT, away).await.expect("the server is away");
    assert!(message(&health).contains("does not answer"), "{}", message(&health));
    task.abort();
}

#[tokio::test]
async fn without_the_right_to_read_kube_system_the_probe_asks_for_a_service() {
    let folder = tempfile::tempdir().unwrap();
    let api = Server::start(|head| match head.contains("kube-system") {
        true => failure(403, "forbidden"),
        false => (200, kube_system("ignored", "1")),
    });
    let api = api.await;
    write(folder.path(), &format!("http://{}", api.address), "t", "");
    let cluster = cluster(folder.path()).await;
    let (health, (relist, _lists)) = (health(&cluster), watch::channel(0));
    let namespaces = vec!["a".to_owned(), "b".to_owned()];
    let task =
        tokio::spawn(Probe { cluster: cluster.clone(), namespaces, health: health.clone(), relist }.run());
    let asked = async {
        while !api.requests().iter().any(|head| head.starts_with("GET /api/v1/namespaces/a/services?")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, asked).await.expect("it asks for a Service");
    assert_eq!(message(&health), "");
    assert_eq!(cluster.identity.borrow().uid, None);
    task.abort();
}
