// SPDX-License-Identifier: Apache-2.0
//! Status writes that run beside the loop, one task each. This file does not
//! know what they write.

use std::collections::{HashMap, VecDeque};

use tokio::task::{Id, JoinError, JoinSet};

use super::outcome::{Failed, Outcome};
use crate::model::PublishedStatus;
use crate::plan::Action;
use crate::status::Effect;

/// Every write that was started ends in exactly one [`Outcome`], even if it
/// panics. Otherwise its object would count as being worked on for ever.
#[derive(Debug, Default)]
pub(super) struct Writes {
    tasks: JoinSet<Result<Effect, Failed>>,
    running: HashMap<Id, Running>,
    /// Outcomes that the loop has not taken yet.
    ended: VecDeque<Outcome>,
}

#[derive(Debug)]
struct Running {
    action: Action,
    replaced: PublishedStatus,
}

impl Writes {
    /// Starts `write`, which carries out `action` and replaces the status `replaced`.
    pub(super) fn start(
        &mut self,
        action: Action,
        replaced: PublishedStatus,
        write: impl Future<Output = Result<Effect, Failed>> + Send + 'static,
    ) {
        let task = self.tasks.spawn(write);
        self.running.insert(task.id(), Running { action, replaced });
    }

    /// Waits until a write ends, and keeps its outcome for [`Writes::take_ended`].
    /// `None` if none is running. Cancel safe.
    pub(super) async fn wait_for_one(&mut self) -> Option<()> {
        let ended = self.tasks.join_next_with_id().await?;
        self.keep(ended);
        Some(())
    }

    /// The next outcome of a write that has ended by now.
    pub(super) fn take_ended(&mut self) -> Option<Outcome> {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.keep(ended);
        }
        self.ended.pop_front()
    }

    fn keep(&mut self, ended: Result<(Id, Result<Effect, Failed>), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(Failed::new(error))),
        };
        if let Some(Running { action, replaced }) = self.running.remove(&id) {
            self.ended.push_back(Outcome { action, replaced, result });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;

    #[tokio::test]
    async fn a_write_that_panics_has_failed() {
        let mut writes = Writes::default();
        let service = ServiceName::new("default", "web");
        let action = Action::WriteStatus { service, status: PublishedStatus::default() };
        writes.start(action.clone(), PublishedStatus::default(), async { panic!("on purpose") });
        writes.wait_for_one().await.unwrap();
        let outcome = writes.take_ended().unwrap();
        assert_eq!(outcome.action, action);
        assert!(outcome.result.unwrap_err().message.contains("on purpose"));
        assert!(writes.wait_for_one().await.is_none());
        assert!(writes.take_ended().is_none());
    }
}
