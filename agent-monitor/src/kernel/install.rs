//! Installing images: into the slot that is not in force, then one word flips.

use std::io;
use std::os::fd::AsFd;

use agent_monitor_common::image::{
    CLAIMS_ROW, IMAGE_WORDS, MAGIC, MAX_PROFILES, field, header, profile_word, split_profile_word,
};
use aya::maps::MapError;

use super::loader::Kernel;
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
    #[error(transparent)]
    Map(#[from] MapError),
}

impl Kernel {
    /// Puts `image` in force for the profile in `slot`. Returns its generation (1 for the first).
    ///
    /// Every hook sees the old image or the new one. Takes up to 120 ms: the kernel waits for the hooks that still
    /// read what the slot held two generations ago.
    pub fn install(&mut self, slot: u32, image: &[u64]) -> Result<u32, InstallError> {
        if slot as usize >= MAX_PROFILES {
            return Err(InstallError::Slot { slot });
        }
        self.install_row(slot, image)
    }

    /// Puts the claims' image in force: which executables make an agent.
    pub fn install_claims(&mut self, image: &[u64]) -> Result<u32, InstallError> {
        self.install_row(CLAIMS_ROW, image)
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
        split_profile_word(self.maps.profiles.get(&slot, 0).ok()?).map(|(_, generation)| generation)
    }

    fn install_row(&mut self, row: u32, image: &[u64]) -> Result<u32, InstallError> {
        if field(image, header::MAGIC) != MAGIC {
            return Err(InstallError::Version);
        }
        if image.len() > IMAGE_WORDS {
            return Err(InstallError::TooLarge { words: image.len() });
        }
        let generation = self.generations.get(&row).copied().unwrap_or(0).wrapping_add(1).max(1);
        let slot = row * 2 + (generation & 1);
        let mut words = image.to_vec();
        words.resize(IMAGE_WORDS, 0);
        let inner = create_words(b"policy_image\0\0\0\0", &words).map_err(InstallError::Write)?;
        write_map(self.maps.images.fd().as_fd(), slot, &inner).map_err(InstallError::Write)?;
        self.maps.profiles.set(row, profile_word(slot, generation), 0)?;
        self.generations.insert(row, generation);
        Ok(generation)
    }
}
