// SPDX-License-Identifier: Apache-2.0
//! Which cluster something belongs to. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is known of a cluster. Its certificates are no part of it: they are renewed while it stays the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The URL of its API server.
    pub url: String,
    /// The UID of its namespace kube-system, which no other cluster has and which is kept when etcd is
    /// restored. `None` as long as it could not be read.
    pub uid: Option<String>,
}

impl Identity {
    /// Whether both may be the same cluster. UIDs decide. Without one of them, the URL does.
    pub(super) fn may_be(&self, other: &Self) -> bool {
        match (&self.uid, &other.uid) {
            (Some(uid), Some(other)) => uid == other,
            _ => self.url == other.url,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.uid {
            Some(uid) => write!(f, "{}, whose kube-system has UID {uid}", self.url),
            None => f.write_str(&self.url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_decides_and_without_it_the_url() {
        let of = |url: &str, uid: Option<&str>| Identity { url: url.to_owned(), uid: uid.map(str::to_owned) };
        for (saved, now, expected) in [
            (of("https://a/", Some("1")), of("https://a/", Some("1")), true),
            (of("https://a/", Some("1")), of("https://moved/", Some("1")), true),
            (of("https://a/", Some("1")), of("https://a/", Some("2")), false),
            (of("https://a/", Some("1")), of("https://a/", None), true),
            (of("https://a/", None), of("https://a/", Some("1")), true),
            (of("https://a/", Some("1")), of("https://b/", None), false),
        ] {
            assert_eq!(saved.may_be(&now), expected, "{saved} and {now}");
        }
    }
}
