//! Resolves the layout table against the running kernel's BTF.
//!
//! A reader of the BTF binary format (Documentation/bpf/btf.rst), as small as member offsets need: it indexes struct
//! and union types by name, descends into anonymous members, and finds the arguments of a function.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use agent_monitor_common::layout::{ABSENT, Layout};

/// Why the layout could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The kernel was built without `CONFIG_DEBUG_INFO_BTF`, or `/sys` is not mounted.
    #[error("cannot read the kernel's type information {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// Not BTF, or cut.
    #[error("{path} is not valid BTF at byte {at}")]
    Malformed { path: PathBuf, at: usize },
    /// A required field has none of its known names.
    #[error("this kernel's struct {of} has no field {}", names.join(" or "))]
    MissingField { of: &'static str, names: &'static [&'static str] },
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNC: u32 = 12;

/// Type records by id, and struct and union ids by name.
struct Btf<'a> {
    data: &'a [u8],
    strings: usize,
    types: Vec<usize>,
    by_name: HashMap<&'a str, u32>,
}

impl<'a> Btf<'a> {
    fn word(data: &[u8], at: usize) -> Result<u32, usize> {
        let bytes = data.get(at..at + 4).ok_or(at)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn parse(data: &'a [u8]) -> Result<Self, usize> {
        if data.get(..2) != Some(&0xeb9f_u16.to_le_bytes()) {
            return Err(0);
        }
        let header = Self::word(data, 4)? as usize;
        let types_at = header + Self::word(data, 8)? as usize;
        let types_end = types_at + Self::word(data, 12)? as usize;
        let strings = header + Self::word(data, 16)? as usize;
        let mut btf = Btf { data, strings, types: vec![0], by_name: HashMap::new() };
        let mut at = types_at;
        while at < types_end {
            let info = Self::word(data, at + 4)?;
            let (kind, entries) = (info >> 24 & 31, (info & 0xffff) as usize);
            if matches!(kind, KIND_STRUCT | KIND_UNION) {
                let name = btf.string(Self::word(data, at)?)?;
                if !name.is_empty() {
                    // The first definition: later ones of the same name belong to other translation units.
                    btf.by_name.entry(name).or_insert(btf.types.len() as u32);
                }
            }
            btf.types.push(at);
            at += 12
                + match kind {
                    1 | 14 | 17 => 4, // INT, VAR, DECL_TAG
                    3 => 12,          // ARRAY
                    KIND_STRUCT | KIND_UNION => 12 * entries,
                    6 | 13 => 8 * entries,     // ENUM, FUNC_PROTO
                    15 | 19 => 12 * entries,   // DATASEC, ENUM64
                    2 | 7..=12 | 16 | 18 => 0, // PTR, FWD, TYPEDEF, modifiers, FUNC, FLOAT, TYPE_TAG
                    _ => return Err(at),
                };
        }
        Ok(btf)
    }

    fn string(&self, offset: u32) -> Result<&'a str, usize> {
        let at = self.strings + offset as usize;
        let rest = self.data.get(at..).ok_or(at)?;
        let end = rest.iter().position(|b| *b == 0).ok_or(at)?;
        std::str::from_utf8(&rest[..end]).map_err(|_| at)
    }

    /// Follows typedefs and modifiers.
    fn resolve(&self, mut id: u32) -> Result<usize, usize> {
        for _ in 0..32 {
            let at = *self.types.get(id as usize).ok_or(0_usize)?;
            match Self::word(self.data, at + 4)? >> 24 & 31 {
                8..=11 | 18 => id = Self::word(self.data, at + 8)?,
                _ => return Ok(at),
            }
        }
        Err(0)
    }

    /// Offset of `member` in the struct or union at `at`, in bits.
    fn member(&self, at: usize, member: &str, depth: u32) -> Result<Option<u32>, usize> {
        let info = Self::word(self.data, at + 4)?;
        if !matches!(info >> 24 & 31, KIND_STRUCT | KIND_UNION) || depth > 16 {
            return Ok(None);
        }
        for i in 0..(info & 0xffff) as usize {
            let entry = at + 12 + 12 * i;
            let name = self.string(Self::word(self.data, entry)?)?;
            let offset = Self::word(self.data, entry + 8)?;
            // With the kind flag the upper byte is a bit-field's size.
            let bits = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            if name == member {
                return Ok(Some(bits));
            }
            if name.is_empty() {
                let inner = self.resolve(Self::word(self.data, entry + 4)?)?;
                if let Some(found) = self.member(inner, member, depth + 1)? {
                    return Ok(Some(bits + found));
                }
            }
        }
        Ok(None)
    }

    /// The number of the argument of `function` that has one of `names`.
    fn argument(&self, function: &str, names: &[&str]) -> Result<Option<u32>, usize> {
        for at in self.types.iter().skip(1) {
            if Self::word(self.data, at + 4)? >> 24 & 31 != KIND_FUNC
                || self.string(Self::word(self.data, *at)?)? != function
            {
                continue;
            }
            let prototype = *self.types.get(Self::word(self.data, at + 8)? as usize).ok_or(*at)?;
            for i in 0..Self::word(self.data, prototype + 4)? & 0xffff {
                let name = self.string(Self::word(self.data, prototype + 12 + 8 * i as usize)?)?;
                if names.contains(&name) {
                    return Ok(Some(i));
                }
            }
        }
        Ok(None)
    }

    fn offset(&self, of: &str, names: &[&str]) -> Result<Option<u32>, usize> {
        if let Some(function) = of.strip_suffix("()") {
            return self.argument(function, names);
        }
        let (of, unit) = of.strip_suffix(" bits").map_or((of, 8), |of| (of, 1));
        let Some(id) = self.by_name.get(of) else { return Ok(None) };
        let at = self.resolve(*id)?;
        for name in names {
            if let Some(found) = self.member(at, name, 0)? {
                return Ok(Some(found / unit));
            }
        }
        Ok(None)
    }
}

/// Resolves every field of the layout table against the BTF file at `path` (`/sys/kernel/btf/vmlinux`).
pub fn resolve_layout(path: &Path) -> Result<Layout, LayoutError> {
    let data = std::fs::read(path).map_err(|source| LayoutError::Read { path: path.to_owned(), source })?;
    let malformed = |at| LayoutError::Malformed { path: path.to_owned(), at };
    let btf = Btf::parse(&data).map_err(malformed)?;
    let mut layout = Layout::ABSENT;
    for (i, field) in Layout::FIELDS.iter().enumerate() {
        match btf.offset(field.of, field.names).map_err(malformed)? {
            Some(offset) => layout.set(i, offset),
            None if field.required => {
                return Err(LayoutError::MissingField { of: field.of, names: field.names });
            }
            None => layout.set(i, ABSENT),
        }
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_the_running_kernels_btf_is_an_error_and_not_a_panic() {
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        for cut in [0, 1, 2, 8, 23, 24, 100, 4096, data.len() / 2] {
            assert!(Btf::parse(&data[..cut]).is_err(), "{cut}");
        }
        assert!(Btf::parse(&data).is_ok());
    }

    #[test]
    fn a_field_of_bits_is_found_by_its_bit() {
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        let btf = Btf::parse(&data).unwrap();
        let offset = |of, name| btf.offset(of, &[name]).unwrap().unwrap();
        let (byte, bit) = (offset("task_struct", "in_execve"), offset("task_struct bits", "in_execve"));
        assert_eq!(byte, bit / 8);
        // A neighbour in the same word (include/linux/sched.h).
        let neighbour = offset("task_struct bits", "sched_remote_wakeup");
        assert!((1..32).contains(&(bit - neighbour)), "{bit} {neighbour}");
        assert_eq!(offset("task_struct bits", "tgid"), 8 * offset("task_struct", "tgid"));
    }

    #[test]
    fn garbage_is_refused() {
        let mut data = vec![0xff; 256];
        data[..2].copy_from_slice(&0xeb9f_u16.to_le_bytes());
        assert!(Btf::parse(&data).is_err());
    }
}
