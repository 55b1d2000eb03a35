// SPDX-License-Identifier: Apache-2.0
//! Each file names its licence in its first line, or in its second line after `#!`.
//!
//! Why: a file that is copied elsewhere takes its licence along, and tools that list licences can read it.

use super::source::{Complaint, Source};

/// The licence of all other files.
const DEFAULT: &str = "Apache-2.0";

/// The licence of what ends up inside an eBPF object. llb-ebpf/Cargo.toml says why there are two.
const IN_THE_KERNEL: &str = "Apache-2.0 OR GPL-2.0-only";
const IN_THE_KERNEL_FOLDERS: [&str; 2] = ["llb-ebpf/", "llb-common/"];

pub(super) fn check(source: &Source) -> Vec<Complaint> {
    let wanted = wanted(&source.path);
    let line = source.text.lines().find(|line| !line.starts_with("#!/")).unwrap_or_default();
    if line == wanted {
        return Vec::new();
    }
    vec![source.complaint(1, format!("the first line must be `{wanted}`"))]
}

fn wanted(path: &str) -> String {
    let is_in_the_kernel = IN_THE_KERNEL_FOLDERS.iter().any(|folder| path.starts_with(folder));
    let licence = if is_in_the_kernel { IN_THE_KERNEL } else { DEFAULT };
    let (before, after) = match path.rsplit('.').next() {
        Some("rs" | "go" | "mod") => ("// ", ""),
        Some("md") => ("<!-- ", " -->"),
        _ => ("# ", ""),
    };
    format!("{before}SPDX-License-Identifier: {licence}{after}")
}

#[cfg(test)]
mod tests {
    use super::super::source::source;
    use super::check;

    #[test]
    fn each_kind_of_file_has_its_comment_and_its_licence() {
        let complaints = |path: &str, text: &str| check(&source(path, text)).len();
        assert_eq!(complaints("xtask/src/a.rs", "// SPDX-License-Identifier: Apache-2.0\n//! A.\n"), 0);
        assert_eq!(complaints("xtask/src/a.rs", "//! A.\n"), 1);
        assert_eq!(complaints("llb-ebpf/src/a.rs", "// SPDX-License-Identifier: Apache-2.0\n"), 1);
        let both = "// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only\n";
        assert_eq!(complaints("llb-ebpf/src/a.rs", both), 0);
        assert_eq!(complaints("docs/a.md", "<!-- SPDX-License-Identifier: Apache-2.0 -->\n# A\n"), 0);
        assert_eq!(complaints(".ci/run", "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n"), 0);
        assert_eq!(complaints(".ci/run", "#!/bin/sh\n"), 1);
    }
}
