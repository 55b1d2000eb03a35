// SPDX-License-Identifier: Apache-2.0
//! What is shipped. docs/packaging.md says what comes out, and why it is built like this.
//!
//! ```text
//!   eBPF objects -> binary.rs --> files.rs ---> archive.rs   tar.gz, and the debug information
//!   pages.rs ------------------------'    |---> packages.rs  deb, rpm
//!   (man pages, completions)              |---> sbom.rs      what the binary was made of
//!                                         `---> image.rs     all architectures in one image
//! ```

mod architecture;
mod archive;
mod binary;
mod crates;
mod files;
mod folders;
mod image;
mod licences;
mod packages;
mod pages;
mod reproducible;
mod revision;
mod sbom;
mod tools;

use std::path::PathBuf;

use anyhow::Result;

use crate::build_ebpf;

pub(crate) use architecture::Architecture;
pub(crate) use binary::Profile;
use files::Files;
pub(crate) use packages::debian_package;
pub(crate) use reproducible::check as check_reproducible;
use revision::Revision;

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// For this architecture; repeatable [default: all]
    #[arg(long = "arch", value_name = "ARCH")]
    architectures: Vec<Architecture>,
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Build nothing that is shipped; instead build llb's own crates and the eBPF programs in a second folder, and fail
    /// unless the bytes are the same
    #[arg(long)]
    check_reproducible: bool,
    /// With --check-reproducible: also build all dependencies again, with another folder of cargo
    #[arg(long, requires = "check_reproducible")]
    whole: bool,
}

/// Builds everything anew into `target/dist`, or checks that the bytes depend on the sources only.
///
/// # Errors
/// Something can't be built; or two builds differ.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut architectures = arguments.architectures.clone();
    if architectures.is_empty() {
        architectures = Architecture::ALL.into();
    }
    if arguments.check_reproducible {
        return reproducible::check(&architectures, arguments.profile, arguments.whole);
    }
    build(&architectures, arguments.profile).map(drop)
}

/// Builds everything for these architectures. Returns the programs, as they are shipped.
///
/// # Errors
/// Something can't be built.
pub(crate) fn build(architectures: &[Architecture], profile: Profile) -> Result<Vec<PathBuf>> {
    tools::install(architectures)?;
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    let revision = Revision::find()?;
    folders::replace(&folders::shipped())?;
    let pages = pages::write(&folders::build().join("pages"), &revision)?;
    let mut all = Vec::new();
    for architecture in architectures {
        let binary = binary::build(*architecture, profile, &revision)?;
        let files = Files::new(*architecture, profile, binary, &pages)?;
        archive::write(&files, &revision)?;
        packages::write(&files, &revision)?;
        sbom::write(&files)?;
        all.push(files);
    }
    image::write(&all, &revision)?;
    archive::write_sums()?;
    println!("what is shipped is in {}", folders::shipped().display());
    Ok(all.into_iter().map(|files| files.binary.program).collect())
}
