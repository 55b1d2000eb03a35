// SPDX-License-Identifier: Apache-2.0
//! How much stack the programs of an object need, as the verifier of older kernels counts it: the sum over a chain of
//! calls, with each function's frame in steps of 32 bytes. Newer kernels count in steps of 16, so they accept more, and
//! the kernel of the machine that builds does not notice.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
};

/// `MAX_BPF_STACK`.
const LIMIT: u64 = 512;

/// Before Linux 6.7, and on machines without a JIT.
const STEP: u64 = 32;

const INSTRUCTION_BYTES: u64 = 8;

/// Section and address of a function.
type Place = (SectionIndex, u64);

/// What matters here of one function.
#[derive(Debug, Default)]
struct Function {
    /// Bytes below the frame pointer.
    stack: u64,
    calls: Vec<Place>,
}

/// The stack of each program, in bytes.
///
/// # Errors
/// The object can't be read, or a program needs more than [`LIMIT`].
pub(crate) fn check(path: &Path) -> Result<Vec<(String, u64)>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let object = object::File::parse(&*bytes)?;
    let (mut functions, mut programs) = (HashMap::new(), Vec::new());
    for symbol in object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0) {
        let index = symbol.section_index().context("a function without a section")?;
        let section = object.section_by_index(index)?;
        let (from, to) = (symbol.address(), symbol.address() + symbol.size());
        let called = |at: u64| {
            let (_, relocation) = section.relocations().find(|(offset, _)| *offset == at)?;
            let RelocationTarget::Symbol(symbol) = relocation.target() else { return None };
            let symbol = object.symbol_by_index(symbol).ok()?;
            Some((symbol.section_index()?, symbol.address()))
        };
        let code =
            section.data()?.get(from as usize..to as usize).context("a function beyond its section")?;
        functions.insert((index, from), read(code, (index, from), called));
        if section.name()? != ".text" && symbol.is_global() {
            programs.push((symbol.name()?.to_owned(), (index, from)));
        }
    }
    let depths = programs.into_iter().map(|(name, place)| {
        let depth = depth(&functions, place);
        ensure!(
            depth <= LIMIT,
            "program {name} needs {depth} bytes of stack, Linux before 6.7 allows {LIMIT}"
        );
        Ok((name, depth))
    });
    depths.collect()
}

/// `called`: the symbol that the instruction at an address of the section calls.
fn read(code: &[u8], (section, from): Place, called: impl Fn(u64) -> Option<Place>) -> Function {
    // A register is moved into another one; a number is added to one; a function is called.
    const MOVE: u8 = 0xbf;
    const ADD: u8 = 0x07;
    const CALL: u8 = 0x85;
    const FRAME: u8 = 10;
    let mut function = Function::default();
    // Registers that are a copy of the frame pointer, as of the last instruction that made one.
    let mut copies = [false; 16];
    let (instructions, _) = code.as_chunks::<8>();
    for (number, [operation, registers, o0, o1, immediate @ ..]) in instructions.iter().enumerate() {
        let (to, from_register) = (registers & 0xf, registers >> 4);
        let (offset, immediate) = (i16::from_le_bytes([*o0, *o1]), i32::from_le_bytes(*immediate));
        let mut uses = |below: i64| function.stack = function.stack.max(u64::try_from(-below).unwrap_or(0));
        match (operation & 7, *operation) {
            (1, _) if from_register == FRAME => uses(offset.into()),
            (2 | 3, _) if to == FRAME => uses(offset.into()),
            (_, ADD) if copies[usize::from(to)] => uses(immediate.into()),
            (_, CALL) if from_register == 1 => {
                let at = from + number as u64 * INSTRUCTION_BYTES;
                let (section, base) = called(at).unwrap_or((section, at));
                let target = base as i64 + (i64::from(immediate) + 1) * INSTRUCTION_BYTES as i64;
                function.calls.push((section, target as u64));
            }
            _ => {}
        }
        if *operation == MOVE || matches!(operation & 7, 0 | 1 | 4 | 7) {
            copies[usize::from(to)] = *operation == MOVE && from_register == FRAME;
        }
    }
    function
}

fn depth(functions: &HashMap<Place, Function>, place: Place) -> u64 {
    let Some(function) = functions.get(&place) else { return 0 };
    let below = function.calls.iter().map(|called| depth(functions, *called)).max().unwrap_or(0);
    function.stack.max(1).next_multiple_of(STEP) + below
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: SectionIndex = SectionIndex(1);

    fn instruction(operation: u8, registers: u8, offset: i16, immediate: i32) -> [u8; 8] {
        let ([a, b], [c, d, e, f]) = (offset.to_le_bytes(), immediate.to_le_bytes());
        [operation, registers, a, b, c, d, e, f]
    }

    #[test]
    fn a_chain_of_calls_needs_the_sum_of_its_frames() {
        // *(u64 *)(r10 - 40) = r1; r2 = r10; r2 += -72; call the function behind this one.
        let code = [
            instruction(0x7b, 0x1a, -40, 0),
            instruction(0xbf, 0xa2, 0, 0),
            instruction(0x07, 0x02, 0, -72),
            instruction(0x85, 0x10, 0, 1),
            instruction(0x95, 0, 0, 0),
        ]
        .concat();
        let first = read(&code, (SECTION, 0), |_| None);
        assert_eq!((first.stack, first.calls.as_slice()), (72, [(SECTION, 40)].as_slice()));
        // A helper is no function, and neither is what another register points to.
        let leaf = [instruction(0x85, 0, 0, 1), instruction(0x7b, 0x12, -400, 0)].concat();
        let functions = [((SECTION, 0), first), ((SECTION, 40), read(&leaf, (SECTION, 40), |_| None))].into();
        assert_eq!(depth(&functions, (SECTION, 0)), 96 + 32);
    }
}
