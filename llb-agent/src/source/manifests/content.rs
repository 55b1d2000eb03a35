// SPDX-License-Identifier: Apache-2.0
//! The last good content of each manifest file, and what is wrong with the current one.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use super::parse::{self, Objects};
use crate::error_chain::ErrorChain;
use crate::model::{MESSAGE_BYTES, Problem, ProblemReason, ServiceName, Subject, cut};

/// The content of one file.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) objects: Objects,
    /// What is wrong with the file now; `bytes` and `objects` are of its last good content.
    pub(super) problem: Option<Problem>,
}

impl Content {
    /// Whether there was good content that was not empty.
    pub(super) fn is_in_use(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(super) fn replace(&mut self, path: &Path, bytes: Vec<u8>) {
        match parse::parse(&bytes) {
            Ok(objects) => *self = Self { bytes, objects, problem: None },
            Err(error) => self.report(problem_of(path, &error, self.is_in_use())),
        }
    }

    pub(super) fn report(&mut self, problem: Problem) {
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!("{problem}");
        }
        self.problem = Some(problem);
    }
}

/// Services that are in two files. The last one is used (see `convert`).
pub(super) fn doubles(files: &BTreeMap<PathBuf, Content>) -> Vec<Problem> {
    let mut places = BTreeMap::new();
    let mut problems = Vec::new();
    for (path, content) in files {
        for service in &content.objects.services {
            let metadata = &service.metadata;
            let namespace = metadata.namespace.as_deref().unwrap_or("default");
            let name = metadata.name.as_deref().unwrap_or_default();
            if let Some(earlier) = places.insert((namespace, name), path) {
                let (earlier, path) = (earlier.display(), path.display());
                let message = format!(
                    "it is in {earlier} and again in {path}; the last one is used; remove one of them"
                );
                let service = ServiceName::new(namespace, name);
                problems.push(Problem::of_service(&service, ProblemReason::InvalidValue, message));
            }
        }
    }
    problems
}

pub(super) fn problem_of(path: &Path, error: &dyn Error, is_in_use: bool) -> Problem {
    let rest = if is_in_use { "its last good content stays in use" } else { "nothing from it is in use" };
    // The error may quote the file.
    let error = cut(ErrorChain(error).to_string(), MESSAGE_BYTES / 2);
    let problem = Problem {
        subject: Subject::File(path.display().to_string()),
        reason: ProblemReason::InvalidManifest,
        message: format!("{error}; {rest}"),
    };
    problem.bounded()
}
