// SPDX-License-Identifier: Apache-2.0
//! The image for containers, unpacked by another program than the one that made it, and run as a container runtime would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use llb_tests::Host;
use serde_json::Value;
use tempfile::TempDir;

use crate::shipped::{ARCHITECTURE, VERSION, assert_is_shipped_program, file, files, said, tool};

/// The root of a container.
pub(crate) struct Image {
    folder: TempDir,
}

impl Image {
    /// Unpacks the image for this machine.
    pub(crate) fn unpack() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        // skopeo chooses the architecture, as a runtime does.
        let image = format!("{}:{VERSION}", at("chosen"));
        said(&mut tool(
            "skopeo",
            &["--insecure-policy", "copy", "--quiet", &source(), &format!("oci:{image}")],
        ));
        said(&mut tool("umoci", &["unpack", "--image", &image, &at("bundle")]));
        Self { folder }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("bundle/rootfs")
    }

    /// A command that starts its program on a host, with what a Pod of the host's network gets: /proc, /sys, and these
    /// volumes. The mounts end with the process.
    pub(crate) fn command(&self, host: &Host, volumes: &[(&Path, &str)]) -> Command {
        let root = self.root();
        let root = root.display();
        let mut script = format!(
            "set -e\nmkdir -p {root}/proc {root}/sys\nmount --rbind /proc {root}/proc\nmount --rbind /sys {root}/sys\n"
        );
        for (folder, name) in volumes {
            script.push_str(&format!(
                "mkdir -p {root}{name}\nmount --bind {} {root}{name}\n",
                folder.display()
            ));
        }
        script.push_str(&format!("exec chroot {root} /usr/bin/llb-agent \"$@\""));
        let mut command = host.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command
    }

    /// What a runtime would start it with.
    fn config(&self) -> Value {
        let text = fs::read_to_string(self.folder.path().join("bundle/config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// The shipped file, as skopeo calls it.
fn source() -> String {
    format!("oci-archive:{}", file(&format!("llb-{VERSION}-oci.tar")).display())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_image_has_the_binary_and_nothing_that_it_does_not_need() {
    let image = Image::unpack();
    let names: Vec<String> = files(&image.root()).into_keys().collect();
    let licences = ["usr/share/licenses/llb/LICENSE", "usr/share/licenses/llb/third-party-licenses.txt"];
    assert_eq!(names, [&["usr/bin/llb-agent"][..], &licences].concat());
    assert_is_shipped_program(&image.root().join("usr/bin/llb-agent"));
    let inside = said(tool("chroot", &[]).arg(image.root()).args(["/usr/bin/llb-agent", "--version"]));
    assert!(inside.starts_with(&format!("llb-agent {VERSION}\n")), "{inside}");
    assert_eq!(image.config()["process"]["args"][0], "/usr/bin/llb-agent");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_layout_names_an_image_for_each_architecture() {
    let index: Value =
        serde_json::from_str(&said(&mut tool("skopeo", &["inspect", "--raw", &source()]))).unwrap();
    let platforms: Vec<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|manifest| {
            let platform = &manifest["platform"];
            format!("{}/{}", platform["os"].as_str().unwrap(), platform["architecture"].as_str().unwrap())
        })
        .collect();
    let own = if ARCHITECTURE == "aarch64" { "linux/arm64" } else { "linux/amd64" };
    assert!(platforms.iter().any(|platform| platform == own), "{platforms:?}");
}
