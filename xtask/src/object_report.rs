// SPDX-License-Identifier: Apache-2.0
//! Reads a finished eBPF object: its programs with their sizes, and symbols that must not be in it. Changes nothing and
//! does not ask the kernel.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// An eBPF instruction has 8 bytes (RFC 9669, section 3); a 64-bit constant takes two instructions.
const INSTRUCTION_BYTES: u64 = 8;

/// Symbols of panics. If a panic is reachable, the verifier refuses the program with `last insn is not an exit or jmp`,
/// which does not lead to the cause.
const FORBIDDEN: [&str; 2] = ["panicking", "rust_begin_unwind"];

/// The content of an object, ready to print.
pub(crate) struct Report {
    path: PathBuf,
    bytes: usize,
    programs: Vec<Program>,
}

struct Program {
    name: String,
    section: String,
    instructions: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} bytes", self.path.display(), self.bytes)?;
        for Program { name, section, instructions } in &self.programs {
            writeln!(f, "  {name:<16} {section:<12} {instructions:>5} instructions")?;
        }
        Ok(())
    }
}

impl Report {
    /// The name and the number of instructions of each program.
    pub(crate) fn programs(&self) -> impl Iterator<Item = (&str, u64)> {
        self.programs.iter().map(|program| (program.name.as_str(), program.instructions))
    }
}

/// Reads and checks the object.
///
/// # Errors
/// The file is not a readable object, has no program, or has a forbidden symbol.
pub(crate) fn read(path: &Path) -> Result<Report> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let object =
        object::File::parse(&*bytes).with_context(|| format!("{} is not an ELF object", path.display()))?;
    check_symbols(object.symbols().filter_map(|symbol| symbol.name().ok()))?;
    let mut programs = Vec::new();
    for symbol in object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_global()) {
        let section = symbol.section_index().context("a function without a section")?;
        let section = object.section_by_index(section)?.name()?.to_owned();
        // The functions that programs call are in .text; every other section belongs to a hook.
        if section != ".text" {
            let instructions = symbol.size() / INSTRUCTION_BYTES;
            programs.push(Program { name: symbol.name()?.to_owned(), section, instructions });
        }
    }
    if programs.is_empty() {
        bail!("{} has no program; was it linked without its entry points?", path.display());
    }
    Ok(Report { path: path.to_owned(), bytes: bytes.len(), programs })
}

fn check_symbols<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    match names.find(|name| FORBIDDEN.iter().any(|part| name.contains(part))) {
        Some(name) => bail!(
            "a panic is reachable in the eBPF object (symbol {name}), so the verifier would refuse it; look for an \
             index, a division, or arithmetic that does not wrap"
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check_symbols;

    #[test]
    fn a_reachable_panic_is_found() {
        assert!(check_symbols(["llb_xdp", "LICENSE"].into_iter()).is_ok());
        assert!(check_symbols(["llb_xdp", "_RNvNtCs_4core9panicking5panic"].into_iter()).is_err());
    }
}
