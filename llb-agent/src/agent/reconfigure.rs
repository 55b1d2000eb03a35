// SPDX-License-Identifier: Apache-2.0
//! What a new configuration changes in the running agent. If it makes no sense, the one that was read before
//! stays. What can't change without a restart stays too, and is named.

use tokio::sync::watch;

use super::preconditions::raise_descriptor_limit;
use super::reload::Outcome;
use super::serve::interest;
use super::start::Serving;
use crate::config::{Change, Config, Configured, Policy, SourceConfig};
use crate::error_chain::ErrorChain;
use crate::model::{Problem, ProblemReason, Subject};
use crate::source::Interest;
use crate::status::StatusSink;
use crate::telemetry;

impl<S: StatusSink> Serving<S> {
    /// Takes over what was read, as far as it can.
    pub(super) fn reconfigure(&mut self, outcome: &Outcome) {
        let reloaded = match outcome {
            Ok(new) => self.configured.reloaded(new).map(|running| (running, new)),
            Err(error) => return self.refuse(&ErrorChain(error).to_string()),
        };
        match reloaded {
            Ok((running, new)) => self.adopt(running, new),
            Err(error) => self.refuse(&ErrorChain(&error).to_string()),
        }
    }

    fn refuse(&mut self, why: &str) {
        for line in why.lines() {
            tracing::error!("{line}");
        }
        tracing::error!("the configuration has mistakes; the one that was read before stays in use");
        let message = format!(
            "{}; the configuration that was read before stays in use until this is right",
            why.lines().collect::<Vec<_>>().join("; ")
        );
        self.set_problem(ProblemReason::InvalidConfiguration, Some(message));
    }

    fn adopt(&mut self, mut running: Configured, new: &Configured) {
        let changes = Change::between(&self.configured.effective, &running.effective);
        for change in &changes {
            tracing::info!("configuration: {change}");
        }
        if changes.is_empty() {
            tracing::info!("configuration: nothing has changed that counts now");
        }
        let mut waiting = Change::between(&running.effective, &new.effective);
        if waiting.iter().all(|change| change.key != "lease") {
            waiting.extend(lease_change(&self.configured.config, &new.config));
        }
        for change in &waiting {
            tracing::warn!("configuration: {change}: counts only after a restart");
        }
        // The source keeps running by what it was started with.
        running.config.source = self.configured.config.source.clone();
        self.apply(&running.config);
        self.configured = running;
        let waiting: Vec<String> = waiting.iter().map(ToString::to_string).collect();
        let message = (!waiting.is_empty()).then(|| {
            let waiting = waiting.join("; ");
            format!("it has changed, and this counts only after a restart of llb-agent: {waiting}")
        });
        self.set_problem(ProblemReason::RestartNeeded, message);
    }

    /// Tells all rooms. They get all that can change, whether it has changed or not.
    fn apply(&mut self, config: &Config) {
        telemetry::set_filter(&config.log);
        self.reconciler.configure_health(config.health);
        // The shares of namespaces are parts of it.
        raise_descriptor_limit(config);
        self.reconciler.rooms.plane.set_config(config.relay);
        let before = &self.configured.config.policy;
        if *before != config.policy {
            tracing::info!("{}", config.policy.what_is_open(&config.links));
        }
        let number = follow(&self.objects.interest, before, &config.policy);
        let waits = self.problem(
            ProblemReason::ConfigurationPending,
            "it has changed; llb-agent lists the objects of the cluster anew, and serves Services by the configuration \
             before until all lists are there"
                .to_owned(),
        );
        self.reconciler.set_policy(config.policy.clone(), number, waits);
    }

    /// A mistake hides what waits for a restart: the file is read as a whole, or not at all.
    fn set_problem(&mut self, reason: ProblemReason, message: Option<String>) {
        let problem = message.map(|message| self.problem(reason, message));
        self.reconciler.set_configuration_problems(problem.into_iter().collect());
    }

    fn problem(&self, reason: ProblemReason, message: String) -> Problem {
        let file = self.configured.command_line.file().display().to_string();
        Problem { subject: Subject::File(file), reason, message }
    }
}

/// Tells the source what it has to look at now, if that has changed. Returns the number of the interest.
fn follow(current: &watch::Sender<Interest>, before: &Policy, after: &Policy) -> u64 {
    let Interest { number, pools, .. } = current.borrow().clone();
    if looks_at(before) == looks_at(after) {
        return number;
    }
    current.send_replace(interest(after, number + 1, pools));
    tracing::info!(
        "the objects of the cluster are listed anew; Services are served by the configuration before until all lists are there"
    );
    number + 1
}

/// The parts of a policy that an [`Interest`] depends on.
fn looks_at(policy: &Policy) -> impl PartialEq {
    let Policy { namespaces, class, default_class, foreign_annotations, backends, .. } = policy.clone();
    (namespaces, class, default_class, foreign_annotations, backends)
}

/// The Lease depends on class and namespaces if it is not named.
fn lease_change(running: &Config, new: &Config) -> Option<Change> {
    let (SourceConfig::Kubernetes { lease: before, .. }, SourceConfig::Kubernetes { lease: after, .. }) =
        (&running.source, &new.source)
    else {
        return None;
    };
    let shown = |lease: &Option<crate::model::LeaseName>| lease.as_ref().map(ToString::to_string);
    let (before, after) = (shown(before), shown(after));
    (before != after).then(|| Change { key: "lease".to_owned(), before, after })
}
