//! Digests of pinned programs. Whether the kernel's are SHA-256 is asked once, at load, by showing it a file; where they
//! are not, the daemon reads the files itself and tells what each held when it had which times.
//!
//! `bpf_ima_file_hash` hashes with the algorithm that IMA was built or booted with (`ima_hash=`), so that the answer is
//! worth nothing before it was compared.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use agent_monitor_common::mark::{ObjectLine, Stamp};
use agent_monitor_common::pin::{self, Checked, FileKey, HashTrial};
use aya::maps::{Array, MapData, MapError};
use aya::programs::Lsm;
use aya::{Btf, Ebpf};
use rustix::fs::{FlockOperation, MemfdFlags, Mode, OFlags, ResolveFlags, flock, memfd_create, openat2};
use sha2::{Digest, Sha256};

use super::control::{CheckedPod, FileKeyPod, HashTrialPod};
use super::loader::Kernel;
use super::marks::MarkError;
use super::posture::{IMA, Mechanism, Posture, State};
use crate::policy::Pin;

/// What posture calls the mechanism.
const MECHANISM: &str = "lsm.s/bprm_check_security";
const CONTENT: &[u8] = b"agent-monitor";

/// Lets the kernel hash a file. Where the digest is not its SHA-256 the programs are told not to ask, and posture says
/// so.
pub(super) fn test(
    object: &mut Ebpf,
    trial: &mut Array<MapData, HashTrialPod>,
    btf: &Btf,
    posture: &mut Posture,
) -> Result<(), MapError> {
    if !posture.works(MECHANISM) {
        return Ok(());
    }
    let why = match answer(object, trial, btf) {
        Ok(HashTrial { answer: pin::SHA256, digest, .. })
            if digest == pin::words(&Sha256::digest(CONTENT).into()) =>
        {
            posture.mechanisms.push(Mechanism::digests(State::Active));
            return Ok(());
        }
        Ok(HashTrial { answer: pin::SHA256, .. }) => "the kernel's SHA-256 of a file is wrong".to_owned(),
        Ok(HashTrial { answer, .. }) if answer < 0 => {
            format!("the kernel can't hash files ({answer}): it needs IMA")
        }
        Ok(HashTrial { answer, .. }) => {
            format!("IMA hashes by algorithm {answer} of linux/hash_info.h: boot with ima_hash=sha256")
        }
        Err(why) => why,
    };
    posture.mechanisms.push(Mechanism::digests(State::Absent { why }));
    trial.set(0, HashTrialPod(HashTrial { answer: -1, ..HashTrial::ZERO }), 0)
}

fn answer(
    object: &mut Ebpf,
    trial: &mut Array<MapData, HashTrialPod>,
    btf: &Btf,
) -> Result<HashTrial, String> {
    let asked = HashTrial { tgid: std::process::id(), answer: -1, ..HashTrial::ZERO };
    trial.set(0, HashTrialPod(asked), 0).map_err(|e| e.to_string())?;
    let program = object.program_mut("digest_trial").ok_or("the object has no program digest_trial")?;
    let program: &mut Lsm = program.try_into().map_err(|e| format!("{e}"))?;
    let say = |e: aya::programs::ProgramError| super::loader::brief(&e);
    program.load("file_lock", btf).map_err(say)?;
    let link = program.attach().map_err(say)?;
    let shown = memfd_create("agent-monitor-digest", MemfdFlags::CLOEXEC).map_err(|e| e.to_string());
    let shown = shown.and_then(|fd| {
        let mut file = File::from(fd);
        file.write_all(CONTENT).map_err(|e| e.to_string())?;
        flock(&file, FlockOperation::LockShared).map_err(|e| e.to_string())
    });
    let detached = program.detach(link).and_then(|()| program.unload());
    shown?;
    detached.map_err(say)?;
    Ok(trial.get(&0, 0).map_err(|e| e.to_string())?.0)
}

/// A file that was changed this short ago may change again under the same time: the kernel's clock for it ticks 100 to
/// 1 000 times a second.
const FRESH: Duration = Duration::from_millis(25);
/// Readings of a file that changes meanwhile.
const READINGS: u32 = 3;

impl Kernel {
    /// Where the kernel can't tell digests: reads what lies at the paths of `pins` and tells the programs, unless that was
    /// done and neither inode nor times nor size are others since. What is no file has no content. Returns how many were
    /// read.
    ///
    /// # Errors
    /// What could not be told is denied.
    pub fn check_pins(&mut self, pins: &[Pin]) -> Result<usize, MarkError> {
        if pins.is_empty() || self.posture().works(IMA) || !self.posture().works(MECHANISM) {
            return Ok(0);
        }
        let mut read = 0;
        for pin in pins {
            let Some(mut file) = opened(&pin.path) else { continue };
            let Ok(seen) = file.metadata().map(|seen| Seen::of(&seen)) else { continue };
            if self.contents.get(&pin.path).is_some_and(|(then, _)| *then == seen) {
                continue;
            }
            for _ in 0..READINGS {
                let Some(before) = self.line_of(&file)? else { break };
                let key = FileKey { inode: before.inode, device: before.device, version: before.version };
                let known = self.maps.checked.get(&FileKeyPod(key), 0);
                if known.is_ok_and(|CheckedPod(known)| known.stamp == before.stamp) {
                    self.note_content(&pin.path, seen, key);
                    break;
                }
                if is_fresh(&before.stamp) {
                    std::thread::sleep(FRESH);
                }
                let content = sha256(&mut file);
                read += 1;
                let after = self.line_of(&file)?;
                if let Ok(content) = content
                    && after.is_some_and(|after| after.stamp == before.stamp)
                {
                    let checked = Checked { stamp: before.stamp, digest: pin::words(&content) };
                    self.note_content(&pin.path, seen, key);
                    self.maps.checked.insert(FileKeyPod(key), CheckedPod(checked), 0)?;
                    break;
                }
            }
        }
        Ok(read)
    }

    /// What lay at the path before is nobody's any more, unless another path leads there: that is asked about again.
    fn note_content(&mut self, path: &str, seen: Seen, key: FileKey) {
        if let Some((_, before)) = self.contents.insert(path.to_owned(), (seen, key))
            && before != key
        {
            self.contents.retain(|_, (_, other)| *other != before);
            // A missing entry is what we want.
            let _ = self.maps.checked.remove(&FileKeyPod(before));
        }
    }

    fn line_of(&mut self, file: &File) -> Result<Option<ObjectLine>, MarkError> {
        Ok(self.identify()?.remove(&(file.as_raw_fd() as u32)))
    }
}

/// What `stat` says of a file that was told of: without another one nothing is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen([i64; 7]);

impl Seen {
    fn of(seen: &Metadata) -> Self {
        let (dev, ino, size) = (seen.dev() as i64, seen.ino() as i64, seen.size() as i64);
        Seen([dev, ino, size, seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec()])
    }
}

/// The SHA-256 of a whole file.
fn sha256(file: &mut File) -> std::io::Result<[u8; 32]> {
    file.rewind()?;
    let (mut hash, mut bytes) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(hash.finalize().into()),
            length => hash.update(&bytes[..length]),
        }
    }
}

/// Whether the last change is so short ago that another one could have the same time.
fn is_fresh(stamp: &Stamp) -> bool {
    let changed = SystemTime::UNIX_EPOCH + Duration::new(stamp.changed, stamp.changed_nanos);
    changed.elapsed().is_ok_and(|ago| ago < FRESH)
}

/// A regular file by a path without links.
fn opened(path: &str) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = OsStr::from_bytes(path.as_bytes());
    let file =
        File::from(openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}
