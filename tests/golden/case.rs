// SPDX-License-Identifier: Apache-2.0
//! The text format of a case. `main.rs` runs the cases.

/// One file of `cases/`.
pub(crate) struct Case {
    /// Everything before the first `manifests`, as it is in the file.
    pub(crate) head: String,
    pub(crate) flags: String,
    pub(crate) links: String,
    pub(crate) sections: Vec<Section>,
}

pub(crate) enum Section {
    Manifests { text: String },
    Expected,
}

impl Case {
    pub(crate) fn parse(text: &str) -> Self {
        let mut case =
            Self { head: String::new(), flags: String::new(), links: String::new(), sections: Vec::new() };
        let mut name = "";
        for line in text.split_inclusive('\n') {
            if let Some(next) = line.strip_prefix("=== ") {
                name = next.trim();
                match name {
                    "manifests" => case.sections.push(Section::Manifests { text: String::new() }),
                    "expected" => case.sections.push(Section::Expected),
                    "flags" | "link" => case.head.push_str(line),
                    other => panic!("unknown section {other}"),
                }
                continue;
            }
            match (name, case.sections.last_mut()) {
                ("manifests", Some(Section::Manifests { text })) => text.push_str(line),
                ("expected", _) => {}
                ("flags", _) => case.flags.push_str(line),
                ("link", _) => case.links.push_str(line),
                _ => {}
            }
            if case.sections.is_empty() {
                case.head.push_str(line);
            }
        }
        case
    }
}
