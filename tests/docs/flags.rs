// SPDX-License-Identifier: Apache-2.0
//! docs/reference/flags.md: all flags, from the definition that the agent parses them with.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};
use llb_agent::config::Cli;

use crate::documents::{cell, head};

/// For flags without a heading of their own.
const LINKS: &str = "Links";

pub(crate) fn page() -> String {
    let agent = Cli::command();
    let mut page = head(
        "Flags",
        "`llb-agent --help` shows the same. A flag that is called repeatable may be given several times.",
    );
    let mut headings: Vec<&str> = Vec::new();
    for arg in shown(&agent) {
        let heading = arg.get_help_heading().unwrap_or(LINKS);
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        let args = shown(&agent).filter(|arg| arg.get_help_heading().unwrap_or(LINKS) == heading);
        write!(page, "\n## {heading}\n\n{}", table(args)).unwrap();
    }
    if let Some(after) = agent.get_after_help() {
        write!(page, "\n## Values and environment\n\n{after}\n").unwrap();
    }
    page.push_str("\n## Subcommands\n");
    for command in agent.get_subcommands().filter(|command| !command.is_hide_set()) {
        let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
        write!(
            page,
            "\n### llb-agent {}\n\n{}\n\n{}",
            command.get_name(),
            about.trim(),
            table(shown(command))
        )
        .unwrap();
    }
    page
}

fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set())
}

fn table<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let rows: String = args.map(row).collect();
    if rows.is_empty() { rows } else { format!("| flag | default | |\n|---|---|---|\n{rows}") }
}

fn row(arg: &Arg) -> String {
    let values = arg.get_value_names().filter(|_| arg.get_action().takes_values()).unwrap_or_default();
    let values = values.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(" ");
    let name = match arg.get_long() {
        Some(long) if values.is_empty() => format!("--{long}"),
        Some(long) => format!("--{long} {values}"),
        None => values,
    };
    let help =
        arg.get_long_help().or(arg.get_help()).unwrap_or_else(|| panic!("{name} has no help")).to_string();
    // A default that depends on something is told in the help.
    let (help, told) = match help.split_once("[default: ") {
        Some((before, rest)) => {
            let (told, after) = rest.split_once(']').unwrap();
            (format!("{}{after}", before.trim_end()), Some(told.to_owned()))
        }
        None => (help, None),
    };
    let values = arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy()));
    let defaults: Vec<String> = values.chain(told).collect();
    let mut help = sentences(&help);
    for value in arg.get_possible_values() {
        if let Some(meaning) = value.get_help().filter(|_| !value.is_hide_set()) {
            write!(help, " `{}`: {}", value.get_name(), sentences(&meaning.to_string())).unwrap();
        }
    }
    format!("| `{}` | {} | {} |\n", cell(&name), cell(&defaults.join(", ")), cell(&help))
}

/// Each paragraph as a sentence: the first one of a flag's help has no full stop.
fn sentences(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty());
    let ended = paragraphs.map(|paragraph| {
        let is_ended = paragraph.ends_with(['.', ':']);
        format!("{paragraph}{}", if is_ended { "" } else { "." })
    });
    ended.collect::<Vec<_>>().join(" ")
}
