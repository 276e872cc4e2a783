//! Installing images: into the slot that is not in force, then one word flips.

use std::io;
use std::os::fd::AsFd;

use agent_monitor_common::decide::{Decision, decide, decide_name};
use agent_monitor_common::image::{
    CLAIMS_ROW, Class, HAS_NAMES, IMAGE_WORDS, InForce, MAGIC, MAX_CLASSES, MAX_PROFILES, Settings, class,
    field, header,
};
use agent_monitor_common::path::{PathAnswer, walk};
use agent_monitor_common::request::{Address, NetRequest, Protocol};
use aya::maps::MapError;

use super::labels::LabelError;
use super::lease::Deadline;
use super::loader::Kernel;
use super::path_probe::trial_paths;
use super::probe::ProbeError;
use super::syscalls::{create_words, write_map};

/// Why an image was not installed. What was in force still is.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("the image is for another version of the programs")]
    Version,
    #[error("the image has {words} words; the kernel side holds {IMAGE_WORDS}")]
    TooLarge { words: usize },
    #[error("there is no profile slot {slot}; {MAX_PROFILES} profiles can be in force at one time")]
    Slot { slot: u32 },
    #[error("cannot write the image: {0}")]
    Write(#[source] io::Error),
    #[error("cannot try the image out in the kernel: {0}")]
    Probe(#[from] ProbeError),
    #[error(
        "the kernel judges {request:?} as {kernel:?} and userspace as {user:?}: the image was not put in force"
    )]
    Disagreement { request: NetRequest, kernel: Decision, user: Decision },
    #[error(
        "the kernel judges names of class {name} ({protocol:?}, port {port}) as {kernel:?} and userspace as {user:?}: the image was not put in force"
    )]
    NameDisagreement { name: u16, protocol: Protocol, port: u16, kernel: Decision, user: Decision },
    #[error("cannot find out what the profile's agents run: {0}")]
    Classes(#[source] LabelError),
    #[error(
        "the kernel judges the path `{path}` as {kernel:?} and userspace as {user:?}: the image was not put in force"
    )]
    PathDisagreement { path: String, kernel: PathAnswer, user: PathAnswer },
    #[error(transparent)]
    Map(#[from] MapError),
}

impl Kernel {
    /// Puts `image`, which has no leases, in force for the profile in `slot`. Returns its generation (1 for the first).
    ///
    /// Every hook sees the old image or the new one. Takes up to 120 ms: the kernel waits for the hooks that still
    /// read what the slot held two generations ago.
    pub fn install(&mut self, slot: u32, image: &[u64]) -> Result<u32, InstallError> {
        self.install_until(slot, image, Deadline::PAST)
    }

    /// The same, of an image whose leases end at `deadline`.
    pub fn install_until(
        &mut self,
        slot: u32,
        image: &[u64],
        deadline: Deadline,
    ) -> Result<u32, InstallError> {
        if slot as usize >= MAX_PROFILES {
            return Err(InstallError::Slot { slot });
        }
        self.install_row(slot, image, deadline)
    }

    /// Puts the claims' image in force: which executables make an agent.
    pub fn install_claims(&mut self, image: &[u64]) -> Result<u32, InstallError> {
        self.install_row(CLAIMS_ROW, image, Deadline::PAST)
    }

    /// No executable makes an agent any more.
    pub fn remove_claims(&mut self) -> Result<(), InstallError> {
        Ok(self.maps.profiles.set(CLAIMS_ROW, 0, 0)?)
    }

    /// Takes the profile's image away: its agents are denied everything.
    pub fn uninstall(&mut self, slot: u32) -> Result<(), InstallError> {
        if slot as usize >= MAX_PROFILES {
            return Err(InstallError::Slot { slot });
        }
        Ok(self.maps.profiles.set(slot, 0, 0)?)
    }

    /// The generation in force in `slot`.
    pub fn generation(&self, slot: u32) -> Option<u32> {
        InForce::from_word(self.maps.profiles.get(&slot, 0).ok()?).map(|in_force| in_force.generation)
    }

    /// The generation that the next image of a row will have.
    pub fn next_generation(&self, row: u32) -> u32 {
        self.generations.get(&row).copied().unwrap_or(0).wrapping_add(1).max(1)
    }

    /// Lets the kernel judge with the image in `slot`, which is not in force yet, and compares with userspace: one
    /// test of the image, the layout, both compilers and the running kernel.
    fn try_out(&mut self, slot: u32, image: &[u64]) -> Result<(), InstallError> {
        let requests = trials();
        for record in records(image) {
            let answers = self.probe_image(slot, record, &requests)?;
            for (&request, kernel) in requests.iter().zip(answers) {
                let user = decide(image, Class::of_record(record), request);
                if user != kernel {
                    return Err(InstallError::Disagreement { request, kernel, user });
                }
            }
            let names = trial_names(image);
            if names.is_empty() {
                continue;
            }
            let answers = self.probe_names(slot, record, &names)?;
            for (&(name, protocol, port), kernel) in names.iter().zip(answers) {
                let user = decide_name(image, Class::of_record(record), name, protocol, port);
                if user != kernel {
                    return Err(InstallError::NameDisagreement { name, protocol, port, kernel, user });
                }
            }
        }
        for record in records(image) {
            let start = Class::of_record(record).field(image, class::START_PATH) as u32;
            let paths = trial_paths(image, start);
            let answers = self.probe_paths(slot, record, &paths)?;
            for (path, kernel) in paths.iter().zip(answers) {
                let user = PathAnswer::of(image, walk(image, start, path));
                if user != kernel {
                    let path = String::from_utf8_lossy(path).into_owned();
                    return Err(InstallError::PathDisagreement { path, kernel, user });
                }
            }
        }
        Ok(())
    }

    fn install_row(&mut self, row: u32, image: &[u64], deadline: Deadline) -> Result<u32, InstallError> {
        if field(image, header::MAGIC) != MAGIC {
            return Err(InstallError::Version);
        }
        if image.len() > IMAGE_WORDS {
            return Err(InstallError::TooLarge { words: image.len() });
        }
        let generation = self.next_generation(row);
        let slot = row * 2 + (generation & 1);
        let mut words = image.to_vec();
        words.resize(IMAGE_WORDS, 0);
        let inner = create_words(b"policy_image\0\0\0\0", &words).map_err(InstallError::Write)?;
        write_map(self.maps.images.fd().as_fd(), slot, &inner).map_err(InstallError::Write)?;
        let governs = row != CLAIMS_ROW && self.agents().iter().any(|(_, agent)| agent.profile == row);
        if row != CLAIMS_ROW {
            self.try_out(slot, image)?;
        }
        if governs {
            // Before the flip, so that what is granted to a program stays granted to it through the flip.
            self.find_classes(row, slot, generation).map_err(InstallError::Classes)?;
        }
        let mode = Settings::from_word(field(image, header::SETTINGS)).mode;
        let leased = field(image, header::LEASED) != 0;
        if leased {
            // The older image's end holds until the flip, if it is the earlier one.
            self.advance_deadline(row, deadline)?;
        }
        self.maps.profiles.set(row, InForce { slot, generation, mode, leased }.to_word(), 0)?;
        if leased {
            self.set_deadline(row, deadline)?;
        }
        self.generations.insert(row, generation);
        // And again, for what was executed or forked in between.
        if governs && let Err(error) = self.find_classes(row, slot, generation) {
            tracing::error!(%error, "some of the agents' programs may be denied what is granted to them: reload again");
        }
        Ok(generation)
    }
}

/// The records of an image that are in use.
fn records(image: &[u64]) -> impl Iterator<Item = u32> {
    let classes = (field(image, header::CLASS_COUNT) as u32).min(MAX_CLASSES as u32);
    let times = 1 + u32::from(field(image, header::LEASED) != 0);
    (0..times).flat_map(move |time| (0..classes).map(move |class| time * MAX_CLASSES as u32 + class))
}

/// Names that an image is tried out with; none where its profile grants none.
fn trial_names(image: &[u64]) -> Vec<(u16, Protocol, u16)> {
    let mut names = Vec::new();
    if Settings::from_word(field(image, header::SETTINGS)).flags & HAS_NAMES != 0 {
        for name in [1, 2, 3, 255, 256, u16::MAX] {
            for port in [0, 22, 80, 443, 8080] {
                names.extend(Protocol::ALL.iter().map(|&protocol| (name, protocol, port)));
            }
        }
    }
    names
}

/// Requests that an image is tried out with: spread over the directions and protocols, at addresses that rules often
/// name.
fn trials() -> Vec<NetRequest> {
    let mut requests = Vec::new();
    for v4 in [
        [0, 0, 0, 0],
        [10, 0, 0, 1],
        [127, 0, 0, 1],
        [169, 254, 169, 254],
        [192, 168, 1, 1],
        [203, 0, 113, 9],
    ] {
        let v4 = Address::v4(u32::from_ne_bytes(v4));
        let [.., embedded] = v4.0;
        let nat64 = Address([0x0064_ff9b_u32.to_be(), 0, 0, embedded]);
        let ula = Address([0xfd00_0000_u32.to_be(), 0, 0, embedded]);
        for address in [v4, nat64, ula] {
            for port in [0, 22, 53, 443, 8080] {
                for protocol in Protocol::ALL {
                    requests.push(NetRequest::out(address, port, *protocol));
                    requests.push(NetRequest::listen(address, port, *protocol));
                }
            }
        }
    }
    requests
}
