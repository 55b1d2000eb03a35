// SPDX-License-Identifier: Apache-2.0
//! The last good snapshot of a cluster, on disk. An agent serves it if it starts while
//! the API does not answer. Not: when it is served (`kubernetes/`).
//!
//! ```text
//! llb-snapshot 3 <checksum of the rest, 16 hex digits> <length of the rest>
//! {"cluster": {"url": ..., "uid": ...}, "saved_at": ..., "snapshot": {...}}
//! ```
//!
//! A file is refused if a single bit of it is not as it was written, or if it is of
//! another format or another cluster. It is written only if what llb serves has changed.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::identity::Identity;
use super::kept::to_save;
use crate::error_chain::ErrorChain;
use crate::model::Snapshot;
use crate::statefile;

/// The name in the state folder.
const FILE: &str = "snapshot";
const MAGIC: &str = "llb-snapshot";
/// The format version. Raise it with each change of the model that an older or newer
/// agent would misread.
const FORMAT: u32 = 3;
/// A larger file is not a snapshot: 20,000 Services take about 20 MB.
const LARGEST: u64 = 256 << 20;
/// The time between two writes. The endpoints of a large cluster change all the time, and
/// each write waits for the disk. A crash loses the changes of this time; none of them
/// changes a VIP that was published before.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);

/// The time until a write that failed is tried again, if nothing changes before.
const RETRY: Duration = Duration::from_secs(30);

/// Why a saved snapshot is not served.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// There is no file: no agent has written one yet.
    #[error("there is none at {0}")]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not as it was written: cut off, changed, or never a snapshot.
    #[error("{0} is damaged; it is replaced as soon as the API answers")]
    Damaged(PathBuf),
    /// The file was written by an older or newer agent.
    #[error("{path} has format {found}, this llb-agent reads {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
    },
    /// The file is undamaged, but this agent does not understand its content.
    #[error("{path} is not understood")]
    Content {
        /// The file.
        path: PathBuf,
        /// Which part, and why.
        #[source]
        source: serde_json::Error,
    },
    /// The file is of another cluster.
    #[error("{path} is of another cluster ({found}); use a separate --state-dir for each cluster")]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// The other cluster.
        found: Identity,
    },
}

/// Where the snapshot of one cluster is saved.
#[derive(Clone, Debug)]
pub struct SavedSnapshots {
    path: PathBuf,
    /// What is known of the cluster by now.
    cluster: watch::Receiver<Identity>,
    /// Whether this agent may write in the state folder.
    ours: watch::Receiver<bool>,
}

/// The second line of the file, for writing.
#[derive(Serialize)]
struct Content<'a> {
    cluster: &'a Identity,
    saved_at: Timestamp,
    snapshot: &'a Snapshot,
}

/// The second line of the file, as read: a snapshot and when it was saved.
#[derive(Debug, Deserialize)]
pub(super) struct Saved {
    cluster: Identity,
    pub(super) saved_at: Timestamp,
    pub(super) snapshot: Snapshot,
}

impl SavedSnapshots {
    /// Nothing is written until `ours` is true, because an older agent may still write there.
    pub fn new(state_dir: &Path, cluster: watch::Receiver<Identity>, ours: watch::Receiver<bool>) -> Self {
        Self { path: state_dir.join(FILE), cluster, ours }
    }

    /// Reads the snapshot that was saved last.
    pub(super) fn load(&self) -> Result<Saved, SavedError> {
        let bytes = read_limited(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SavedError::Missing(self.path.clone()),
            _ => SavedError::Unreadable { path: self.path.clone(), source },
        })?;
        self.parse(&bytes)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Saved, SavedError> {
        let path = || self.path.clone();
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| SavedError::Damaged(path()))?;
        let (header, body) = (&bytes[..=end], &bytes[end + 1..]);
        match format_of(header) {
            Some(found) if found != FORMAT => return Err(SavedError::Format { path: path(), found }),
            // The whole text is compared: the same numbers spelled differently are damage too.
            Some(_) if header == header_of(body).as_bytes() => {}
            _ => return Err(SavedError::Damaged(path())),
        }
        let saved: Saved =
            serde_json::from_slice(body).map_err(|source| SavedError::Content { path: path(), source })?;
        if !saved.cluster.may_be(&self.cluster.borrow()) {
            return Err(SavedError::OtherCluster { path: path(), found: saved.cluster });
        }
        Ok(saved)
    }

    /// Replaces the saved snapshot.
    fn save(&self, snapshot: &Snapshot, now: Timestamp) -> io::Result<()> {
        statefile::write_bytes(&self.path, &self.file_of(snapshot, now)?)
    }

    fn file_of(&self, snapshot: &Snapshot, saved_at: Timestamp) -> io::Result<Vec<u8>> {
        let cluster = self.cluster.borrow().clone();
        let body = serde_json::to_vec(&Content { cluster: &cluster, saved_at, snapshot })?;
        Ok([header_of(&body).into_bytes(), body].concat())
    }

    /// A task that saves each snapshot that it receives, until the sender is gone.
    pub(super) async fn keep(mut self, mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>) {
        if self.ours.wait_for(|ours| *ours).await.is_err() {
            return;
        }
        let mut failing = false;
        loop {
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                // Saved again, so that the file is bound to what is known now.
                Ok(()) = self.cluster.changed() => {}
                () = tokio::time::sleep(RETRY), if failing => {}
            }
            let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
            // This write has both, whichever of them it began with.
            self.cluster.mark_unchanged();
            let this = self.clone();
            let now = Timestamp::now();
            let saved = tokio::task::spawn_blocking(move || this.save(&to_save(&snapshot), now)).await;
            match saved.map_err(io::Error::other).flatten() {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    let error = ErrorChain(&error);
                    tracing::warn!(path = %self.path.display(), %error, "cannot save the snapshot; an agent that starts while the API does not answer would serve an older one or none");
                }
                Err(_) => {}
            }
            tokio::time::sleep(WRITE_INTERVAL).await;
        }
    }
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a snapshot"));
    }
    Ok(bytes)
}

fn header_of(body: &[u8]) -> String {
    format!("{MAGIC} {FORMAT} {:016x} {}\n", checksum(body), body.len())
}

fn format_of(header: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(header).ok()?.split(' ');
    (words.next() == Some(MAGIC)).then(|| words.next()?.parse().ok()).flatten()
}

/// FNV-1a with 64 bits. Each step is reversible, so one changed byte always changes the
/// sum. It protects against accidents, not against an attacker who can write the file.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> SavedSnapshots {
        place_of("https://192.0.2.1:6443/", Path::new("/nowhere"))
    }

    fn place_of(url: &str, folder: &Path) -> SavedSnapshots {
        let cluster = Identity { url: url.to_owned(), uid: None };
        SavedSnapshots::new(folder, watch::channel(cluster).1, watch::channel(true).1)
    }

    fn snapshot() -> Snapshot {
        crate::source::snapshot_of(
            br#"{"kind": "List", "items": [
                {"kind": "Node", "metadata": {"name": "node-1", "labels": {"a": "1"}},
                 "status": {"addresses": [{"type": "InternalIP", "address": "2001:db8::21"}]}},
                {"kind": "Service", "metadata": {"name": "web", "annotations": {"llb.dev/pool": "p"}},
                 "spec": {"type": "LoadBalancer", "loadBalancerIP": "192.0.2.50", "externalTrafficPolicy": "Local",
                          "ports": [{"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"}]},
                 "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.50", "ports": [{"port": 53, "protocol": "UDP"}]}]}}},
                {"kind": "EndpointSlice", "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
                 "addressType": "IPv4", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
                 "endpoints": [{"addresses": ["192.0.2.31"], "nodeName": "node-1", "conditions": {"ready": true}}]}
            ]}"#,
            true,
        )
        .unwrap()
    }

    fn file() -> Vec<u8> {
        place().file_of(&snapshot(), Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_saved_snapshot_can_be_loaded() {
        let (folder, known) = (tempfile::tempdir().unwrap(), snapshot());
        assert!(!known.services.is_empty() && !known.nodes.is_empty() && !known.endpoints.is_empty());
        let place = place_of("here", folder.path());
        assert!(matches!(place.load(), Err(SavedError::Missing(_))));
        place.save(&known, Timestamp::UNIX_EPOCH).unwrap();
        let saved = place.load().unwrap();
        assert_eq!(saved.snapshot, Snapshot { problems: Vec::new(), ..known });
        assert_eq!(saved.saved_at, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn a_cut_off_or_changed_file_is_refused() {
        let whole = file();
        assert!(place().parse(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(place().parse(&whole[..length]).is_err(), "cut to {length}");
        }
        assert!(place().parse(&[&whole[..], b" "].concat()).is_err(), "longer");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                assert!(place().parse(&changed).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn another_format_or_cluster_is_refused_with_its_name() {
        let (format, body) = (file(), br#"{"cluster": {"url": "c"}, "saved_at": 5}"#);
        let newer =
            String::from_utf8(format.clone()).unwrap().replacen("llb-snapshot 3", "llb-snapshot 4", 1);
        let older =
            String::from_utf8(format.clone()).unwrap().replacen("llb-snapshot 3", "llb-snapshot 0", 1);
        let strange = [header_of(body).as_bytes(), body].concat();
        let elsewhere = place_of("https://192.0.2.2/", Path::new("/nowhere"));
        for (place, bytes, said) in [
            (place(), newer.into_bytes(), "has format 4, this llb-agent reads 3"),
            (place(), older.into_bytes(), "has format 0"),
            (place(), strange, "not understood"),
            (place(), b"{}\n".to_vec(), "damaged"),
            (place(), vec![0xff; 4096], "damaged"),
            (elsewhere, format, "of another cluster (https://192.0.2.1:6443/)"),
        ] {
            let error = place.parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
