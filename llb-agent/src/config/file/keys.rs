// SPDX-License-Identifier: Apache-2.0
//! Which keys there are: one for each flag, with the name of the flag. clap's definition of the flags is the
//! only one.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, Error};
use clap::{Arg, ArgAction, Args, Command};

use crate::config::arguments::ServeArgs;
use crate::error_chain::ErrorChain;
use crate::suggestion::did_you_mean;

/// Flags that are no keys: a file can't say where it is.
const NOT_IN_FILE: [&str; 1] = ["config"];

/// All keys.
pub(in crate::config) struct Keys {
    command: Command,
}

impl Keys {
    pub(in crate::config) fn new() -> Self {
        let command = Command::new("llb-agent").no_binary_name(true).disable_help_flag(true);
        Self { command: ServeArgs::augment_args(command) }
    }

    /// The flags that are keys, in the order of `--help`.
    pub(in crate::config) fn all(&self) -> impl Iterator<Item = &Arg> {
        self.command.get_arguments().filter(|arg| !NOT_IN_FILE.contains(&name(arg)))
    }

    pub(super) fn find(&self, key: &str) -> Option<&Arg> {
        self.all().find(|arg| name(arg) == key)
    }

    /// Whether the two can't be given together.
    pub(in crate::config) fn are_in_conflict(&self, one: &str, other: &str) -> bool {
        let Some((one, other)) = self.find(one).zip(self.find(other)) else { return false };
        let excludes = |a: &Arg, b: &Arg| self.command.get_arg_conflicts_with(a).contains(&b);
        excludes(one, other) || excludes(other, one)
    }

    /// What clap makes of the arguments.
    pub(in crate::config) fn read(&self, arguments: &[String]) -> Result<ServeArgs, Error> {
        let matches = self.command.clone().try_get_matches_from(arguments)?;
        clap::FromArgMatches::from_arg_matches(&matches)
    }

    /// Checks one value of a key.
    pub(super) fn check(&self, arg: &Arg, text: &str) -> Result<(), String> {
        let Some(argument) = argument(arg, text) else { return Ok(()) };
        self.read(&[argument]).map(drop).map_err(|error| said(&error, text))
    }
}

/// The name of the key.
pub(in crate::config) fn name(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_default()
}

/// Whether it can have several values.
pub(in crate::config) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether it is true or false.
pub(super) fn is_switch(arg: &Arg) -> bool {
    is_bare(arg) || value_name(arg) == Some("BOOL")
}

/// Whether TOML writes it without quotes.
pub(super) fn is_number(arg: &Arg) -> bool {
    matches!(value_name(arg), Some("N" | "PERCENT"))
}

fn value_name(arg: &Arg) -> Option<&str> {
    arg.get_value_names()?.first().map(AsRef::as_ref)
}

/// Whether the flag has no value: it is true if it is there.
fn is_bare(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The value as an argument of a command line; `None` if it is not to be there.
pub(in crate::config) fn argument(arg: &Arg, text: &str) -> Option<String> {
    match (is_bare(arg), text) {
        (true, "true") => Some(format!("--{}", name(arg))),
        (true, _) => None,
        (false, _) => Some(format!("--{}={text}", name(arg))),
    }
}

/// What clap says about a value, without what it says about flags.
fn said(error: &Error, given: &str) -> String {
    if let Some(cause) = error.source() {
        return format!("{given:?}: {}", ErrorChain(cause));
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => {
            let near = did_you_mean(given, valid.iter().map(String::as_str));
            format!("{given:?} is not one of {}{near}", valid.join(", "))
        }
        _ => format!("{given:?}: {}", error.kind()),
    }
}
