//! Fills the LPM-trie baseline of the benchmark.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData, MapError};

use super::loader::Kernel;

/// Ports of one prefix, as `baseline.rs` of the programs reads them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct BaselinePorts {
    pub used: u32,
    /// From, to, protocol code, answer.
    pub ranges: [[u16; 4]; 8],
}

// SAFETY: integers without padding (4 bytes, then 64 of 2-byte alignment).
unsafe impl aya::Pod for BaselinePorts {}

impl Kernel {
    /// Enters prefixes (16-byte address, prefix length) and their ports.
    pub fn fill_baseline(&mut self, entries: &[([u8; 16], u32, BaselinePorts)]) -> Result<(), MapError> {
        let missing = |name: &str| MapError::InvalidName { name: name.to_owned() };
        let mut ports: Array<&mut MapData, BaselinePorts> =
            self.object.map_mut("LPM_PORTS").ok_or_else(|| missing("LPM_PORTS"))?.try_into()?;
        for (i, (.., p)) in entries.iter().enumerate() {
            ports.set(i as u32, *p, 0)?;
        }
        let mut trie: LpmTrie<&mut MapData, [u8; 16], u32> =
            self.object.map_mut("LPM").ok_or_else(|| missing("LPM"))?.try_into()?;
        for (i, (address, length, _)) in entries.iter().enumerate() {
            trie.insert(&Key::new(*length, *address), i as u32, 0)?;
        }
        Ok(())
    }
}
