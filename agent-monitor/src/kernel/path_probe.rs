//! Running the kernel's walk of the path automaton on chosen paths, by `BPF_PROG_TEST_RUN`.
//!
//! The probe calls the very function that the file hooks call, on a text that lies as a walked path lies. Works where
//! the kernel refuses LSM programs too.

use std::os::fd::AsFd;

use agent_monitor_common::automaton::{TERMINAL, Words, step};
use agent_monitor_common::image::{InForce, PLAIN_CLASS};
use agent_monitor_common::path::{PATH_BATCH, PATH_CAP, PathAnswer};

use super::loader::Kernel;
use super::probe::ProbeError;
use super::syscalls::{read_words, write_words};

/// Words of the table (`PathProbeTable` of the programs): next, slot, class, answers, starts, texts, slack.
const ANSWERS: usize = 3;
const STARTS: usize = ANSWERS + PATH_BATCH * 2;
const TEXTS: usize = STARTS + PATH_BATCH / 2;
const TABLE_WORDS: usize = TEXTS + PATH_BATCH * PATH_CAP / 8 + 256 / 8;

impl Kernel {
    /// What the image in force in `slot` answers a program of no set on `paths` (at most [`PATH_BATCH`]), as the kernel reads it.
    pub fn decide_paths(&mut self, slot: u32, paths: &[Vec<u8>]) -> Result<Vec<PathAnswer>, ProbeError> {
        let image = self.image_in_force(slot)?;
        self.probe_paths(image, PLAIN_CLASS, paths)
    }

    /// The same for an image slot, in force or not, and the program class of a number.
    pub(super) fn probe_paths(
        &mut self,
        image: u32,
        class: u32,
        paths: &[Vec<u8>],
    ) -> Result<Vec<PathAnswer>, ProbeError> {
        let mut table = lay_out(image, class, paths)?;
        let map = self.maps.path_probe.fd().as_fd();
        write_words(map, 0, &table).map_err(ProbeError::Map)?;
        self.run_probe("probe_path", paths.len() as u32)?;
        read_words(self.maps.path_probe.fd().as_fd(), 0, &mut table).map_err(ProbeError::Map)?;
        let answers = table[ANSWERS..STARTS].chunks_exact(2).zip(paths).map(|(words, path)| match words {
            [first, second] if *second != UNJUDGED => Ok(PathAnswer {
                own: *first as u32,
                opened: (*first >> 32) as u32,
                inside: *second as u32,
                pad: (*second >> 32) as u32,
            }),
            _ => Err(ProbeError::Unjudged(String::from_utf8_lossy(path).into_owned())),
        });
        answers.collect()
    }

    /// Lays `paths` out for timed runs of `probe_path`, repeated to a whole batch.
    pub fn fill_path_probe(&mut self, slot: u32, paths: &[Vec<u8>]) -> Result<(), ProbeError> {
        let image = self.image_in_force(slot)?;
        let batch: Vec<Vec<u8>> = paths.iter().cycle().take(PATH_BATCH).cloned().collect();
        let table = lay_out(image, PLAIN_CLASS, &batch)?;
        write_words(self.maps.path_probe.fd().as_fd(), 0, &table).map_err(ProbeError::Map)
    }

    fn image_in_force(&self, slot: u32) -> Result<u32, ProbeError> {
        let word = self.maps.profiles.get(&slot, 0)?;
        InForce::from_word(word).map(|in_force| in_force.slot).ok_or(ProbeError::NoImage(slot))
    }
}

/// Stands where an answer will: no answer has these bits, for its padding is zero.
const UNJUDGED: u64 = u64::MAX;

/// The table's words. A path's text ends where its slot ends.
fn lay_out(image: u32, class: u32, paths: &[Vec<u8>]) -> Result<Vec<u64>, ProbeError> {
    if paths.is_empty() || paths.len() > PATH_BATCH || paths.iter().any(|path| path.len() > PATH_CAP) {
        return Err(ProbeError::Paths);
    }
    let mut table = vec![0_u64; TABLE_WORDS];
    table[1] = u64::from(image);
    table[2] = u64::from(class);
    table[ANSWERS..STARTS].fill(UNJUDGED);
    let mut text = [0; PATH_CAP];
    for (index, path) in paths.iter().enumerate() {
        let start = PATH_CAP - path.len();
        table[STARTS + index / 2] |= (start as u64) << (32 * (index % 2));
        text[start..].copy_from_slice(path);
        let words = &mut table[TEXTS + index * (PATH_CAP / 8)..][..PATH_CAP / 8];
        for (word, bytes) in words.iter_mut().zip(text.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
    }
    Ok(table)
}

/// Paths to try an image out with: each follows the automaton from `start`, byte after byte that some rule speaks
/// about, so that together they lead through many of its states; and a few that no rule knows.
pub(super) fn trial_paths(image: &[u64], start: u32) -> Vec<Vec<u8>> {
    let mut paths: Vec<Vec<u8>> =
        ["/", "/etc/shadow", "/root/.ssh/id_rsa", "/usr/bin/env", "/tmp/x", "/\u{e9}\u{ff}/"]
            .map(|path| path.as_bytes().to_vec())
            .to_vec();
    let mut random = 0x9e37_79b9_u32;
    for _ in 0..PATH_BATCH / 2 {
        let (mut state, mut path) = (start, Vec::new());
        while state & TERMINAL == 0 && path.len() < 200 {
            let spoken: Vec<u8> = (0..=255)
                .filter(|&byte| image.word(u64::from(state) + 1 + u64::from(byte)) as u32 == state)
                .collect();
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = spoken.get((random >> 8) as usize % spoken.len().max(1)).copied().unwrap_or(b'x');
            path.push(byte);
            state = step(image, state, byte);
        }
        // What lies behind the answer is judged by it too.
        path.extend(b"/y");
        paths.push(path);
    }
    paths
}
