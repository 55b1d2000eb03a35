// SPDX-License-Identifier: Apache-2.0
//! Writes the man pages and the shell completions of `llb-agent` from the one definition of its flags. An example, so that
//! the agent itself does not contain what writes them: `cargo run --package llb-agent --example pages FOLDER DATE`.

use std::path::Path;
use std::{env, fs, io};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use llb_agent::config::Cli;

/// The name of the program.
const PROGRAM: &str = "llb-agent";

/// System administration.
const SECTION: &str = "8";

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, date] = &arguments[..] else { return Err(io::Error::other("usage: pages FOLDER DATE")) };
    let (man, completions) = (Path::new(folder).join("man"), Path::new(folder).join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    // Which build wrote a page is of no interest: only its version is.
    let mut command = Cli::command()
        .long_version(None::<&str>)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true);
    command.build();
    page(&command, date, &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, PROGRAM, &completions)?;
    }
    Ok(())
}

/// One page for the command, and one for each subcommand.
fn page(command: &Command, date: &str, folder: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        page(subcommand, date, folder)?;
    }
    let source = format!("llb {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).section(SECTION).date(date).source(source).manual("llb");
    man.generate_to(folder).map(drop)
}
