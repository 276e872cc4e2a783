//! Requests about paths: which rights an operation needs, and what a path automaton's answer says of them.
//!
//! One automaton per image answers for files and programs alike: the answer of a path holds a right's *grant* and its
//! *denial by rule* for every [`Right`], so one walk over the path judges an operation that needs several.

use crate::automaton::{TERMINAL, Words, accept, answer, step};
use crate::decide::Decision;
use crate::image::{Class, class};

/// What can be done to an object that has a path. Values are bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Right {
    /// Open for reading, list a directory.
    Read = 1,
    /// Open for writing; create, delete, rename, link, truncate, change mode or owner.
    Write = 2,
    /// Execute, or map as code.
    Execute = 4,
    /// Connect or send to a Unix socket. An abstract name is the text `@name`.
    Connect = 8,
}

impl Right {
    pub const ALL: [Right; 4] = [Right::Read, Right::Write, Right::Execute, Right::Connect];

    /// The word that events and metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Execute => "execute",
            Right::Connect => "connect",
        }
    }
}

/// A set of [`Right`]s, as bits.
pub type Rights = u32;

/// All rights.
pub const ALL_RIGHTS: Rights = 0b1111;
/// Where the denied rights begin in an answer.
pub const DENIED_SHIFT: u32 = 4;
/// In an answer: a rule denies something that lies, or could lie, below this directory.
pub const DENIED_BELOW: u32 = 1 << 8;
/// Where the rights begin in an answer that a rule which is tried out would deny.
pub const AUDITED_SHIFT: u32 = 9;

/// The answer of a path: rights that a rule grants and no rule denies, rights that a rule denies. What a rule that is
/// tried out would deny is added by [`audited`].
pub const fn path_answer(granted: Rights, denied: Rights, denied_below: bool) -> u32 {
    (granted & !denied) | denied << DENIED_SHIFT | if denied_below { DENIED_BELOW } else { 0 }
}

/// The part of an answer that says which rights a rule that is tried out would deny.
pub const fn audited(rights: Rights) -> u32 {
    rights << AUDITED_SHIFT
}

/// The decision of a path's answer on an operation that needs `needed`.
#[inline(always)]
pub const fn decide_answer(answer: u32, needed: Rights) -> Decision {
    if answer >> DENIED_SHIFT & needed != 0 {
        Decision::DenyRule
    } else if answer & needed != needed {
        Decision::DenyDefault
    } else if answer >> AUDITED_SHIFT & needed != 0 {
        Decision::Audit
    } else {
        Decision::Allow
    }
}

/// Where the walk goes on inside a directory; `state`: where the walk over its path ended.
#[inline(always)]
pub fn inside<W: Words + ?Sized>(image: &W, state: u32) -> u32 {
    if state & TERMINAL != 0 { state } else { step(image, state, b'/') }
}

/// The answer of an open directory: by its own path, or by the same with `/` behind it, so that `/usr/**` is a grant
/// to list `/usr` too. `state`: where the walk over the path ended.
#[inline(always)]
pub fn directory_answer<W: Words + ?Sized>(image: &W, state: u32) -> u32 {
    let own = accept(image, state);
    if state & TERMINAL != 0 {
        return own;
    }
    let inside = accept(image, step(image, state, b'/'));
    let denied = (own | inside) & ALL_RIGHTS << DENIED_SHIFT;
    let audited = (own | inside) & ALL_RIGHTS << AUDITED_SHIFT;
    ((own | inside) & ALL_RIGHTS & !(denied >> DENIED_SHIFT)) | denied | audited | own & DENIED_BELOW
}

/// Whether a denied object may lie in a directory of this answer, or the whole directory is denied.
#[inline(always)]
pub const fn denies_below(answer: u32) -> bool {
    answer & (DENIED_BELOW | (Right::Write as u32) << DENIED_SHIFT) != 0
}

/// Whether a rule forbids that a directory changes its path; `from` and `to`: where the walks over the two paths ended.
///
/// What lies in the directory goes along. Where both walks go on in one state, every rule says the same about it under
/// either name; else nothing may move out of the reach of a denial or into it.
#[inline(always)]
pub fn move_denied<W: Words + ?Sized>(image: &W, from: u32, to: u32) -> bool {
    inside(image, from) != inside(image, to)
        && (denies_below(accept(image, from)) || denies_below(accept(image, to)))
}

/// Whether a rule forbids that a name leads elsewhere, as a symlink does: it lies on the way to a denied object, which
/// whoever follows the name would find another thing instead of. `beside`: where the walk over its directory's path ended;
/// what goes on in one state there and behind the name is no way of its own (`/srv/a` under a denial of `/srv/**/key`).
#[inline(always)]
pub fn leads_astray<W: Words + ?Sized>(image: &W, beside: u32, there: u32) -> bool {
    inside(image, beside) != inside(image, there) && denies_below(accept(image, there))
}

/// Judges an operation of a program of `class` on a path that is no directory. The hooks walk the same steps in
/// `bpf_loop`.
pub fn decide_path<W: Words + ?Sized>(image: &W, class: Class, path: &[u8], needed: Rights) -> Decision {
    decide_answer(answer(image, class.field(image, class::START_PATH) as u32, path), needed)
}

/// Longest path that is judged, in bytes.
pub const PATH_CAP: usize = 4096;
/// Paths that one test-run of the path probe judges.
pub const PATH_BATCH: usize = 256;

/// What the path probe says of a path, by either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PathAnswer {
    /// The answer of the path itself.
    pub own: u32,
    /// [`directory_answer`].
    pub opened: u32,
    /// [`inside`].
    pub inside: u32,
    /// Zero.
    pub pad: u32,
}

impl PathAnswer {
    /// Of the state where a walk ended.
    #[inline(always)]
    pub fn of<W: Words + ?Sized>(image: &W, state: u32) -> Self {
        PathAnswer {
            own: accept(image, state),
            opened: directory_answer(image, state),
            inside: inside(image, state),
            pad: 0,
        }
    }
}

/// The state where the walk over `path` ends. The hooks walk the same steps in `bpf_loop`.
pub fn walk<W: Words + ?Sized>(image: &W, start: u32, path: &[u8]) -> u32 {
    let mut state = start;
    for &byte in path {
        if state & TERMINAL != 0 {
            break; // nothing that follows changes it
        }
        state = step(image, state, byte);
    }
    state
}
