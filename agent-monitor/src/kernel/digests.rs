//! Whether the kernel's digests are SHA-256: asked once, at load, by showing it a file.
//!
//! `bpf_ima_file_hash` hashes with the algorithm that IMA was built or booted with (`ima_hash=`), so that the answer is
//! worth nothing before it was compared.

use std::fs::File;
use std::io::Write;

use agent_monitor_common::pin::{self, HashTrial};
use aya::maps::{Array, MapData};
use aya::programs::Lsm;
use aya::{Btf, Ebpf};
use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use sha2::{Digest, Sha256};

use super::control::HashTrialPod;
use super::posture::{Posture, State};

/// What posture calls the mechanism.
const MECHANISM: &str = "lsm.s/bprm_check_security";
const CONTENT: &[u8] = b"agent-monitor";

/// Lets the kernel hash a file, and calls the mechanism absent where the digest is not its SHA-256.
pub(super) fn test(
    object: &mut Ebpf,
    trial: &mut Array<MapData, HashTrialPod>,
    btf: &Btf,
    posture: &mut Posture,
) {
    let Some(mechanism) = posture.mechanisms.iter_mut().find(|m| m.name == MECHANISM && m.state.works())
    else {
        return;
    };
    let why = match answer(object, trial, btf) {
        Ok(HashTrial { answer: pin::SHA256, digest, .. })
            if digest == pin::words(&Sha256::digest(CONTENT).into()) =>
        {
            return;
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
    mechanism.state = State::Absent { why };
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
