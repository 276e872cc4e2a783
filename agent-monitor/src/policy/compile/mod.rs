//! Compiles profiles into the images that the kernel and `decide()` walk.
//!
//! Called by the daemon before an install, by `check`, and by tests. Two entrances: [`profile`] for what one profile
//! grants, [`claims`] for which executables belong to which profile.
//!
//! What must stay true:
//! * exact: an image decides every request as the rules read by themselves do (`policy::naive` says how, and property
//!   tests compare the two);
//! * order-free and deterministic: the same rules in any order give the same words;
//! * all or nothing: rules that do not fit are an error that names the dearest, never dropped.

mod cost;
mod error;
mod files;
mod glob;
mod home;
mod image;
mod minimise;
mod network;
mod path;
mod ports;
mod programs;
mod reach;
mod reduce;
mod rows;
pub mod sample;
pub mod sample_names;
pub mod sample_paths;
mod share;
mod single;
mod state;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use agent_monitor_common::automaton::TERMINAL;
use agent_monitor_common::image::{Class, IMAGE_WORDS, MAX_PROFILES, SYSCALL_WORDS, header};

pub use self::cost::RuleCost;
pub use self::error::CompileError;
pub use self::files::{PathMatcher, Speaking};
use self::glob::Nfa;
pub use self::glob::{GlobError, check_glob};
pub use self::home::{escape, expand_home};
pub use self::image::{Image, kernel_kind};
use self::path::{Answers, Paths};
pub use self::programs::memberships;
use self::programs::{Classes, Holder};
pub use self::reach::Reach;
use self::rows::{Overflow, Packed};
pub use self::single::Glob;
use self::state::{State, Target};
use super::names::TooManyNames;
use super::{NameClasses, ResolvedProfile, at_once};

/// Network rules that are not worth a thread of their own.
const FEW: usize = 64;
/// Rules that an error about size names.
const DEAREST: usize = 5;

/// The image of a profile.
///
/// # Errors
/// [`CompileError::TooLarge`] when the rules need more than `IMAGE_WORDS`, [`CompileError::SyscallNumber`] for a call
/// that the mask can't hold.
pub fn profile(profile: &ResolvedProfile) -> Result<Image, CompileError> {
    profile_within(profile, IMAGE_WORDS)
}

/// [`profile`] with another budget, so that tests reach the limit with few rules.
fn profile_within(profile: &ResolvedProfile, limit: usize) -> Result<Image, CompileError> {
    let too_large = |words| too_large(profile, words, limit);
    let Classes { memberships, paths: exe } =
        programs::build(profile, limit)?.map_err(|path::TooMany| too_large(limit + 1))?;
    let names = NameClasses::of(&profile.network).map_err(|TooManyNames { classes }| {
        CompileError::TooManyNames { profile: profile.name.clone(), classes }
    })?;
    let holders = Holder::all(&memberships, profile.first_end().is_some());
    let network = || network::build(&profile.network, &names, &holders, None);
    let paths = || paths(profile, &holders, limit);
    let (paths, network) = if network::rules(&profile.network).count() > FEW {
        at_once::both(paths, network)
    } else {
        (paths(), network())
    };
    let (states, files) = paths?.map_err(|path::TooMany| too_large(limit + 1))?;

    // Before them the network, behind them the programs.
    let mut roots = Vec::new();
    let mut all = network.states;
    let first = all.len() as Target;
    state::append(&mut all, states, TERMINAL);
    for (network, files) in network.roots.iter().zip(files) {
        roots.extend(network.addresses.as_flattened());
        roots.push(if state::is_answer(files) { files } else { files + first });
        roots.extend(network.names);
    }
    roots.push(state::append(&mut all, exe.states, exe.root));
    let Packed { words, roots } =
        rows::pack(&all, &roots, limit).map_err(|Overflow { words }| too_large(words))?;

    let mut image = Image::seal(words);
    let masks = image::Masks::of(profile);
    let (starts, start_exe) = roots.split_at(roots.len() - 1);
    // Those without leases lie behind; a profile that has none has none of those, and nobody asks for them.
    for (number, starts) in starts.chunks_exact(starts.len() / holders.len()).enumerate() {
        let class = Class::new((number % memberships.len()) as u32);
        image.set_class(class.without_leases((number / memberships.len()) as u32), starts, masks);
    }
    image.words[header::START_EXE] = u64::from(start_exe[0]);
    image.words[header::CLASS_COUNT] = memberships.len() as u64;
    image.words[header::SETTINGS] = image::settings(profile);
    image.words[header::LEASED] = u64::from(holders.len() > memberships.len());
    image.name(&names);
    image.pin(profile.exec.as_ref().map_or(&[], |exec| exec.pins.as_slice()));
    if image.words.len() > limit {
        return Err(too_large(image.words.len()));
    }
    for call in &profile.syscalls {
        let (word, bit) = ((call.nr >> 6) as usize, 1 << (call.nr & 63));
        if word >= SYSCALL_WORDS {
            let (name, at) = (call.name.clone(), call.source.clone());
            return Err(CompileError::SyscallNumber { name, nr: call.nr, at });
        }
        image.words[header::SYSCALL_WATCH + word] |= bit;
        if call.kill {
            image.words[header::SYSCALL_KILL + word] |= bit;
        }
    }
    Ok(image)
}

/// States, and the root of each holder.
type WithRoots = (Vec<State>, Vec<Target>);

/// The path automata of all holders, equal states once, and the root of each.
fn paths(
    profile: &ResolvedProfile,
    holders: &[Holder<'_>],
    limit: usize,
) -> Result<Result<WithRoots, path::TooMany>, CompileError> {
    let (mut states, mut built, mut roots) = (Vec::new(), HashMap::new(), Vec::new());
    for &holder in holders {
        let root = match built.entry(files::holding(profile, holder)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => match files::build(profile, holder, limit)? {
                Ok(paths) => *new.insert(state::append(&mut states, paths.states, paths.root)),
                Err(path::TooMany) => return Ok(Err(path::TooMany)),
            },
        };
        roots.push(root);
    }
    Ok(Ok(if built.len() > 1 { share::merge(&states, &roots) } else { (states, roots) }))
}

fn too_large(profile: &ResolvedProfile, words: usize, limit: usize) -> CompileError {
    let dearest = cost::dearest(profile, DEAREST);
    CompileError::TooLarge { profile: profile.name.clone(), words, limit, dearest }
}

/// What [`claims`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Path automaton from `header::START_EXE`; the answer for a path is its profile's slot + 1, 0 for nobody's.
    pub image: Image,
    /// Paths that several profiles claim, for a warning.
    pub overlaps: Vec<Overlap>,
}

/// Two profiles claim the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The slot that gets it: the lower one.
    pub wins: u32,
    pub loses: u32,
    /// The shortest such path.
    pub example: String,
}

/// The image that tells which profile claims an executable, from (profile slot, glob) pairs in any order.
///
/// `~` must have been expanded ([`expand_home`]). A path that two profiles claim goes to the lower slot.
///
/// # Errors
/// [`CompileError::Glob`] for a glob that can't be read, [`CompileError::Slot`] for a slot that does not exist,
/// [`CompileError::ClaimsTooLarge`] when all together need more than `IMAGE_WORDS`.
pub fn claims(claims: &[(u32, String)]) -> Result<Claims, CompileError> {
    claims_within(claims, IMAGE_WORDS)
}

fn claims_within(claims: &[(u32, String)], limit: usize) -> Result<Claims, CompileError> {
    match path_image(claims, limit)? {
        Ok(claims) => Ok(claims),
        Err(words) => {
            // What each needs alone; one that does not fit alone needs the limit at least.
            let mut largest = (0, String::new());
            for (slot, glob) in claims {
                let alone = match path_image(&[(*slot, glob.clone())], limit)? {
                    Ok(alone) => alone.image.words_used() - header::END,
                    Err(words) => words,
                };
                if alone > largest.0 {
                    largest = (alone, glob.clone());
                }
            }
            let (largest_words, largest) = largest;
            Err(CompileError::ClaimsTooLarge { globs: claims.len(), words, limit, largest, largest_words })
        }
    }
}

/// Bit *n* says that slot *n* claims a path; its answer is the lowest slot + 1.
struct LowestSlot;

impl Answers for LowestSlot {
    /// Who else claims a path is to be reported.
    const OVERLAPS: bool = true;

    fn settled(&self, bits: u64) -> u64 {
        bits
    }

    fn answer(&self, bits: u64) -> u16 {
        if bits == 0 { 0 } else { bits.trailing_zeros() as u16 + 1 }
    }
}
const _: () = assert!(MAX_PROFILES <= 64);

/// The image of these globs, or the number of words that it needs at least when that is over `limit`.
fn path_image(claims: &[(u32, String)], limit: usize) -> Result<Result<Claims, usize>, CompileError> {
    let mut nfa = Nfa::new();
    for (slot, glob) in claims {
        if *slot >= MAX_PROFILES as u32 {
            return Err(CompileError::Slot { slot: *slot });
        }
        nfa.add(glob, 1 << *slot).map_err(|error| CompileError::Glob {
            slot: *slot,
            glob: glob.clone(),
            error,
        })?;
    }
    let Ok(Paths { states, root, overlaps }) = path::build(&nfa, limit, &LowestSlot) else {
        return Ok(Err(limit));
    };
    let packed = match rows::pack(&states, &[root], limit) {
        Ok(packed) => packed,
        Err(Overflow { words }) => return Ok(Err(words)),
    };
    let mut image = Image::seal(packed.words);
    image.words[header::START_EXE] = packed.roots.first().copied().map_or(0, u64::from);
    let overlaps = overlaps
        .into_iter()
        .map(|((wins, loses), path)| Overlap {
            wins,
            loses,
            example: String::from_utf8_lossy(&path).into_owned(),
        })
        .collect();
    Ok(Ok(Claims { image, overlaps }))
}
