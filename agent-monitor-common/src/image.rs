//! The policy image: the compiled bytes of one profile, exactly as the kernel reads them.
//!
//! Words 0 to 63 are the header, the class table and the automaton follow. Deterministic: the same profile gives the
//! same bytes.
//!
//! A *class* is a set of programs that the profile's rules treat alike (`exe:`, `except:`). One image holds them all:
//! each has a record of start states and masks, and the automaton's states are shared. Which class a process is of, its
//! label says (`label.rs`).

use crate::automaton::Words;
use crate::request::STARTS;

/// Profiles in force at one time.
pub const MAX_PROFILES: usize = 64;
/// 64-bit words of an image; every inner map has this size (the kernel asks inner maps to match their template).
pub const IMAGE_WORDS: usize = 1 << 19;
/// Bytes of an image (4 MiB): the size budget of a profile.
pub const IMAGE_BYTES: usize = IMAGE_WORDS * 8;
/// Image slots: two for each profile (the one in force and the next), two for the claims.
pub const IMAGE_SLOTS: usize = MAX_PROFILES * 2 + 2;
/// Row in the profile table of the claims' image word.
pub const CLAIMS_ROW: u32 = MAX_PROFILES as u32;
/// Rows of the profile table.
pub const PROFILE_ROWS: usize = MAX_PROFILES + 1;

/// `b"amimage"` and the ABI version.
pub const MAGIC: u64 = 0x6567_616d_696d_6100 | crate::ABI_VERSION as u64;

/// Header words.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// Words in use, header included.
    pub const LENGTH: usize = 1;
    /// [`super::Settings`].
    pub const SETTINGS: usize = 2;
    /// Start state of the automaton over executables' paths. Its answer is, in the claims' image, the profile slot that
    /// claims the program + 1; in a profile's, how far behind [`super::PLAIN_CLASS`] the program's class lies.
    pub const START_EXE: usize = 3;
    /// Number of classes in use; the records behind them grant nothing.
    pub const CLASS_COUNT: usize = 4;
    /// Bit mask of watched system calls, [`super::SYSCALL_WORDS`] words.
    pub const SYSCALL_WATCH: usize = 24;
    /// Bit mask of killed system calls (each is watched too).
    pub const SYSCALL_KILL: usize = SYSCALL_WATCH + super::SYSCALL_WORDS;
    /// Pinned programs ([`crate::pin::table_word`]).
    pub const PINS: usize = 56;
    /// SHA-256 of the names that the rules speak of, by class: the automaton knows numbers only. Four words.
    pub const NAMES: usize = 57;
    /// Not 0: some grants are leases, so the records without leases are in use.
    pub const LEASED: usize = NAMES + 4;
    /// First word of the class table: [`super::MAX_CLASSES`] records of [`super::class::WORDS`], and as many again for
    /// the time when the profile's leases have run out.
    pub const CLASSES: usize = 64;
    /// First word of the automaton.
    pub const END: usize = CLASSES + 2 * super::LAPSED_WORDS;
}
const _: () = assert!(header::SYSCALL_KILL + SYSCALL_WORDS <= header::CLASSES);

/// Classes of one profile.
pub const MAX_CLASSES: usize = 64;
/// How far behind a class' record its record without the profile's leases lies.
const LAPSED_WORDS: usize = MAX_CLASSES * class::WORDS;
/// The class of a program that could not be told: no grant that asks for a program holds for it, and every denial does.
pub const UNKNOWN_CLASS: u32 = 0;
/// The class of a program that is in none of the profile's sets.
pub const PLAIN_CLASS: u32 = 1;

/// Words of a class record.
pub mod class {
    use crate::request::STARTS;
    /// Start state of each direction × protocol for IPv4: behind the mapped prefix, four address bytes to go.
    pub const START_V4: usize = 0;
    /// Start state of each direction × protocol for IPv6.
    pub const START_V6: usize = START_V4 + STARTS;
    /// Start state of the path automaton; its answer is [`crate::path::path_answer`].
    pub const START_PATH: usize = START_V6 + STARTS;
    /// Bit mask of granted [`crate::request::SocketKind`]s.
    pub const SOCKETS: usize = START_PATH + 1;
    /// Granted [`crate::privilege::Privilege`]s by code, and [`crate::privilege::PTRACE_OWN`].
    pub const PRIVILEGES: usize = SOCKETS + 1;
    /// Granted capabilities by number.
    pub const CAPABILITIES: usize = PRIVILEGES + 1;
    /// What else a class may have.
    pub const FLAGS: usize = CAPABILITIES + 1;
    /// Start state of each protocol for names: two bytes of a name class, then the port. Destinations only.
    pub const START_NAME: usize = FLAGS + 1;
    /// Start states for names.
    pub const NAME_STARTS: usize = 4;
    /// Words of a record; those behind the last are zero and for later.
    pub const WORDS: usize = 32;
}
const _: () = assert!(class::START_NAME + class::NAME_STARTS <= class::WORDS);
const _: () = assert!(header::LEASED < header::CLASSES);

/// Where the record of a class begins, as a word of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(u32);

impl Class {
    /// The class of a program that could not be told.
    pub const UNKNOWN: Class = Class::new(UNKNOWN_CLASS);
    /// The class of a program that is in none of the profile's sets.
    pub const PLAIN: Class = Class::new(PLAIN_CLASS);

    /// The record of class `number`; one beyond the last is taken for another, never for a word outside the table.
    #[inline(always)]
    pub const fn new(number: u32) -> Self {
        Class(header::CLASSES as u32 + (number & (MAX_CLASSES as u32 - 1)) * class::WORDS as u32)
    }

    /// The record that holds for the class when `lapsed` is 1: the profile's leases have run out.
    #[inline(always)]
    pub const fn without_leases(self, lapsed: u32) -> Self {
        Class(self.0 + (lapsed & 1) * LAPSED_WORDS as u32)
    }

    /// The record of that [`Class::record`]; one beyond the last is taken for another.
    #[inline(always)]
    pub const fn of_record(record: u32) -> Self {
        Class::new(record).without_leases(record / MAX_CLASSES as u32)
    }

    /// Number of the class.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.record() & (MAX_CLASSES as u32 - 1)
    }

    /// Number of the record: that of the class, with or without leases.
    #[inline(always)]
    pub const fn record(self) -> u32 {
        (self.0 - header::CLASSES as u32) / class::WORDS as u32
    }

    /// The image's word that holds word `index` of the record (see [`class`]).
    #[inline(always)]
    pub const fn at(self, index: usize) -> usize {
        self.0 as usize + index
    }

    /// Word `index` of the record (see [`class`]).
    #[inline(always)]
    pub fn field<W: Words + ?Sized>(self, image: &W, index: usize) -> u64 {
        image.word(self.0 as u64 + index as u64)
    }
}

/// Words of a system call mask: numbers 0 to 511.
pub const SYSCALL_WORDS: usize = 8;

/// What the settings word holds: mode (byte 0), [`DeniedErrno`] code (byte 1), flags (byte 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// [`crate::counters::Mode`] code.
    pub mode: u8,
    /// [`DeniedErrno`] code.
    pub errno: u8,
    /// [`HAS_SYSCALLS`], [`HAS_FILES`], [`HAS_EXEC`], [`HAS_PROGRAMS`], [`HAS_PRIVILEGES`], [`HAS_UNIX`],
    /// [`HAS_PROTECTED`], [`HAS_NAMES`].
    pub flags: u8,
}

/// The profile lists system calls.
pub const HAS_SYSCALLS: u8 = 1;
/// The profile has a `files` section: reading and writing are judged.
pub const HAS_FILES: u8 = 2;
/// The profile has an `exec` section: executing is judged.
pub const HAS_EXEC: u8 = 4;
/// A rule of the profile asks for the program (`exe:`, `except:`).
pub const HAS_PROGRAMS: u8 = 8;
/// The profile has a `privileges` section: what it does not grant is denied.
pub const HAS_PRIVILEGES: u8 = 16;
/// The profile has a `unix` section: connecting and sending to Unix sockets is judged.
pub const HAS_UNIX: u8 = 32;
/// The monitor's own objects are denied: writing is judged without a `files` section too, and then only by denials.
pub const HAS_PROTECTED: u8 = 64;
/// A rule grants names: questions about names go to the resolver, and an address may stand for one.
pub const HAS_NAMES: u8 = 128;

impl Settings {
    #[inline(always)]
    pub const fn from_word(w: u64) -> Self {
        Settings { mode: w as u8, errno: (w >> 8) as u8, flags: (w >> 16) as u8 }
    }
    pub const fn to_word(self) -> u64 {
        self.mode as u64 | (self.errno as u64) << 8 | (self.flags as u64) << 16
    }
}

crate::wire_codes! {
    /// The errno that a denied destination shows.
    pub enum DeniedErrno: u8 {
        /// `ENETUNREACH`: the path does not exist.
        Unreachable = 0 "unreachable",
        /// `ECONNREFUSED`.
        Refused = 1 "refused",
        /// `EACCES`.
        Denied = 2 "denied",
        /// `EPERM`.
        NotPermitted = 3 "not-permitted",
    }
}

/// A profile as its row of the profile table says: which image is in force, and what must be known of it before it is
/// looked at. One word, flipped last on install, so a hook sees the old image or the new one and never a mix.
///
/// The mode is in the image's settings too. It is here so that a flow which the socket remembers as allowed needs no
/// look at the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Image slot, below [`IMAGE_SLOTS`].
    pub slot: u32,
    /// Counts the installs of this row; never 0.
    pub generation: u32,
    /// [`crate::counters::Mode`] code, below 128.
    pub mode: u8,
    /// Some grants of the image are leases: they end at the row's deadline, whether or not a daemon lives.
    pub leased: bool,
}

/// In the byte of the mode: [`InForce::leased`].
const LEASED: u8 = 1 << 7;

/// Bits of the slot, plus one, in a profile table's word; the mode lies behind, the generation in the high half.
const SLOT_BITS: u32 = 24;
const _: () = assert!(IMAGE_SLOTS < (1 << SLOT_BITS) - 1);

impl InForce {
    /// The word; never 0.
    pub const fn to_word(self) -> u64 {
        let mode = (self.mode & !LEASED) | if self.leased { LEASED } else { 0 };
        (self.generation as u64) << 32 | (mode as u64) << SLOT_BITS | (self.slot + 1) as u64
    }

    /// What a word says. `None` for 0: the profile has no image.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        let slot = word as u32 & ((1 << SLOT_BITS) - 1);
        if slot == 0 {
            return None;
        }
        let mode = (word >> SLOT_BITS) as u8;
        Some(InForce {
            slot: slot - 1,
            generation: (word >> 32) as u32,
            mode: mode & !LEASED,
            leased: mode & LEASED != 0,
        })
    }
}

/// A header field of an image.
#[inline(always)]
pub fn field<W: Words + ?Sized>(image: &W, index: usize) -> u64 {
    image.word(index as u64)
}

/// Whether a system call mask holds `nr`.
#[inline(always)]
pub fn has_syscall<W: Words + ?Sized>(image: &W, mask: usize, nr: u32) -> bool {
    nr < (SYSCALL_WORDS * 64) as u32 && image.word(mask as u64 + (nr >> 6) as u64) >> (nr & 63) & 1 == 1
}

const _: () = assert!(IMAGE_WORDS.is_power_of_two() && MAX_CLASSES.is_power_of_two() && STARTS == 8);
