//! Who acts: from the current process to its label, its image and its settings.

use agent_monitor_common::automaton::Words;
use agent_monitor_common::counters::{Mode, Site};
use agent_monitor_common::decide::forget;
use agent_monitor_common::image::{CLAIMS_ROW, Class, IMAGE_WORDS, InForce, Settings, field, header};
use agent_monitor_common::label::{Label, SocketLabel, bit_of, class_of_cell, epoch};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

use crate::maps::{DEADLINES, IMAGES, Image, LABEL_BITS, LABELS, PROFILES};
use crate::{atomic, fail};

/// An image in a map, with every index bounded.
#[derive(Clone, Copy)]
pub struct Table(*const u64);

/// `index & (IMAGE_WORDS - 1)`, done where the optimiser can't move or drop it.
// VERIFIER: "R3 min value is negative": LLVM checks one register and indexes with another.
#[inline(always)]
fn bounded(mut index: u64) -> u64 {
    // SAFETY: one AND, no memory.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) index, const (IMAGE_WORDS - 1) as u64,
            options(pure, nomem, nostack));
    }
    index
}

impl Words for Table {
    #[inline(always)]
    fn word(&self, index: u64) -> u64 {
        // SAFETY: the index is below IMAGE_WORDS, the size of the map value.
        unsafe { *self.0.add(bounded(index) as usize) }
    }

    #[inline(always)]
    fn low(&self, index: u64) -> u32 {
        // SAFETY: as above.
        unsafe { *self.0.add(bounded(index) as usize).cast::<u32>().add(LOW) }
    }

    #[inline(always)]
    fn high(&self, index: u64) -> u32 {
        // SAFETY: as above.
        unsafe { *self.0.add(bounded(index) as usize).cast::<u32>().add(1 - LOW) }
    }

    // Volatile: else the compiler makes one load of this and of others, for which the address is computed once more.
    #[inline(always)]
    fn high_if(&self, index: u64, low: u64) -> Option<u32> {
        // SAFETY: as above.
        unsafe {
            let word = self.0.add(bounded(index) as usize).cast::<u32>();
            if *word.add(LOW) as u64 == low { Some(word.add(1 - LOW).read_volatile()) } else { None }
        }
    }
}

/// Where the low half of a word lies in it.
const LOW: usize = if cfg!(target_endian = "little") { 0 } else { 1 };

/// Table of an image slot.
#[inline(always)]
pub fn table(slot: u32) -> Option<Table> {
    let image: &Image = IMAGES.get_value(slot, &0)?;
    Some(Table(image.as_ptr()))
}

/// A profile as it is in force at this moment, for a program of one class.
#[derive(Clone, Copy)]
pub struct Policy {
    pub table: Table,
    pub generation: u32,
    // VERIFIER: "BPF program is too large": a number of which nothing is known is one state, a mode is three.
    mode: u32,
    pub errno: u8,
    /// [`agent_monitor_common::image::HAS_FILES`] and the like.
    pub flags: u8,
    /// Which record of the image holds for the process or the socket.
    pub class: Class,
    /// [`Standing::epoch`].
    pub epoch: u32,
}

impl Policy {
    /// The mode.
    #[inline(always)]
    pub fn mode(&self) -> Mode {
        mode_of(self.mode)
    }

    /// Its code.
    #[inline(always)]
    pub fn mode_code(&self) -> u32 {
        self.mode
    }
}

/// `mode`, of which the verifier shall not know how it came about.
#[inline(always)]
pub fn forget_how(mode: Mode) -> Mode {
    mode_of(forget(mode.code() as u32))
}

/// An unknown mode enforces.
#[inline(always)]
fn mode_of(code: u32) -> Mode {
    match code {
        0 => Mode::Learn,
        1 => Mode::Audit,
        _ => Mode::Enforce,
    }
}

/// What a row of the profile table says, before its image is looked at.
#[derive(Clone, Copy)]
pub struct Standing {
    slot: u32,
    pub generation: u32,
    // VERIFIER: as in `Policy`.
    mode: u32,
    /// 1: the leases have run out.
    lapsed: u32,
}

/// 1: the leases of a row's image have run out.
#[inline(always)]
fn lapsed(row: u32) -> u32 {
    let Some(deadline) = DEADLINES.get_ptr(row) else { return 1 };
    // SAFETY: an element of an array; the daemon writes it as one word.
    let deadline = unsafe { core::ptr::read_volatile(deadline) };
    // SAFETY: a helper without arguments.
    u32::from(unsafe { bpf_ktime_get_boot_ns() } >= deadline)
}

/// What is in force in a row of the profile table. The row's word is read once.
#[inline(always)]
pub fn standing(row: u32) -> Option<Standing> {
    if fail::injected(Site::ImageMissing) {
        return None;
    }
    let word = PROFILES.get_ptr(row)?;
    // SAFETY: an element of an array; the daemon writes it as one word.
    let word = unsafe { core::ptr::read_volatile(word) };
    let InForce { slot, generation, mode, leased } = InForce::from_word(word)?;
    // VERIFIER: what follows is walked once, not for each answer.
    let lapsed = forget(if leased { lapsed(row) } else { 0 });
    Some(Standing { slot, generation, mode: forget(mode as u32), lapsed })
}

impl Standing {
    /// The image.
    #[inline(always)]
    pub fn table(self) -> Option<Table> {
        table(self.slot)
    }

    /// The mode.
    #[inline(always)]
    pub fn mode(self) -> Mode {
        mode_of(self.mode)
    }

    /// The class of a process by this image.
    #[inline(always)]
    pub fn class_of(self, label: &Label) -> Class {
        Class::new(label.class(self.generation))
    }

    /// What a flow was judged under, for its tag.
    #[inline(always)]
    pub fn epoch(self) -> u32 {
        epoch(self.generation, self.lapsed)
    }

    /// The policy for a program of `class`, image and all.
    #[inline(always)]
    pub fn policy(self, class: Class) -> Option<Policy> {
        let table = table(self.slot)?;
        let settings = Settings::from_word(field(&table, header::SETTINGS));
        Some(Policy {
            table,
            generation: self.generation,
            mode: self.mode,
            errno: settings.errno,
            flags: settings.flags,
            class: class.without_leases(self.lapsed),
            epoch: self.epoch(),
        })
    }
}

/// The policy in force for a labelled process.
#[inline(always)]
pub fn policy(label: &Label) -> Option<Policy> {
    let standing = standing(label.profile)?;
    standing.policy(standing.class_of(label))
}

/// The claims' image, if any profile claims executables.
#[inline(always)]
pub fn claims() -> Option<Table> {
    standing(CLAIMS_ROW)?.table()
}

/// The class of a socket by the image of a generation.
///
/// # Safety
/// `s` is socket storage.
#[inline(always)]
pub unsafe fn class_of_socket(s: *const SocketLabel, generation: u32) -> Class {
    // SAFETY: the caller's promise.
    Class::new(class_of_cell(unsafe { socket_cell(s, generation) }, generation, 0))
}

/// The cell of a socket for a generation.
///
/// # Safety
/// `s` is socket storage.
#[inline(always)]
pub unsafe fn socket_cell(s: *const SocketLabel, generation: u32) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        if generation & 1 == 0 {
            core::ptr::read_volatile(&raw const (*s).classes[0])
        } else {
            core::ptr::read_volatile(&raw const (*s).classes[1])
        }
    }
}

/// The tgid of the current process.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
fn word_of(tgid: u32) -> Option<(*mut u64, u64)> {
    let bits = LABEL_BITS.get_ptr_mut(0)?;
    let (word, bit) = bit_of(tgid);
    // SAFETY: `bit_of` bounds the word below the array's length.
    Some((unsafe { (&raw mut *bits).cast::<u64>().add(word) }, bit))
}

/// Whether `tgid` has its bit. All that an unlabelled process costs a hook.
#[inline(always)]
pub fn has_bit(tgid: u32) -> bool {
    set_word(tgid).is_some()
}

/// The word of the bitmap that has the bit of `tgid`; `None`: it has none.
#[inline(always)]
pub fn set_word(tgid: u32) -> Option<*const u64> {
    let (word, bit) = word_of(tgid)?;
    // SAFETY: a word of the bitmap; its writers use atomics.
    unsafe { if core::ptr::read_volatile(word) & bit != 0 { Some(word.cast_const()) } else { None } }
}

/// Sets the bit of `tgid`.
#[inline(always)]
pub fn set_bit(tgid: u32) {
    if let Some((word, bit)) = word_of(tgid) {
        // SAFETY: a word of the bitmap.
        unsafe { atomic::or(word, bit) };
    }
}

/// Clears the bit of `tgid`; whether it was set.
#[inline(always)]
pub fn clear_bit(tgid: u32) -> bool {
    match word_of(tgid) {
        // SAFETY: a word of the bitmap.
        Some((word, bit)) => unsafe { atomic::and(word, !bit) & bit != 0 },
        None => false,
    }
}

/// The label of `tgid`, whose bit is set. `Err`: it was lost.
#[inline(always)]
pub fn label_of(tgid: u32) -> Result<Label, Site> {
    // SAFETY: a preallocated element; it is written whole before its bit is of use, and a copy is taken.
    held_label(tgid).map(|label| unsafe { *label })
}

/// [`label_of`], where it lies.
#[inline(always)]
pub fn held_label(tgid: u32) -> Result<*mut Label, Site> {
    if fail::injected(Site::LabelMissing) {
        return Err(Site::LabelMissing);
    }
    LABELS.get_ptr_mut(tgid).ok_or(Site::LabelMissing)
}
