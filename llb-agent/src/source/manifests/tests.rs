// SPDX-License-Identifier: Apache-2.0
//! Folders and files that go away, come back, or are replaced behind a symbolic link.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{ManifestSource, RESCAN};
use crate::model::{ProblemReason, ServiceName, Snapshot, SourceReport};
use crate::source::{Interest, IsOurs};

/// Shorter than [`RESCAN`], so that only inotify can have noticed the change.
const LIMIT: Duration = Duration::from_secs(10);

struct Followed {
    reports: watch::Receiver<SourceReport>,
    task: JoinHandle<()>,
}

impl Followed {
    fn start(path: &Path) -> Self {
        assert!(LIMIT < RESCAN);
        let (out, reports) = watch::channel(SourceReport::default());
        let (number, namespaces) = (0, Vec::new());
        let is_ours: IsOurs = Arc::new(|_, _| true);
        let interest = Interest {
            number,
            namespaces,
            foreign_annotations: true,
            needs_nodes: false,
            is_ours,
            pools: None,
        };
        let interest = watch::channel(interest).1;
        let task = tokio::spawn(ManifestSource::start(path, interest).unwrap().run(out));
        Self { reports, task }
    }

    async fn wait_for(&mut self, what: &str, is_so: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let found = self.reports.wait_for(|report| report.snapshot.as_deref().is_some_and(&is_so));
        let found = tokio::time::timeout(LIMIT, found).await;
        found.unwrap_or_else(|_| panic!("in time: {what}")).unwrap().snapshot.clone().unwrap()
    }

    async fn wait_for_service(&mut self, name: &str) -> Arc<Snapshot> {
        self.wait_for(name, |snapshot| has(snapshot, name) && !is_away(snapshot)).await
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer}}\n")
}

fn has(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.services.contains_key(&ServiceName::new("default", name))
}

fn is_away(snapshot: &Snapshot) -> bool {
    snapshot.problems.iter().any(|problem| problem.reason == ProblemReason::InvalidManifest)
}

#[tokio::test]
async fn everything_stays_in_use_while_the_folder_is_away() {
    let place = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (place.path().join("manifests"), place.path().join("elsewhere"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), service("a")).unwrap();
    let mut source = Followed::start(&folder);
    source.wait_for_service("a").await;

    fs::rename(&folder, &elsewhere).unwrap();
    let snapshot = source.wait_for("a problem", is_away).await;
    assert!(has(&snapshot, "a"), "{snapshot:?}");

    // Another folder in its place is followed too.
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("b.yaml"), service("b")).unwrap();
    let snapshot = source.wait_for_service("b").await;
    assert!(!has(&snapshot, "a"), "{snapshot:?}");
    fs::write(folder.join("c.yaml"), service("c")).unwrap();
    source.wait_for_service("c").await;

    fs::remove_dir_all(&folder).unwrap();
    source.wait_for("a problem again", is_away).await;
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("d.yaml"), service("d")).unwrap();
    source.wait_for_service("d").await;
}

#[tokio::test]
async fn a_file_of_a_mounted_configmap_is_followed() {
    let mount = tempfile::tempdir().unwrap();
    let at = |name: &str| mount.path().join(name);
    let point_link_to = |version: &str| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("s.yaml"), service(version.trim_start_matches('.'))).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    point_link_to("..t1");
    symlink("..data/s.yaml", at("s.yaml")).unwrap();
    let mut source = Followed::start(&at("s.yaml"));
    source.wait_for_service("t1").await;
    for (old, new) in [("..t1", "..t2"), ("..t2", "..t3")] {
        point_link_to(new);
        fs::remove_dir_all(at(old)).unwrap();
        source.wait_for_service(new.trim_start_matches('.')).await;
    }

    fs::remove_file(at("s.yaml")).unwrap();
    let snapshot = source.wait_for("a problem", is_away).await;
    assert!(has(&snapshot, "t3"), "{snapshot:?}");
}

#[tokio::test]
async fn a_folder_behind_a_link_is_followed() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    for version in ["v1", "v2"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("s.yaml"), service(version)).unwrap();
    }
    symlink("v1", at("current")).unwrap();
    let mut source = Followed::start(&at("current"));
    source.wait_for_service("v1").await;
    symlink("v2", at("next")).unwrap();
    fs::rename(at("next"), at("current")).unwrap();
    let snapshot = source.wait_for_service("v2").await;
    assert!(!has(&snapshot, "v1"), "{snapshot:?}");
    // The new folder behind the link is watched too.
    fs::write(at("v2").join("more.yaml"), service("more")).unwrap();
    source.wait_for_service("more").await;
}

#[tokio::test]
async fn a_service_in_two_files_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (first, last) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    fs::write(&first, service("web")).unwrap();
    fs::write(&last, service("web").replace("LoadBalancer", "ClusterIP")).unwrap();
    let mut source = Followed::start(folder.path());
    let snapshot = source.wait_for_service("web").await;
    assert!(!snapshot.services[&ServiceName::new("default", "web")].wants_load_balancer);
    let [problem] = snapshot.problems.as_slice() else { panic!("{:?}", snapshot.problems) };
    for path in [&first, &last] {
        assert!(problem.message.contains(path.to_str().unwrap()), "{problem}");
    }
    fs::remove_file(&last).unwrap();
    source.wait_for("the first one", |snapshot| has(snapshot, "web") && snapshot.problems.is_empty()).await;
}

#[tokio::test]
async fn a_service_twice_in_one_file_is_reported_with_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, format!("{}---\n{}", service("web"), service("web"))).unwrap();
    let mut source = Followed::start(&file);
    let snapshot = source.wait_for_service("web").await;
    let [problem] = snapshot.problems.as_slice() else { panic!("{:?}", snapshot.problems) };
    assert!(problem.message.contains("a.yaml twice, in lines 1 and 6; the last one is used"), "{problem}");
}

#[tokio::test]
async fn a_misspelled_kind_is_reported_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), service("web").replace("Service", "Sevice")).unwrap();
    let mut source = Followed::start(folder.path());
    let snapshot = source.wait_for("a warning", |snapshot| !snapshot.problems.is_empty()).await;
    let text = snapshot.problems[0].to_string();
    assert!(text.contains("a.yaml: UnknownName: line 1: Sevice web: kind \"Sevice\" is unknown"), "{text}");
}
