// SPDX-License-Identifier: Apache-2.0
//! Provides kernels of distributions for the tests in virtual machines: fetches packages of Debian's archive and
//! unpacks them once per machine. Nothing is installed, and nothing is started.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{setup, shell};

/// A package name is `linux-image-RELEASE`, and the release ends with the architecture.
const PREFIX: &str = "linux-image-";
const ARCHITECTURE: &str = "-amd64";

/// One kernel that the tests start.
struct Kernel {
    /// The kernel of the last whole run. The archive forgets old ones after some months.
    pinned: &'static str,
    /// How the releases begin that may take its place, the newest first.
    series: &'static str,
}

const KERNELS: [Kernel; 2] = [
    Kernel { pinned: "6.1.0-56-amd64", series: "6.1." },
    Kernel { pinned: "6.12.117+deb12-amd64", series: "6.12." },
];

/// Installs what starts virtual machines, and returns the folders of all kernels as one value of `LLB_KERNELS`. Each
/// has `boot/` and `lib/modules/` of one package.
///
/// # Errors
/// apt is missing, or the archive can't be reached and the cache has not all of them.
pub(crate) fn provide() -> Result<OsString> {
    setup::install(&setup::KERNEL_TOOLS)?;
    let cache = shell::cache()?.join("kernels");
    let folders = KERNELS.iter().map(|kernel| kernel.provide(&cache)).collect::<Result<Vec<_>>>()?;
    std::env::join_paths(folders).context("the cache folder has a colon in its name")
}

impl Kernel {
    fn provide(&self, cache: &Path) -> Result<PathBuf> {
        let pinned = cache.join(self.pinned);
        if pinned.is_dir() {
            return Ok(pinned);
        }
        let release = self.choose()?;
        let folder = cache.join(&release);
        if !folder.is_dir() {
            fetch(&release, cache).with_context(|| format!("cannot get the kernel {release}"))?;
        }
        Ok(folder)
    }

    /// The pinned release, or the newest of its series that the archive has.
    fn choose(&self) -> Result<String> {
        ensure!(
            shell::find("apt-get").is_some(),
            "the kernels for virtual machines come from Debian's archive, and this system has no apt-get"
        );
        shell::run(shell::command("apt-get").args(["update", "--quiet"]))?;
        let releases = releases()?;
        if releases.iter().any(|release| release == self.pinned) {
            return Ok(self.pinned.to_owned());
        }
        let Some(release) = newest(&releases, self.series) else {
            bail!("the package archive of this system has no kernel {}x", self.series)
        };
        println!("the archive no longer has the kernel {}; {release} takes its place", self.pinned);
        Ok(release.to_owned())
    }
}

/// The releases of all kernels in the archive.
fn releases() -> Result<Vec<String>> {
    let names = shell::output(shell::command("apt-cache").args(["pkgnames", PREFIX]))?;
    Ok(names.lines().filter_map(|name| name.strip_prefix(PREFIX)).map(str::to_owned).collect())
}

/// Fetches and unpacks the package. apt checks its hash against the signed list of the archive.
fn fetch(release: &str, cache: &Path) -> Result<()> {
    let draft = cache.join(format!("{release}.draft"));
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    fs::create_dir_all(&draft).with_context(|| format!("cannot make {}", draft.display()))?;
    let package = format!("{PREFIX}{release}");
    shell::run(shell::command("apt-get").args(["download", "--quiet", &package]).current_dir(&draft))?;
    let files = fs::read_dir(&draft)?.collect::<Result<Vec<_>, _>>()?;
    let [file] = files.as_slice() else { bail!("apt-get download left {} files", files.len()) };
    shell::run(shell::command("dpkg-deb").arg("-x").arg(file.path()).arg(&draft))?;
    fs::remove_file(file.path())?;
    // Not installed, so nobody else has listed which module needs which.
    let depmod = shell::find("depmod").context("depmod is missing; it is part of the package kmod")?;
    shell::run(shell::command(depmod).arg("-b").arg(&draft).arg(release))?;
    // From here on it is whole.
    fs::rename(&draft, cache.join(release)).context("cannot put the kernel into the cache")
}

/// The newest release of the series for usual machines: not those for clouds or real time.
fn newest<'a>(names: &'a [String], series: &str) -> Option<&'a String> {
    let is_usual = |name: &&String| {
        let middle = name.strip_prefix(series).and_then(|rest| rest.strip_suffix(ARCHITECTURE));
        middle.is_some_and(|middle| !["cloud", "rt"].iter().any(|kind| middle.ends_with(kind)))
    };
    names.iter().filter(is_usual).max_by_key(|name| numbers(name))
}

/// The numbers in a release, to compare by.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_usual_kernel_of_a_series() {
        let names = [
            "6.1.0-9-amd64",
            "6.1.0-56-amd64",
            "6.1.0-57-cloud-amd64",
            "6.1.0-57-rt-amd64",
            "6.1.0-58-amd64-unsigned",
            "6.12.117+deb12-amd64",
            "6.12-amd64",
            "6.12.99+deb12-amd64",
        ];
        let names = names.map(str::to_owned);
        assert_eq!(newest(&names, "6.1.").unwrap(), "6.1.0-56-amd64");
        assert_eq!(newest(&names, "6.12.").unwrap(), "6.12.117+deb12-amd64");
        assert_eq!(newest(&names, "6.6."), None);
    }
}
