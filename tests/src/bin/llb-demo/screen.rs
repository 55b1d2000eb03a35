// SPDX-License-Identifier: Apache-2.0
//! How the demo looks. It knows nothing of what is shown.

use std::io::{IsTerminal, stdout};

/// A line of plain text.
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// The head line of a step.
pub(crate) fn step(number: usize, title: &str) {
    println!("\n{}", styled("1", &format!("{number}. {title}")));
}

/// A command as it is run, with the host as prompt.
pub(crate) fn command(host: &str, text: &str) {
    println!("   {} {text}", styled("36", &format!("{host}#")));
}

/// What a command said.
pub(crate) fn output(text: &str) {
    for line in text.lines() {
        println!("   {line}");
    }
}

/// Something that happens now, other than a command.
pub(crate) fn event(text: &str) {
    println!("   {}", styled("33", &format!("-- {text}")));
}

/// A step's claim holds.
pub(crate) fn passed(text: &str) {
    println!("   {} {text}", styled("32", "✓"));
}

/// A step's claim does not hold, or it could not be tried.
pub(crate) fn failed(error: &anyhow::Error) {
    println!("   {} {error:#}", styled("31", "✗ FAILED:"));
}

/// With an ANSI style where somebody looks at it.
fn styled(code: &str, text: &str) -> String {
    if stdout().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
