// SPDX-License-Identifier: Apache-2.0
//! What became of the connections of one group, and the comparison of two groups. Pure.

use std::collections::BTreeMap;

use std::io;

/// How a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// It carried bytes that nobody sent, or in another order.
    Corrupted,
    /// The other side seemed to reset it.
    Reset,
    /// The other side seemed to close it.
    Closed,
    /// The kernel gave it up.
    TimedOut,
    /// Another error.
    Failed,
    /// It is open, but nothing arrives although the network is whole.
    Stuck,
}

impl Loss {
    /// The kinds that a connection can have.
    pub const ALL: [Self; 6] =
        [Self::Corrupted, Self::Reset, Self::Closed, Self::TimedOut, Self::Failed, Self::Stuck];

    /// What an error of a socket means.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Corrupted,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Failed,
        }
    }
}

/// What became of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that lived until the end, or until their client closed them.
    pub kept: usize,
    /// Messages whose echo arrived.
    pub messages: usize,
    /// Numbers of lost connections.
    pub lost: BTreeMap<Loss, usize>,
    /// Connections that could not be opened, by the error. They are tried again, as clients do.
    pub not_opened: BTreeMap<String, usize>,
    /// One line for each lost connection.
    pub lines: Vec<String>,
}

impl Tally {
    /// Counts a lost connection; `line` names it.
    pub fn lose(&mut self, loss: Loss, line: String) {
        *self.lost.entry(loss).or_default() += 1;
        self.lines.push(line);
    }

    /// What is worse with llb (`self`) than with plain routing, one line for each kind of loss. Nothing corrupted is
    /// allowed in either group, and a group that did nothing proves nothing.
    pub fn worse_than(&self, plain: &Self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, group) in [("llb", self), ("plain routing", plain)] {
            if group.messages == 0 || group.kept + group.lost.values().sum::<usize>() == 0 {
                complaints.push(format!("{name} carried nothing"));
            }
            if let Some(count) = group.lost.get(&Loss::Corrupted) {
                complaints.push(format!("{name}: {count} corrupted"));
            }
        }
        let lost_by = |group: &Self, loss| group.lost.get(&loss).copied().unwrap_or_default();
        for loss in Loss::ALL {
            let (here, there) = (lost_by(self, loss), lost_by(plain, loss));
            if here > there {
                complaints.push(format!("{here} lost with llb, {there} with plain routing: {loss:?}"));
            }
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lost: &[Loss]) -> Tally {
        let mut tally = Tally { kept: 10, messages: 100, ..Tally::default() };
        lost.iter().for_each(|loss| tally.lose(*loss, String::new()));
        tally
    }

    #[test]
    fn a_loss_of_each_kind_is_seen() {
        assert_eq!(tally(&[]).worse_than(&tally(&[])), [""; 0]);
        for loss in Loss::ALL {
            assert!(!tally(&[loss]).worse_than(&tally(&[])).is_empty(), "{loss:?}");
        }
    }

    #[test]
    fn what_plain_routing_loses_may_be_lost_but_no_more_and_no_other_kind() {
        let plain = tally(&[Loss::TimedOut]);
        assert_eq!(tally(&[Loss::TimedOut]).worse_than(&plain), [""; 0]);
        assert_eq!(tally(&[Loss::TimedOut; 2]).worse_than(&plain).len(), 1);
        assert_eq!(
            tally(&[Loss::Reset]).worse_than(&plain),
            ["1 lost with llb, 0 with plain routing: Reset"]
        );
    }

    #[test]
    fn corruption_is_never_allowed() {
        let both = tally(&[Loss::Corrupted]);
        assert_eq!(both.worse_than(&both).len(), 2);
    }

    #[test]
    fn a_group_that_did_nothing_is_a_fault() {
        let nothing = Tally::default();
        assert_eq!(tally(&[]).worse_than(&nothing), ["plain routing carried nothing"]);
        assert_eq!(nothing.worse_than(&tally(&[])), ["llb carried nothing"]);
    }
}
