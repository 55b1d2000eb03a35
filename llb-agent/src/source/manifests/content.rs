// SPDX-License-Identifier: Apache-2.0
//! The last good content of each manifest file, and what is wrong with the current one.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use super::parse::{self, Located, Objects};
use crate::error_chain::ErrorChain;
use crate::model::{MESSAGE_BYTES, Problem, ProblemReason, ServiceName, Subject, cut};

/// More warnings of one file are only counted.
const MOST: usize = 20;

/// The content of one file.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) objects: Objects,
    /// What was ignored in it and is probably a typing error.
    warnings: Vec<Problem>,
    /// What is wrong with the file now; the rest is of its last good content.
    pub(super) problem: Option<Problem>,
}

impl Content {
    /// Good content. Everything that is in the file twice or unknown becomes a warning.
    pub(super) fn new(path: &Path, bytes: Vec<u8>, objects: Objects) -> Self {
        let shown = path.display().to_string();
        let warn = |message| Problem {
            subject: Subject::File(shown.clone()),
            reason: ProblemReason::UnknownName,
            message,
        };
        let warnings = objects.warnings.iter();
        let first = warnings
            .clone()
            .take(MOST)
            .map(|warning| warn(format!("line {}: {}", warning.line, warning.message)));
        let more = warnings.len().saturating_sub(MOST);
        let rest = (more > 0).then(|| warn(format!("{more} further names in it are unknown")));
        let warnings = first.chain(rest).collect();
        Self { bytes, objects, warnings, problem: None }
    }

    /// The warnings, and what is wrong with the file now.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.warnings.iter().chain(&self.problem)
    }

    /// Whether there was good content that was not empty.
    pub(super) fn is_in_use(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(super) fn replace(&mut self, path: &Path, bytes: Vec<u8>) {
        match parse::parse(&bytes) {
            Ok(objects) => *self = Self::new(path, bytes, objects),
            Err(error) => self.report(problem_of(path, &error, self.is_in_use())),
        }
    }

    pub(super) fn report(&mut self, problem: Problem) {
        self.problem = Some(problem);
    }
}

/// Services that are there twice, in one file or in two. The last one is used (see `convert`).
pub(super) fn doubles(files: &BTreeMap<PathBuf, Content>) -> Vec<Problem> {
    let mut places = BTreeMap::new();
    let mut problems = Vec::new();
    for (path, content) in files {
        for Located { line, object } in &content.objects.services {
            let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let Some((earlier, earlier_line)) = places.insert((namespace, name), (path, *line)) else {
                continue;
            };
            let place = match path == earlier {
                true => format!("{} twice, in lines {earlier_line} and {line}", path.display()),
                false => {
                    let (earlier, path) = (earlier.display(), path.display());
                    format!("{earlier}, line {earlier_line}, and again in {path}, line {line}")
                }
            };
            let message = format!("it is in {place}; the last one is used; remove one of them");
            let service = ServiceName::new(namespace, name);
            problems.push(Problem::of_service(&service, ProblemReason::InvalidValue, message));
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
