//! Marks in the kernel: what objects are, and which of them an image's rules deny (`agent_monitor_common::mark`).
//!
//! Called by the daemon before it puts an image in force, and again at every reload. What must stay true: marks of a
//! generation are there before the generation is, and go after it went.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use agent_monitor_common::agent::AttachRequest;
use agent_monitor_common::mark::{Mark, MarkKey, ObjectLine};
use agent_monitor_common::path::Rights;
use agent_monitor_common::wire::Wire;
use aya::maps::{MapData, MapError};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::control::{AttachPod, MarkKeyPod, MarkPod};
use super::labels::LabelError;
use super::loader::Kernel;

/// An object that rules deny by one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedObject {
    /// The name that the rules speak of.
    pub path: Vec<u8>,
    /// What is denied to programs of each class: on the object, and on whatever lies in it.
    pub denied: Vec<(u32, Rights, Rights)>,
}

/// Why objects were not marked.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    #[error("cannot ask the kernel what the objects are: {0}")]
    Identify(#[from] LabelError),
    #[error(transparent)]
    Map(#[from] MapError),
    /// Those that fit are marked.
    #[error("{left} objects found no room among the marks")]
    Full { left: usize },
}

/// Descriptors that are open at one time.
const BATCH: usize = 256;

impl Kernel {
    /// Marks `objects` for a generation of the profile in `slot`. Older marks of that generation which are not among
    /// them go. Objects that are gone meanwhile are left out. Returns how many marks there are.
    ///
    /// # Errors
    /// What could be marked is marked.
    pub fn mark(&mut self, slot: u32, generation: u32, objects: &[DeniedObject]) -> Result<usize, MarkError> {
        let mut wanted: HashMap<Object, Mark> = HashMap::new();
        for batch in objects.chunks(BATCH) {
            let opened: Vec<(OwnedFd, &DeniedObject)> =
                batch.iter().filter_map(|object| Some((named(&object.path)?, object))).collect();
            let lines = self.identify()?;
            for (fd, object) in &opened {
                let Some(line) = lines.get(&(fd.as_raw_fd() as u32)) else { continue };
                for &(class, denied, inside) in &object.denied {
                    let key = (line.inode, line.device, line.version, class);
                    let mark = wanted.entry(key).or_insert(Mark::ZERO);
                    mark.denied |= denied;
                    mark.inside |= inside;
                }
            }
        }
        let key = |(inode, device, version, class): Object| MarkKey {
            inode,
            device,
            version,
            generation,
            profile: slot,
            class,
            pad: 0,
        };
        let before: HashSet<Object> = self
            .marks_of(slot)
            .into_iter()
            .filter(|known| known.generation == generation)
            .map(|known| (known.inode, known.device, known.version, known.class))
            .collect();
        let mut left = 0;
        // Whoever looks from here on looks: the number comes before the first mark.
        self.maps.marked.set(slot, u32::from(!wanted.is_empty() || !before.is_empty()), 0)?;
        for (object, mark) in &wanted {
            if self.maps.marks.insert(MarkKeyPod(key(*object)), MarkPod(*mark), 0).is_err() {
                left += 1;
            }
        }
        for gone in before.iter().filter(|known| !wanted.contains_key(*known)) {
            // A missing entry is what we want.
            let _ = self.maps.marks.remove(&MarkKeyPod(key(*gone)));
        }
        if left > 0 { Err(MarkError::Full { left }) } else { Ok(wanted.len()) }
    }

    /// Takes away the marks of `slot` that hold for another generation than `keep`; `None`: all.
    pub fn unmark(&mut self, slot: u32, keep: Option<u32>) -> Result<(), MarkError> {
        let marks = self.marks_of(slot);
        let mut kept = 0_u32;
        for mark in marks {
            if Some(mark.generation) == keep {
                kept += 1;
            } else {
                let _ = self.maps.marks.remove(&MarkKeyPod(mark));
            }
        }
        Ok(self.maps.marked.set(slot, kept, 0)?)
    }

    /// Takes the marks of a generation over from another set, before the generation is in force here.
    pub(super) fn adopt_marks(&mut self, slot: u32, generation: u32, old: &Marks) -> Result<(), MapError> {
        let mut adopted = 0_u32;
        for (MarkKeyPod(key), mark) in old.iter().flatten() {
            if key.profile == slot && key.generation == generation {
                self.maps.marks.insert(MarkKeyPod(key), mark, 0)?;
                adopted += 1;
            }
        }
        if adopted > 0 {
            self.maps.marked.set(slot, adopted, 0)?;
        }
        Ok(())
    }

    /// The inodes that are marked for a slot, of all file systems and generations.
    pub fn marked_inodes(&self, slot: u32) -> Vec<u64> {
        self.marks_of(slot).into_iter().map(|key| key.inode).collect()
    }

    /// The marks of a slot, of all generations.
    fn marks_of(&self, slot: u32) -> Vec<MarkKey> {
        let keys = self.maps.marks.keys().flatten().map(|MarkKeyPod(key)| key);
        keys.filter(|key| key.profile == slot).collect()
    }

    /// What every open descriptor of this process is.
    pub(super) fn identify(&mut self) -> Result<HashMap<u32, ObjectLine>, MarkError> {
        let request = AttachRequest { root: std::process::id(), ..AttachRequest::ZERO };
        self.maps.attach.set(0, AttachPod(request), 0)?;
        let bytes = self.run_iterator("iterate_objects")?;
        let lines = bytes.chunks_exact(size_of::<ObjectLine>()).filter_map(ObjectLine::read_from);
        Ok(lines.map(|line| (line.fd, line)).collect())
    }
}

/// The map of marks.
pub(super) type Marks = aya::maps::HashMap<MapData, MarkKeyPod, MarkPod>;

/// Inode, device, version, class.
type Object = (u64, u32, u32, u32);

/// A descriptor that names an object by a path without links; `None`: it is gone.
fn named(path: &[u8]) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(rustix::fs::CWD, OsStr::from_bytes(path), flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()
}
