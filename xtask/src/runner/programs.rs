// SPDX-License-Identifier: Apache-2.0
//! Test programs: builds them with one call of cargo, and asks them for their tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::shell;

/// A test target of cargo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The name of the target; for the tests inside of a library, the name of the library.
    pub(crate) name: &'static str,
    /// What `--only` calls the tier that it belongs to.
    pub(crate) tier: &'static str,
}

/// A test program that was built.
pub(crate) struct Program {
    pub(super) target: Target,
    file: PathBuf,
    /// The folder of its package, in which cargo would start it.
    folder: PathBuf,
}

/// Builds these targets. The packages are those of plain `cargo test`, so that features, and with them all
/// dependencies, are the same and are compiled once.
///
/// # Errors
/// One of them can't be built, or there is no such target.
pub(crate) fn build(targets: &[Target]) -> Result<Vec<Program>> {
    let mut cargo = shell::command("cargo");
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
    for target in targets {
        if is_library(target) {
            cargo.arg("--lib");
        } else {
            cargo.args(["--test", target.name]);
        }
    }
    let messages = shell::run_for_output(&mut cargo)?;
    let messages: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |target: &Target| {
        messages
            .iter()
            .find_map(|message| program(*target, message))
            .with_context(|| format!("cargo names no test program of {}", target.name))
    };
    targets.iter().map(find).collect()
}

/// The tests inside of a library have its name, with underscores.
fn is_library(target: &Target) -> bool {
    target.name.starts_with("llb_")
}

/// The program, if this message of cargo is about it.
fn program(target: Target, message: &Value) -> Option<Program> {
    let is_it = message["target"]["name"] == target.name && message["profile"]["test"] == true;
    let file = message["executable"].as_str().filter(|_| is_it)?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some(Program { target, file: file.into(), folder: folder.into() })
}

impl Program {
    /// The names of its ignored tests, in its own order.
    ///
    /// # Errors
    /// It can't be started, or fails.
    pub(super) fn tests(&self) -> Result<Vec<String>> {
        let list = shell::output(self.command().args(["--list", "--ignored", "--format", "terse"]))?;
        Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// The file that cargo has built.
    pub(crate) fn path(&self) -> &Path {
        &self.file
    }

    /// A command that starts it as cargo would.
    pub(crate) fn command(&self) -> Command {
        let mut command = shell::command(&self.file);
        command.current_dir(&self.folder);
        command
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::{Target, program};

    #[test]
    fn a_program_is_the_test_executable_of_its_target() {
        let target = Target { name: "lab", tier: "lab" };
        let message = |name: &str, is_test: bool, executable: Option<&str>| {
            json!({
                "reason": "compiler-artifact", "manifest_path": "/llb/tests/Cargo.toml",
                "target": {"name": name}, "profile": {"test": is_test}, "executable": executable,
            })
        };
        let found = program(target, &message("lab", true, Some("/llb/target/lab-1"))).unwrap();
        assert_eq!(found.command().get_program(), "/llb/target/lab-1");
        assert_eq!(found.command().get_current_dir(), Some(Path::new("/llb/tests")));
        for other in [
            message("addresses", true, Some("/llb/target/addresses-1")),
            message("lab", false, Some("/llb/target/lab")),
            message("lab", true, None),
            json!({"reason": "build-finished"}),
        ] {
            assert!(program(target, &other).is_none(), "{other}");
        }
    }
}
