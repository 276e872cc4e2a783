//! Pinned programs: a path that may be executed only with one content, told by its SHA-256.
//!
//! The image holds a table of them. A pin is found by a hash of its path: a pinned path always finds its own pin, and
//! another path that happens to have the same hash is held to a digest that it does not have.

use crate::automaton::Words;
use crate::image::{field, header};

/// Pins of one profile.
pub const MAX_PINS: usize = 64;
/// Words of a pin: the hash of its path, then the digest's bytes.
pub const PIN_WORDS: usize = 5;
/// Words of nothing between the automaton and the table: a row's cells are read up to this far behind its state.
pub const GAP: usize = 257;

/// `HASH_ALGO_SHA256` (include/uapi/linux/hash_info.h), as `bpf_ima_file_hash` returns it.
pub const SHA256: i64 = 4;

/// The header's word about the table: where it begins, and how many pins it has.
pub const fn table_word(first: u32, count: u32) -> u64 {
    (count as u64) << 32 | first as u64
}

/// First word and number of pins of an image.
#[inline(always)]
pub fn table<W: Words + ?Sized>(image: &W) -> (u32, u32) {
    let word = field(image, header::PINS);
    (word as u32, (word >> 32) as u32)
}

/// A hash of a path, byte by byte (FNV-1a, 64 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathHash(pub u64);

impl PathHash {
    pub const BEGIN: PathHash = PathHash(0xcbf2_9ce4_8422_2325);

    #[inline(always)]
    #[must_use]
    pub const fn then(self, byte: u8) -> Self {
        PathHash((self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// Of a whole path.
    #[must_use]
    pub fn of(path: &[u8]) -> Self {
        path.iter().fold(Self::BEGIN, |hash, byte| hash.then(*byte))
    }
}

/// The word behind which the pin of a path has its digest; `None`: the path is not pinned.
#[inline(always)]
pub fn find<W: Words + ?Sized>(image: &W, hash: PathHash) -> Option<u32> {
    let (first, count) = table(image);
    let mut i = 0;
    while i < MAX_PINS as u32 {
        if i >= count {
            break;
        }
        let at = first.wrapping_add(i * PIN_WORDS as u32);
        if image.word(at as u64) == hash.0 {
            return Some(at);
        }
        i += 1;
    }
    None
}

/// Whether a file's digest is that of the pin at `at`.
#[inline(always)]
pub fn agrees<W: Words + ?Sized>(image: &W, at: u32, digest: &[u64; 4]) -> bool {
    let mut different = 0;
    let mut i = 0;
    while i < 4 {
        different |= image.word(at as u64 + 1 + i as u64) ^ digest[i];
        i += 1;
    }
    different == 0
}

/// The words of a digest.
#[must_use]
pub fn words(digest: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
    words
}

crate::wire_struct! {
    /// What the kernel makes of a file that the loader shows it.
    pub struct HashTrial: 48 {
        /// The process whose file it is.
        pub tgid: u32,
        /// Zero.
        pub pad: u32,
        /// What `bpf_ima_file_hash` returned: the algorithm, or an errno below 0.
        pub answer: i64,
        /// The digest.
        pub digest: [u64; 4],
    }
}

/// Files whose content the daemon told at one time.
pub const MAX_CHECKED: usize = 4096;

crate::wire_struct! {
    /// A file, by file system, inode number and inode generation.
    pub struct FileKey: 16 {
        /// `i_ino`.
        pub inode: u64,
        /// `s_dev`.
        pub device: u32,
        /// `i_generation`.
        pub version: u32,
    }
}

crate::wire_struct! {
    /// What the daemon found a file to hold, where the kernel can't tell.
    pub struct Checked: 64 {
        /// The file's before and after it was read. With another it is another content.
        pub stamp: crate::mark::Stamp,
        /// SHA-256.
        pub digest: [u64; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_found_by_its_path_and_agrees_with_its_digest_only() {
        let digest = words(&[7; 32]);
        let mut image = vec![0; header::END + 2 * PIN_WORDS];
        image[header::PINS] = table_word(header::END as u32, 2);
        image[header::END] = PathHash::of(b"/usr/bin/git").0;
        image[header::END + PIN_WORDS] = PathHash::of(b"/usr/bin/gh").0;
        image[header::END + 1..header::END + PIN_WORDS].copy_from_slice(&digest);
        let image = image.as_slice();
        let at = find(image, PathHash::of(b"/usr/bin/git")).unwrap();
        assert!(agrees(image, at, &digest));
        assert!(!agrees(image, at, &[0; 4]) && !agrees(image, at + PIN_WORDS as u32, &digest));
        assert!(find(image, PathHash::of(b"/usr/bin/gh")).is_some());
        assert_eq!(find(image, PathHash::of(b"/usr/bin/gi")), None);
        assert_eq!(find([0; header::END].as_slice(), PathHash::of(b"/usr/bin/git")), None);
    }
}
