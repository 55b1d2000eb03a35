// SPDX-License-Identifier: Apache-2.0
//! Reads the offsets of structure fields from the kernel's type information (BTF,
//! `Documentation/bpf/btf.rst`). Knows nothing of sockets.

use std::collections::BTreeMap;

/// The type information of the running kernel.
pub(super) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// All types of a kernel.
pub(super) struct Btf<'a> {
    types: Vec<Type<'a>>,
    strings: &'a [u8],
}

/// One type: only what is needed here.
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Then the offset of a member (in bits) is only in the lower 24 of its 32 bits.
    has_bit_fields: bool,
    /// What follows the 12 bytes of each type; for a structure, 12 bytes for each member.
    members: &'a [u8],
}

impl<'a> Btf<'a> {
    /// `None`: this is not BTF in the machine's byte order.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| word(bytes, at);
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            bytes.get(start..start.checked_add(length)?)
        };
        let mut rest = section(word(8)? as usize, word(12)? as usize)?;
        let strings = section(word(16)? as usize, word(20)? as usize)?;
        let mut types = Vec::new();
        while !rest.is_empty() {
            let (name, info) = (self::word(rest, 0)?, self::word(rest, 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let more = rest.get(12..)?.get(..extra_bytes(kind, count)?)?;
            types.push(Type { name, kind, has_bit_fields: info >> 31 == 1, members: more });
            rest = &rest[12 + more.len()..];
        }
        Some(Self { types, strings })
    }

    /// The offset in bytes of each named member of `structure`, with those of
    /// unnamed inner structures and unions. Empty if there is no such structure.
    pub(super) fn offsets(&self, structure: &str) -> BTreeMap<&'a str, u32> {
        let mut found = BTreeMap::new();
        let wanted = self.types.iter().find(|candidate| {
            candidate.kind == KIND_STRUCT
                && !candidate.members.is_empty()
                && self.string(candidate.name) == structure
        });
        if let Some(wanted) = wanted {
            self.collect(wanted, 0, 0, &mut found);
        }
        found
    }

    fn collect(&self, structure: &Type<'_>, start: u32, depth: u32, found: &mut BTreeMap<&'a str, u32>) {
        /// Structures of the kernel are nested less deeply.
        const DEEPEST: u32 = 8;
        for member in structure.members.as_chunks::<12>().0 {
            let (Some(name), Some(id), Some(bits)) = (word(member, 0), word(member, 4), word(member, 8))
            else {
                return;
            };
            let bits = if structure.has_bit_fields { bits & 0xff_ffff } else { bits };
            let offset = start + bits / 8;
            let name = self.string(name);
            if !name.is_empty() {
                found.insert(name, offset);
            } else if depth < DEEPEST
                // Identifier 0 is `void`, which has no entry.
                && let Some(inner) = (id as usize).checked_sub(1).and_then(|index| self.types.get(index))
                && [KIND_STRUCT, KIND_UNION].contains(&inner.kind)
            {
                self.collect(inner, offset, depth + 1, found);
            }
        }
    }

    fn string(&self, offset: u32) -> &'a str {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The number of bytes that follow the 12 bytes that all kinds have. `None`: an
/// unknown kind of a later format.
fn extra_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, 64-bit enumerations.
        KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
        // Enumerations, function prototypes.
        6 | 13 => 8 * count,
        // Pointers, qualifiers, type names, functions, forward declarations.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type section with `inner {x at 4}` unnamed, and `outer {a at 0, _: inner at 8, b at 16}`.
    fn image() -> Vec<u8> {
        let strings = b"\0x\0outer\0a\0b\0";
        let words: Vec<u32> = [
            vec![0, 2, 4, 0], // An integer, with its 4 bytes more.
            vec![0, KIND_STRUCT << 24 | 1, 8, 1, 1, 32],
            vec![3, KIND_STRUCT << 24 | 3, 20, 9, 1, 0, 0, 2, 64, 11, 1, 128],
        ]
        .concat();
        let mut words = words;
        words[1] = 1 << 24;
        let mut image = Vec::new();
        image.extend(MAGIC.to_ne_bytes());
        image.extend([1, 0]);
        for word in [24, 0, words.len() as u32 * 4, words.len() as u32 * 4, strings.len() as u32] {
            image.extend(word.to_ne_bytes());
        }
        words.iter().for_each(|word| image.extend(word.to_ne_bytes()));
        image.extend(strings);
        image
    }

    #[test]
    fn members_of_unnamed_inner_structures_are_found() {
        let image = image();
        let btf = Btf::parse(&image).unwrap();
        assert_eq!(btf.offsets("outer"), BTreeMap::from([("a", 0), ("x", 12), ("b", 16)]));
        assert!(btf.offsets("inner").is_empty());
    }

    #[test]
    fn truncated_type_information_is_refused() {
        let image = image();
        for length in 0..image.len() {
            assert!(Btf::parse(&image[..length]).is_none(), "{length} of {} bytes", image.len());
        }
        assert!(Btf::parse(&[0; 64]).is_none());
    }

    #[test]
    fn the_type_information_of_this_kernel_can_be_read() {
        let Ok(bytes) = std::fs::read(KERNEL_BTF) else { return };
        let btf = Btf::parse(&bytes).unwrap();
        let (tcp, sock) = (btf.offsets("tcp_sock"), btf.offsets("sock"));
        assert!(tcp.contains_key("write_seq") && sock.contains_key("sk_sndbuf"), "{tcp:?}");
    }
}
