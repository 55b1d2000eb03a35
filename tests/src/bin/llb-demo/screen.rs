// SPDX-License-Identifier: Apache-2.0
//! How the output of the demo looks.

use std::io::{IsTerminal, stdout};

/// A line of plain text.
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// The title of a step.
pub(crate) fn step(number: usize, title: &str) {
    println!("\n{}", styled("1", &format!("{number}. {title}")));
}

/// A command that is run, with the host as its prompt.
pub(crate) fn command(host: &str, text: &str) {
    println!("   {} {text}", styled("36", &format!("{host}#")));
}

/// The output of a command.
pub(crate) fn output(text: &str) {
    for line in text.lines() {
        println!("   {line}");
    }
}

/// Something that happens now, other than a command.
pub(crate) fn event(text: &str) {
    println!("   {}", styled("33", &format!("-- {text}")));
}

/// What a step claims is true.
pub(crate) fn passed(text: &str) {
    println!("   {} {text}", styled("32", "✓"));
}

/// What a step claims is not true, or could not be tried.
pub(crate) fn failed(error: &anyhow::Error) {
    println!("   {} {error:#}", styled("31", "✗ FAILED:"));
}

/// Text with an ANSI style, if the output is a terminal.
fn styled(code: &str, text: &str) -> String {
    if stdout().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
