// SPDX-License-Identifier: Apache-2.0
//! The binary itself. Its size is limited by `cargo xtask dist`.

use std::fs;
use std::path::Path;
use std::process::Command;

use llb_tests::agent;
use object::elf::{PT_DYNAMIC, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSection as _};

use crate::shipped::{VERSION, file_of_target, said, unpacked};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_binary_is_static_and_stripped() {
    let bytes = fs::read(agent::binary().unwrap()).unwrap();
    let header = object::elf::FileHeader64::<Endianness>::parse(&*bytes).unwrap();
    let endian = header.endian().unwrap();
    for segment in header.program_headers(endian, &*bytes).unwrap() {
        assert_ne!(segment.p_type(endian), PT_INTERP, "it asks for a loader");
        if segment.p_type(endian) == PT_DYNAMIC {
            let dynamic = segment.dynamic(endian, &*bytes).unwrap().unwrap();
            let needed = dynamic.iter().filter(|entry| entry.d_tag.get(endian) == object::elf::DT_NEEDED);
            assert_eq!(needed.count(), 0, "it asks for libraries");
        }
    }
    let elf = object::File::parse(&*bytes).unwrap();
    for section in [".debug_info", ".debug_line", ".debug_str", ".symtab"] {
        assert!(elf.section_by_name(section).is_none(), "{section}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_debug_information_belongs_to_the_binary() {
    let folder = unpacked(&file_of_target("-debug.tar.gz"));
    let debug = fs::read(folder.path().join("llb-agent.debug")).unwrap();
    let bytes = fs::read(agent::binary().unwrap()).unwrap();
    let (debug, elf) = (object::File::parse(&*debug).unwrap(), object::File::parse(&*bytes).unwrap());
    assert!(elf.build_id().unwrap().is_some(), "no build id");
    assert_eq!(debug.build_id().unwrap(), elf.build_id().unwrap());
    assert!(debug.section_by_name(".debug_line").is_some_and(|section| section.size() > 0));
    let (name, _) = elf.gnu_debuglink().unwrap().unwrap();
    assert_eq!(name, b"llb-agent.debug");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_version_names_revision_target_and_objects() {
    let said = said(Command::new(agent::binary().unwrap()).arg("--version"));
    let value = |key: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key}: {said}")).trim().to_owned()
    };
    assert_eq!(said.lines().next(), Some(format!("llb-agent {VERSION}").as_str()));
    assert_eq!(value("target"), format!("{}-unknown-linux-musl", std::env::consts::ARCH));
    let revision = value("revision");
    let revision = revision.trim_end_matches(", with changes");
    assert!(revision.len() >= 40 && revision.chars().all(|c| c.is_ascii_hexdigit()), "{said}");
    for object in ["packet.o", "sockmap.o"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf").join(object);
        let sum = crate::shipped::said(Command::new("sha256sum").arg(path));
        let hash = sum.split(' ').next().unwrap();
        assert_eq!(value(object), format!("sha256:{hash}"));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_binary_does_not_name_folders_of_this_machine() {
    let bytes = fs::read(agent::binary().unwrap()).unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for folder in [workspace.to_str().unwrap(), "/.cargo/registry", "/.rustup/"] {
        let found = bytes.windows(folder.len()).position(|window| window == folder.as_bytes());
        let shown =
            found.map(|at| String::from_utf8_lossy(&bytes[at..(at + 120).min(bytes.len())]).into_owned());
        assert_eq!(shown, None, "{folder}");
    }
}
