// SPDX-License-Identifier: Apache-2.0
//! Runs other programs. Each one is printed as a `$ ...` line first and writes to our own output; an error names it.
//! Does not know what the programs do.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Variables that `cargo run` gives its child. Some build scripts (ring's) watch them, so a cargo that we start would
/// rebuild what a cargo started by hand has built.
const LEAKED_BY_CARGO_RUN: [&str; 4] = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_"];

/// Variables that choose compiler, flags, target or folders. They are right for the host and wrong for a child that
/// builds for another target.
const HOST_BUILD: [&str; 8] = [
    "RUSTC",
    "RUSTFLAGS",
    "RUSTDOC",
    "CARGO_ENCODED_",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_",
    "CARGO_PROFILE_",
    "CARGO_UNSTABLE_",
];

/// The folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The folder for what is built once per machine. `cargo clean` does not remove it.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match variable("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&variable("HOME").context("HOME is not set, so there is no cache folder")?)
            .join(".cache"),
    };
    Ok(base.join("llb"))
}

/// A variable of our own environment.
#[expect(clippy::disallowed_methods, reason = "the one place of xtask that reads a variable")]
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// A command that runs in the workspace, without the variables of `cargo run`.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace());
    remove_variables(&mut command, &LEAKED_BY_CARGO_RUN);
    command.env_remove("CARGO").env_remove("MAKEFLAGS").env_remove("CARGO_MAKEFLAGS");
    command
}

/// The same for a child that builds for another target than the host, or for itself.
pub(crate) fn foreign_build(program: impl AsRef<OsStr>) -> Command {
    let mut command = command(program);
    remove_variables(&mut command, &HOST_BUILD);
    command
}

/// Runs the command to its end. Its output goes to ours.
///
/// # Errors
/// The command can't be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", line(command));
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// As [`run`], but returns its standard output. Its standard error goes to ours.
///
/// # Errors
/// As [`run`], or it writes something else than text.
pub(crate) fn run_for_output(command: &mut Command) -> Result<String> {
    println!("$ {}", line(command));
    let output = command.stderr(Stdio::inherit()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs the command and returns its standard output. Prints nothing.
///
/// # Errors
/// The command can't be started, fails (the error contains its standard error), or writes something else than text.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", line(command), output.status, said.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Finds `program` on PATH or in a folder of system programs, which is not on every user's PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The command as one would type it, with the variables that were added to its environment.
fn line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    // Cargo's separator of encoded flags is not visible on a terminal.
    let word = word.to_string_lossy().replace('\u{1f}', " ");
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "\"'$*;|&<>()".contains(c)) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word
    }
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", command.get_program().to_string_lossy())
}

#[expect(clippy::disallowed_methods, reason = "only the names of all variables can match a prefix")]
fn remove_variables(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in env::vars_os() {
        if prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{command, line, output};

    #[test]
    fn the_line_can_be_typed() {
        let mut echo = command("echo");
        echo.args(["one", "two words", "it's"]).env("FLAGS", "a\u{1f}b");
        assert_eq!(line(&echo), r"FLAGS='a b' echo one 'two words' 'it'\''s'");
    }

    #[test]
    fn a_failure_shows_the_command_and_its_standard_error() {
        let error = output(command("sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("no such thing") && text.contains('3'), "{text}");
        assert!(output(&mut command("llb-no-such-program")).is_err());
    }
}
