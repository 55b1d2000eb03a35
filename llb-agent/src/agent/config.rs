// SPDX-License-Identifier: Apache-2.0
//! `llb-agent check-config` and `llb-agent config`. Both only read.

use std::path::Path;

use crate::config::{Configured, check_file};

/// Says whether the file can be used.
///
/// # Errors
/// All mistakes in it.
pub(super) fn check(file: &Path) -> anyhow::Result<()> {
    let names_a_link = check_file(file)?;
    println!("{}: no mistakes", file.display());
    if !names_a_link {
        println!("it names no link device, so llb-agent needs the flag --linkdevice, or the key linkdevice");
    }
    Ok(())
}

/// Prints the configuration as TOML.
pub(super) fn show(configured: &Configured) -> anyhow::Result<()> {
    let file = configured.command_line.file().display();
    match configured.content.is_some() {
        true => println!("# configuration file: {file}"),
        false => println!("# configuration file: none ({file} does not exist)"),
    }
    print!("{}", configured.effective);
    Ok(())
}
