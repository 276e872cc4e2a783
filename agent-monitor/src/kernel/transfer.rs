//! From one set of pins to another: images, agents and labels, while both are attached.
//!
//! Called by the loader where the pinned programs are not this build's. What must stay true: the old set denies until
//! it is removed, which happens only when everything that it governed is governed by the new one.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use agent_monitor_common::agent::AgentState;
use agent_monitor_common::image::{CLAIMS_ROW, IMAGE_WORDS, InForce, PROFILE_ROWS, field, header};
use agent_monitor_common::label::{BITMAP_WORDS, Label, LabelOrigin};
use agent_monitor_common::name::{RESOLVER_PLACE, Resolver};
use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::ProgramError;

use super::control::{AgentPod, NamedKeyPod, NamedPod, SpokenKeyPod, SpokenPod};
use super::install::InstallError;
use super::labels::{LabelError, allowed_by_labels};
use super::lease::Deadline;
use super::loader::Kernel;
use super::marks::Marks;
use super::names::{Entries, SpokenEntries};
use super::pins::{PinError, Set, agent_ids, read_agents};
use super::records::Records;
use super::syscalls::{read_inner, read_words};

/// Why a new set could not take over from the one in force.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("cannot read its maps: {0}")]
    Map(#[from] MapError),
    #[error("cannot read its {what}: {source}")]
    Records { what: &'static str, source: io::Error },
    #[error("cannot read an image: {0}")]
    Image(#[source] io::Error),
    #[error("cannot read its bits: {0}")]
    Bits(#[source] io::Error),
    #[error("cannot put one of its images in force: {0}")]
    Install(#[from] InstallError),
    #[error("cannot label one of its processes: {0}")]
    Label(#[from] LabelError),
    #[error("cannot switch the system call hook: {0}")]
    SyscallHook(#[from] ProgramError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("its processes fork faster than they can be labelled")]
    Unstable,
}

fn unread(what: &'static str) -> impl FnOnce(io::Error) -> TransferError {
    move |source| TransferError::Records { what, source }
}

/// Rounds over the labels. Each round labels what lives, and what is labelled labels its own children.
const ROUNDS: u32 = 64;
/// Longer than a fork takes between a bit and its label.
const FORK: Duration = Duration::from_millis(20);
/// Keys between the last agent that the old exec hook made and the first of the new one: both run for a while.
const KEY_MARGIN: u64 = 1 << 16;

/// Copies what `old` enforces into the new set.
pub(super) fn take_over(kernel: &mut Kernel, old: &Set) -> Result<(), TransferError> {
    let map = |name: &str| MapData::from_pin(old.map(name));
    let profiles: Array<MapData, u64> = Map::from_map_data(map("PROFILES")?)?.try_into()?;
    let labels = Records::<Label>::open(&old.map("LABELS")).map_err(unread("labels"))?;
    let agents = Records::<AgentState>::open(&old.map("AGENTS")).map_err(unread("agents"))?;
    let next: Array<MapData, u64> = Map::from_map_data(map("NEXT_AGENT")?)?.try_into()?;
    let (images, bits) = (map("IMAGES")?, map("LABEL_BITS")?);
    let marks = marks_of(old)?;

    adopt_names(kernel, old)?;
    kernel.set_next_claimed(next.get(&0, 0)?.wrapping_add(KEY_MARGIN))?;
    let counted = allowed_by_labels(labels.all().map_err(unread("labels"))?.into_values());
    for (key, state) in agents.all().map_err(unread("agents"))? {
        // The iterator counts its processes again, and their new labels count from nothing.
        let allowed = state.allowed + counted.get(&key).copied().unwrap_or(0);
        kernel.maps.agents.insert(key, AgentPod(AgentState { live: 0, allowed, ..state }), 0)?;
    }
    for (key, note) in read_agents(&agent_ids(old)?) {
        kernel.note_agent(key, note);
    }
    let deadlines: Option<Array<MapData, u64>> = match old.map("DEADLINES").exists() {
        true => Some(Map::from_map_data(map("DEADLINES")?)?.try_into()?),
        false => None,
    };
    let deadline = |row| deadlines.as_ref().map_or(Ok(Deadline::PAST), |map| Deadline::read(map, row));
    // Claims last: who is an agent by the new set must find its profile there.
    for row in 0..PROFILE_ROWS as u32 {
        let Some(InForce { slot, generation, .. }) = InForce::from_word(profiles.get(&row, 0)?) else {
            continue;
        };
        let mut words = vec![0; IMAGE_WORDS];
        read_inner(images.fd().as_fd(), slot, &mut words).map_err(TransferError::Image)?;
        words.truncate((field(words.as_slice(), header::LENGTH) as usize).clamp(header::END, IMAGE_WORDS));
        kernel.generations.insert(row, generation.wrapping_sub(1));
        if let Some(marks) = &marks {
            kernel.adopt_marks(row, generation, marks)?;
        }
        match row {
            CLAIMS_ROW => kernel.install_claims(&words)?,
            _ => kernel.install_until(row, &words, deadline(row)?)?,
        };
    }
    if old.link("syscall_enter").exists() {
        kernel.set_syscall_hook(true)?;
    }
    copy_labels(kernel, &labels, &bits)?;
    // Read again: the old exec hook may have made more.
    for key in agents.all().map_err(unread("agents"))?.into_keys() {
        kernel.label_sockets(key)?;
    }
    Ok(())
}

/// What addresses stand for by the images that are taken over, whose generations stay. Nothing of a build that had no
/// names, or others: then names are looked up again.
fn adopt_names(kernel: &mut Kernel, old: &Set) -> Result<(), TransferError> {
    if !old.map("NAMED").exists() || !old.map("RESOLVER").exists() {
        return Ok(());
    }
    let Some(names) = kernel.names.as_mut() else { return Ok(()) };
    let map = |name: &str| MapData::from_pin(old.map(name));
    let resolver: Array<MapData, u64> = Map::from_map_data(map("RESOLVER")?)?.try_into()?;
    names.set_resolver(Resolver::from_word(resolver.get(&RESOLVER_PLACE, 0)?))?;
    let named: Result<Entries, MapError> = Map::from_map_data(map("NAMED")?)?.try_into();
    match named {
        Ok(named) => {
            for (NamedKeyPod(key), NamedPod(what)) in named.iter().flatten() {
                names.set_named(key, what)?;
            }
        }
        Err(MapError::InvalidKeySize { .. } | MapError::InvalidValueSize { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    if !old.map("SPOKEN").exists() {
        return Ok(());
    }
    let spoken: Result<SpokenEntries, MapError> = Map::from_map_data(map("SPOKEN")?)?.try_into();
    match spoken {
        Ok(spoken) => {
            for (SpokenKeyPod(key), SpokenPod(what)) in spoken.iter().flatten() {
                names.set_spoken(key, what)?;
            }
            Ok(())
        }
        Err(MapError::InvalidKeySize { .. } | MapError::InvalidValueSize { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The marks of a set; `None`: of a build that had none, or others.
fn marks_of(set: &Set) -> Result<Option<Marks>, TransferError> {
    if !set.map("MARKS").exists() {
        return Ok(None);
    }
    let map = Map::from_map_data(MapData::from_pin(set.map("MARKS"))?)?;
    match map.try_into() {
        Ok(marks) => Ok(Some(marks)),
        Err(MapError::InvalidKeySize { .. } | MapError::InvalidValueSize { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Until a round finds nothing that the new set does not know. Both fork hooks run: a child made before its parent was
/// labelled here is in the old labels, one made later is in both.
fn copy_labels(kernel: &mut Kernel, labels: &Records<Label>, bits: &MapData) -> Result<(), TransferError> {
    rounds(kernel, |_| Ok(labels.all().map_err(unread("labels"))?.into_iter().collect()))?;
    // Processes whose label the old set lost are denied everything. Here they get a label that leads to no profile,
    // which denies them everything too.
    let nothing = Label { profile: u32::MAX, origin: LabelOrigin::Fork.code(), ..Label::ZERO };
    rounds(kernel, |kernel| {
        let lost = bits_without_label(bits, labels)?;
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        // A fork sets the bit a moment before it writes the label.
        std::thread::sleep(FORK);
        let again = bits_without_label(bits, labels)?;
        Ok(lost
            .into_iter()
            .filter(|tgid| again.contains(tgid) && !kernel.is_labelled(*tgid))
            .map(|tgid| (tgid, nothing))
            .collect())
    })
}

/// Labels what `find` finds, until it finds nothing new.
fn rounds(
    kernel: &mut Kernel,
    find: impl Fn(&Kernel) -> Result<Vec<(u32, Label)>, TransferError>,
) -> Result<(), TransferError> {
    for _ in 0..ROUNDS {
        let mut left = false;
        for (tgid, label) in find(kernel)? {
            if kernel.label_of(tgid).is_none() {
                let origin = LabelOrigin::from_code(label.origin).unwrap_or(LabelOrigin::Fork);
                left |= kernel.label_one(tgid, label.agent, label.profile, origin)?;
            }
        }
        if !left {
            return Ok(());
        }
    }
    Err(TransferError::Unstable)
}

fn bits_without_label(bits: &MapData, labels: &Records<Label>) -> Result<HashSet<u32>, TransferError> {
    let mut words = vec![0_u64; BITMAP_WORDS];
    read_words(bits.fd().as_fd(), 0, &mut words).map_err(TransferError::Bits)?;
    let mut without = HashSet::new();
    for (i, word) in words.into_iter().enumerate().filter(|(_, word)| *word != 0) {
        for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
            let tgid = (i * 64 + bit) as u32;
            if labels.get(tgid).map_err(unread("labels"))?.is_none() {
                without.insert(tgid);
            }
        }
    }
    Ok(without)
}
