// SPDX-License-Identifier: Apache-2.0
//! Decides who has a Lease, as client-go does: a holder renews it, and whoever has seen it without
//! a renewal for its whole duration may take it. Pure; the clock is an argument.
//!
//! Only the monotonic clock of this machine counts. The times in the Lease are compared with each
//! other, never with a clock, so it does not matter if clocks differ or jump.

use std::time::{Duration, Instant};

use crate::model::Role;

/// For how long a Lease is valid without a renewal.
pub(super) const DURATION: Duration = Duration::from_secs(30);
/// After this time without a renewal, its holder no longer counts on it. Less than [`DURATION`],
/// so that it stops before another agent begins.
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(20);
/// How often the holder renews it.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How often the others look at it.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For how long the API server may refuse a Lease that it has given before. One that has just
/// started refuses everything until it has read its roles.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// `None`: nobody has it.
    pub(super) holder: Option<String>,
    /// As the holder wrote it.
    pub(super) duration: Duration,
    /// When it was renewed, by the holder's clock: only compared with itself.
    pub(super) renewed: Option<String>,
}

/// What to do with the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Write it: it is free, or has not been renewed.
    Take,
    /// Write it: it is this agent's.
    Renew,
    /// Leave it: another agent has it.
    Leave,
}

/// How a request about the Lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is this agent's now.
    Held,
    /// This agent has it.
    Others(String),
    /// Another agent wrote it first.
    TooLate,
    /// The API server refuses.
    Refused,
    /// There is no answer, or one that says nothing about the Lease.
    Silence,
}

/// What one agent knows.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    /// The Lease of another agent, and since when it has been like this.
    seen: Option<(Record, Instant)>,
    /// When the last successful renewal began.
    renewed: Option<Instant>,
    /// When the API server began to refuse.
    refused: Option<Instant>,
    /// It has worked before.
    worked: bool,
    role: Role,
}

impl Election {
    pub(super) fn new(identity: String) -> Self {
        Self { identity, seen: None, renewed: None, refused: None, worked: false, role: Role::Pending }
    }

    /// What to do. `None`: there is no Lease yet.
    pub(super) fn turn(&mut self, record: Option<&Record>, now: Instant) -> Turn {
        let Some(record) = record else { return Turn::Take };
        match record.holder.as_deref() {
            None | Some("") => Turn::Take,
            Some(holder) if holder == self.identity => Turn::Renew,
            Some(_) => {
                let since = match &self.seen {
                    Some((known, since)) if known == record => *since,
                    _ => now,
                };
                self.seen = Some((record.clone(), since));
                // Another program may have written a duration of its own.
                let valid = record.duration.max(Duration::from_secs(1));
                let is_over = now.saturating_duration_since(since) >= valid;
                if is_over { Turn::Take } else { Turn::Leave }
            }
        }
    }

    /// Notes how a request ended that began at `began`, and returns what this agent is now.
    pub(super) fn note(&mut self, answer: Answer, began: Instant, now: Instant) -> Role {
        if matches!(answer, Answer::Held | Answer::Others(_)) {
            self.worked = true;
            self.refused = None;
        }
        self.role = match answer {
            Answer::Held => {
                self.renewed = Some(began);
                Role::Elected
            }
            Answer::Others(holder) => {
                self.renewed = None;
                Role::Other(holder)
            }
            // The next look says who has it.
            Answer::TooLate if self.role == Role::Pending => Role::Pending,
            Answer::TooLate => self.role_without_answer(now),
            Answer::Refused => {
                let since = *self.refused.get_or_insert(now);
                let lasts = now.saturating_duration_since(since) >= REFUSED_FOR;
                if lasts || !self.worked { Role::Unasked } else { self.role_without_answer(now) }
            }
            Answer::Silence => self.role_without_answer(now),
        };
        self.role.clone()
    }

    /// Nothing new is known. A holder counts on its last renewal for a while.
    fn role_without_answer(&self, now: Instant) -> Role {
        let counts = |began: &Instant| now.saturating_duration_since(*began) < RENEW_DEADLINE;
        match (&self.role, self.renewed.as_ref()) {
            (Role::Elected, Some(began)) if counts(began) => Role::Elected,
            // It was refused before, and writes without asking.
            (Role::Unasked, _) => Role::Unasked,
            (Role::Other(holder), _) => Role::Other(holder.clone()),
            _ => Role::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn record(holder: &str, renewed: &str) -> Record {
        Record { holder: Some(holder.to_owned()), duration: DURATION, renewed: Some(renewed.to_owned()) }
    }

    fn election() -> (Election, Instant) {
        (Election::new("a".to_owned()), clock::now_std())
    }

    #[test]
    fn a_free_lease_is_taken_and_an_own_one_renewed() {
        let (mut election, now) = election();
        assert_eq!(election.turn(None, now), Turn::Take);
        assert_eq!(election.turn(Some(&Record::default()), now), Turn::Take);
        assert_eq!(election.turn(Some(&record("a", "1")), now), Turn::Renew);
        assert_eq!(election.note(Answer::Held, now, now), Role::Elected);
    }

    #[test]
    fn another_agents_lease_is_taken_only_when_it_was_not_renewed_for_its_whole_duration() {
        let (mut election, now) = election();
        let mut turn =
            |renewed, second: u32| election.turn(Some(&record("b", renewed)), now + second * SECOND);
        assert_eq!(turn("1", 0), Turn::Leave);
        assert_eq!(turn("1", 29), Turn::Leave);
        assert_eq!(turn("2", 30), Turn::Leave, "renewed");
        assert_eq!(turn("2", 59), Turn::Leave);
        assert_eq!(turn("2", 60), Turn::Take);
    }

    #[test]
    fn a_holder_without_answers_stops_before_another_begins() {
        let (mut election, now) = election();
        election.note(Answer::Held, now, now);
        let mut silent = |second: u32| election.note(Answer::Silence, now, now + second * SECOND);
        assert_eq!(silent(19), Role::Elected);
        assert_eq!(silent(20), Role::Unknown);
        assert!(RENEW_DEADLINE < DURATION);
        assert_eq!(silent(21), Role::Unknown);
    }

    #[test]
    fn an_agent_that_may_not_use_the_lease_writes_without_asking() {
        let (mut election, now) = election();
        assert_eq!(election.note(Answer::Refused, now, now), Role::Unasked);
        assert_eq!(election.note(Answer::Silence, now, now), Role::Unasked);
        assert_eq!(election.note(Answer::Others("b".to_owned()), now, now), Role::Other("b".to_owned()));
        // An API server that starts refuses for a moment what it allowed before.
        assert_eq!(election.note(Answer::Refused, now, now), Role::Other("b".to_owned()));
        assert_eq!(election.note(Answer::Refused, now, now + REFUSED_FOR), Role::Unasked);
    }

    #[test]
    fn whoever_is_too_late_looks_again() {
        let (mut election, now) = election();
        assert_eq!(election.note(Answer::TooLate, now, now), Role::Pending);
        election.note(Answer::Held, now, now);
        assert_eq!(election.note(Answer::TooLate, now, now + SECOND), Role::Elected);
        let other = Role::Other("b".to_owned());
        assert_eq!(election.note(Answer::Others("b".to_owned()), now, now), other);
        assert_eq!(election.note(Answer::Silence, now, now), other, "nothing says that it is over");
    }
}
