//! Running the kernel's `decide()` on chosen requests, by `BPF_PROG_TEST_RUN`.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use agent_monitor_common::decide::Decision;
use agent_monitor_common::image::{InForce, PLAIN_CLASS};
use agent_monitor_common::path::{PATH_BATCH, PATH_CAP};
use agent_monitor_common::request::{Direction, NetRequest, PROBE_BATCH, ProbeRequest, Protocol};
use agent_monitor_common::wire::Wire;
use aya::maps::MapError;
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};

use super::loader::Kernel;
use super::syscalls::{read_words, write_words};

/// Why the probe could not answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("profile slot {0} has no image")]
    NoImage(u32),
    #[error("a batch has at most {PROBE_BATCH} requests, not {0}")]
    Batch(usize),
    #[error("a batch has 1 to {PATH_BATCH} paths of up to {PATH_CAP} bytes")]
    Paths,
    #[error("the kernel did not judge the path {0}")]
    Unjudged(String),
    #[error("cannot move the batch: {0}")]
    Map(#[source] io::Error),
    #[error("cannot read the profile table: {0}")]
    Profiles(#[from] MapError),
    #[error("cannot run the probe {name}: {source}")]
    Run { name: &'static str, source: ProgramError },
    #[error("the kernel answered {0}, which is no decision")]
    Answer(u32),
}

/// What a run of the probe cost.
#[derive(Clone, Copy, Debug)]
pub struct ProbeRun {
    /// Mean time of one run, as the kernel measured it.
    pub each: Duration,
}

/// Words of the probe's table: next, slot and class, requests, answers.
const REQUEST_WORDS: usize = size_of::<ProbeRequest>() / 8;
const TABLE_WORDS: usize = 2 + PROBE_BATCH * REQUEST_WORDS + PROBE_BATCH / 2;

impl Kernel {
    /// The kernel's decisions on `requests` (at most [`PROBE_BATCH`]) of a program of `class`, by the image in force in
    /// `slot`.
    pub fn decide_probe(
        &mut self,
        slot: u32,
        class: u32,
        requests: &[NetRequest],
    ) -> Result<Vec<Decision>, ProbeError> {
        let word = self.maps.profiles.get(&slot, 0)?;
        let image = InForce::from_word(word).ok_or(ProbeError::NoImage(slot))?.slot;
        self.probe_image(image, class, requests)
    }

    /// The kernel's decisions by the image in an image slot, in force or not.
    pub(super) fn probe_image(
        &mut self,
        image: u32,
        class: u32,
        requests: &[NetRequest],
    ) -> Result<Vec<Decision>, ProbeError> {
        let requests: Vec<ProbeRequest> = requests.iter().copied().map(ProbeRequest::from).collect();
        self.probe(image, class, &requests)
    }

    /// The same about names: class of the name, protocol, port.
    pub fn decide_names(
        &mut self,
        slot: u32,
        class: u32,
        requests: &[(u16, Protocol, u16)],
    ) -> Result<Vec<Decision>, ProbeError> {
        let word = self.maps.profiles.get(&slot, 0)?;
        let image = InForce::from_word(word).ok_or(ProbeError::NoImage(slot))?.slot;
        self.probe_names(image, class, requests)
    }

    /// The same by the image in an image slot, in force or not.
    pub(super) fn probe_names(
        &mut self,
        image: u32,
        class: u32,
        requests: &[(u16, Protocol, u16)],
    ) -> Result<Vec<Decision>, ProbeError> {
        let request = |&(name, protocol, port): &(u16, Protocol, u16)| ProbeRequest {
            port,
            protocol: protocol.code(),
            direction: Direction::Out.code(),
            name: name.into(),
            ..ProbeRequest::ZERO
        };
        let requests: Vec<ProbeRequest> = requests.iter().map(request).collect();
        self.probe(image, class, &requests)
    }

    fn probe(
        &mut self,
        image: u32,
        class: u32,
        requests: &[ProbeRequest],
    ) -> Result<Vec<Decision>, ProbeError> {
        self.fill(image, class, requests)?;
        self.run_probe("probe_decide", requests.len() as u32)?;
        let mut table = vec![0_u64; TABLE_WORDS];
        read_words(self.maps.probe.fd().as_fd(), 0, &mut table).map_err(ProbeError::Map)?;
        let answers = &table[2 + PROBE_BATCH * REQUEST_WORDS..];
        (0..requests.len())
            .map(|i| {
                let code = (answers[i / 2] >> (32 * (i % 2))) as u32;
                Decision::from_code(code).ok_or(ProbeError::Answer(code))
            })
            .collect()
    }

    /// Times `repeat` runs of a probe over a filled batch: `probe_decide`, or `probe_empty` for what the probe costs.
    pub fn time_probe(&mut self, name: &'static str, repeat: u32) -> Result<ProbeRun, ProbeError> {
        self.run_probe(name, repeat)
    }

    /// Lays `requests` out for the probe, repeated to a whole batch.
    pub fn fill_probe(&mut self, slot: u32, requests: &[NetRequest]) -> Result<(), ProbeError> {
        let word = self.maps.profiles.get(&slot, 0)?;
        let image = InForce::from_word(word).ok_or(ProbeError::NoImage(slot))?.slot;
        let requests: Vec<ProbeRequest> = requests.iter().copied().map(ProbeRequest::from).collect();
        self.fill(image, PLAIN_CLASS, &requests)
    }

    fn fill(&mut self, image: u32, class: u32, requests: &[ProbeRequest]) -> Result<(), ProbeError> {
        if requests.is_empty() || requests.len() > PROBE_BATCH {
            return Err(ProbeError::Batch(requests.len()));
        }
        let mut table = vec![0_u64; TABLE_WORDS];
        table[1] = u64::from(image) | u64::from(class) << 32;
        // No decision has this code: a run that fails leaves it, and is not taken for a denial.
        table[2 + PROBE_BATCH * REQUEST_WORDS..].fill(u64::MAX);
        for (cell, request) in table[2..2 + PROBE_BATCH * REQUEST_WORDS]
            .chunks_exact_mut(REQUEST_WORDS)
            .zip(requests.iter().cycle())
        {
            for (word, bytes) in cell.iter_mut().zip(request.as_bytes().chunks_exact(8)) {
                let mut eight = [0; 8];
                eight.copy_from_slice(bytes);
                *word = u64::from_ne_bytes(eight);
            }
        }
        write_words(self.maps.probe.fd().as_fd(), 0, &table).map_err(ProbeError::Map)
    }

    pub(super) fn run_probe(&mut self, name: &'static str, repeat: u32) -> Result<ProbeRun, ProbeError> {
        let failed = |source| ProbeError::Run { name, source };
        let program: &mut SchedClassifier = self
            .object
            .program_mut(name)
            .ok_or_else(|| failed(ProgramError::NotLoaded))?
            .try_into()
            .map_err(failed)?;
        if program.fd().is_err() {
            program.load().map_err(failed)?;
        }
        // The smallest packet that the kernel's test-run takes: an Ethernet header.
        let packet = [0_u8; 14];
        let result = program
            .test_run(TestRunOptions { data_in: Some(&packet), repeat, ..TestRunOptions::new() })
            .map_err(failed)?;
        Ok(ProbeRun { each: result.duration })
    }
}
