// SPDX-License-Identifier: Apache-2.0
//! Status writes under way, each a task of its own. What they write is not here.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};

use super::executor::{Failed, Outcome, failed};
use crate::plan::Action;
use crate::status::Effect;

/// Every write that was started ends in one [`Outcome`], even if it panics:
/// its object would otherwise count as being worked on for ever.
#[derive(Debug, Default)]
pub(super) struct Writes {
    tasks: JoinSet<Result<Effect, Failed>>,
    actions: HashMap<Id, Action>,
}

impl Writes {
    /// Carries out `action` by `write`.
    pub(super) fn start(
        &mut self,
        action: Action,
        write: impl Future<Output = Result<Effect, Failed>> + Send + 'static,
    ) {
        let task = self.tasks.spawn(write);
        self.actions.insert(task.id(), action);
    }

    /// The next one that ends; `None` if none is under way. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Outcome> {
        let ended = self.tasks.join_next_with_id().await?;
        self.outcome(ended)
    }

    /// One that has ended by now.
    pub(super) fn try_next(&mut self) -> Option<Outcome> {
        let ended = self.tasks.try_join_next_with_id()?;
        self.outcome(ended)
    }

    fn outcome(&mut self, ended: Result<(Id, Result<Effect, Failed>), JoinError>) -> Option<Outcome> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(failed(error))),
        };
        Some((self.actions.remove(&id)?, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PublishedStatus, ServiceName};

    #[tokio::test]
    async fn a_write_that_panics_has_failed() {
        let mut writes = Writes::default();
        let service = ServiceName::new("default", "web");
        let action = Action::WriteStatus { service, status: PublishedStatus::default() };
        writes.start(action.clone(), async { panic!("on purpose") });
        let (ended, result) = writes.next().await.unwrap();
        assert_eq!(ended, action);
        assert!(result.unwrap_err().message.contains("on purpose"));
        assert!(writes.next().await.is_none());
        assert!(writes.try_next().is_none());
    }
}
