// SPDX-License-Identifier: Apache-2.0
//! What is known not to pass, and why. Everything else must pass; an entry that has become wrong fails the run too.

use crate::planes::Column;
use crate::suite::Outcome;

/// A row that is not "pass" on some columns.
struct Entry {
    /// A part of the test's short name.
    test: &'static str,
    columns: fn(&Column) -> bool,
    is_skipped: bool,
    /// One sentence for the reader of the table.
    reason: &'static str,
}

/// Why a Pod behind the relay or mode NAT does not see the client.
const NO_CLIENT_ADDRESS: &str = "A Pod sees llb's address: only mode dsr leaves packets unchanged. \
    The PROXY protocol (llb.dev/proxy-protocol) tells a Pod the client.";

const ENTRIES: [Entry; 2] = [
    Entry {
        test: "ExternalTrafficPolicy: Local should work for type=LoadBalancer",
        columns: |column| !column.is_dsr,
        is_skipped: true,
        reason: NO_CLIENT_ADDRESS,
    },
    Entry {
        test: "ExternalTrafficPolicy: Local should work from pods",
        columns: |column| !column.is_dsr,
        is_skipped: true,
        reason: NO_CLIENT_ADDRESS,
    },
];

/// What an outcome is, compared with what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// Expected to fail; why.
    Known(String),
    /// Expected to be skipped by the test itself; why.
    Skipped(String),
    /// The run fails; what happened.
    Wrong(String),
}

/// Judges the outcome of one test.
pub(crate) fn judge(test: &str, column: &Column, outcome: &Outcome) -> Verdict {
    let entry = ENTRIES.iter().find(|entry| test.contains(entry.test) && (entry.columns)(column));
    match (outcome, entry) {
        (Outcome::Pass, None) => Verdict::Pass,
        (Outcome::Skip(why), Some(Entry { is_skipped: true, reason, .. })) => {
            Verdict::Skipped(format!("The test says: {why}. {reason}"))
        }
        (Outcome::Fail(_), Some(Entry { is_skipped: false, reason, .. })) => {
            Verdict::Known((*reason).to_owned())
        }
        (Outcome::Pass, Some(_)) => {
            Verdict::Wrong("it passes, so its entry in expected.rs must go".to_owned())
        }
        (Outcome::Skip(why), _) => Verdict::Wrong(format!("skipped: {why}")),
        (Outcome::Fail(why), _) => Verdict::Wrong(format!("failed: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planes::COLUMNS;

    #[test]
    fn only_what_is_listed_may_not_pass() {
        let [nat, dsr] =
            ["tc-nat", "tc-dsr"].map(|name| COLUMNS.iter().find(|column| column.name == name).unwrap());
        let skip = Outcome::Skip("LoadBalancer uses 'Proxy' IPMode".to_owned());
        let name = "ExternalTrafficPolicy: Local should work from pods";
        assert!(matches!(judge(name, nat, &skip), Verdict::Skipped(_)));
        assert!(matches!(judge(name, dsr, &skip), Verdict::Wrong(_)));
        assert!(matches!(judge(name, nat, &Outcome::Fail("x".to_owned())), Verdict::Wrong(_)));
        assert!(matches!(judge(name, nat, &Outcome::Pass), Verdict::Wrong(_)));
        assert_eq!(judge("another", nat, &Outcome::Pass), Verdict::Pass);
    }
}
