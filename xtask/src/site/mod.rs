// SPDX-License-Identifier: Apache-2.0
//! The site of all documents: gathers the pages, has mdBook build them, and checks every local link of the result.
//!
//! ```text
//! docs/SUMMARY.md --pages.rs--> target/site/pages --mdbook--> target/site/html --links.rs--> complaints
//! ```

mod links;
mod pages;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Pinned, because another version may write other pages.
const MDBOOK_VERSION: &str = "0.5.4";

/// Builds the site into target/site/html.
///
/// # Errors
/// A page is missing, mdBook refuses one, or a link leads nowhere. All such links are printed.
pub(crate) fn run() -> Result<()> {
    let folder = shell::workspace().join("target/site");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("pages"))?;
    pages::gather(shell::workspace(), &folder.join("pages"))?;
    fs::copy(shell::workspace().join("docs/book.toml"), folder.join("book.toml"))?;
    shell::run(shell::command(provide_mdbook()?).arg("build").arg(&folder))?;
    check(&folder.join("html"))
}

fn check(html: &Path) -> Result<()> {
    let site = links::Site::read(html)?;
    let complaints = site.complaints();
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    if !complaints.is_empty() {
        bail!("site: {} links lead nowhere", complaints.len());
    }
    println!("site: {} pages, open {}", site.pages(), html.join("index.html").display());
    Ok(())
}

fn provide_mdbook() -> Result<PathBuf> {
    let root = shell::cache()?.join(format!("tools/mdbook-{MDBOOK_VERSION}"));
    let program = root.join("bin/mdbook");
    if !program.is_file() {
        println!("mdbook {MDBOOK_VERSION} is built once per machine; this takes some minutes");
        let mut cargo = shell::foreign_build("cargo");
        // It runs for a second, so it need not be compiled as if it ran for hours.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "false");
        cargo.args(["install", "mdbook", "--version", MDBOOK_VERSION, "--locked", "--debug"]);
        cargo.args(["--no-default-features", "--features", "search", "--root"]);
        shell::run(cargo.arg(&root)).context("mdbook can't be built")?;
    }
    Ok(program)
}
