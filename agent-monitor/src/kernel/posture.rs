//! Posture: what this kernel can truly enforce, mechanism by mechanism, and what a profile asks beyond it.

use crate::policy::{Mode, ResolvedProfile};

use super::programs::{Entry, Kind};

/// Whether a mechanism works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Attached. Of LSM programs: and the kernel was seen to call them.
    Active,
    /// Loaded; attached while it is needed.
    Idle,
    /// The kernel refused it.
    Refused { errno: i32, why: String },
    /// The kernel would never call it.
    Absent { why: String },
}

impl State {
    pub fn works(&self) -> bool {
        matches!(self, State::Active | State::Idle)
    }

    /// One word, for metrics and tables.
    pub fn name(&self) -> &'static str {
        match self {
            State::Active => "active",
            State::Idle => "idle",
            State::Refused { .. } => "refused",
            State::Absent { .. } => "absent",
        }
    }
}

/// One mechanism.
#[derive(Clone, Debug)]
pub struct Mechanism {
    /// As events and metrics name it, for example `cgroup/connect4`.
    pub name: &'static str,
    pub state: State,
    /// What goes unseen without it.
    pub blind: &'static str,
    serves: Section,
}

/// The section of a profile that a mechanism serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    /// Processes and their network: every profile has it.
    Always,
    /// `files` and `exec`.
    Paths,
    /// `unix`.
    Unix,
    /// `privileges`.
    Privileges,
    /// Mounts: `files`, `exec`, `unix` and `privileges`.
    Mounts,
    /// `exec.pinned`.
    Pins,
    /// `syscalls`.
    Syscalls,
    /// None: what the others do goes on without it.
    Survival,
}

/// What a profile asks beyond what every profile does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// It has a `files` or an `exec` section.
    pub paths: bool,
    /// It has a `unix` section.
    pub unix: bool,
    /// It has a `privileges` section.
    pub privileges: bool,
    /// It pins programs to a content.
    pub pins: bool,
    /// It lists system calls.
    pub syscalls: bool,
}

impl Wants {
    /// Of an enforcing profile.
    #[must_use]
    pub fn of(profile: &ResolvedProfile) -> Self {
        Wants {
            paths: profile.filesystem.is_some() || profile.exec.is_some(),
            unix: profile.unix.is_some(),
            privileges: profile.privileges.is_some(),
            pins: profile.exec.as_ref().is_some_and(|exec| !exec.pinned.is_empty()),
            syscalls: !profile.syscalls.is_empty(),
        }
    }
}

impl Mechanism {
    pub(super) fn new(entry: &Entry, state: State) -> Self {
        Mechanism {
            name: entry.mechanism,
            state,
            blind: entry.blind,
            serves: match entry.kind {
                Kind::RawTracepoint => Section::Syscalls,
                Kind::Lsm | Kind::FunctionEntry if entry.name.starts_with("file_") => Section::Paths,
                Kind::Lsm if entry.name.starts_with("mount_") => Section::Mounts,
                Kind::Lsm if entry.name.starts_with("unix_") => Section::Unix,
                Kind::Lsm if entry.name.starts_with("privilege_") => Section::Privileges,
                Kind::Lsm if entry.name.starts_with("digest_") => Section::Pins,
                _ => Section::Always,
            },
        }
    }
}

impl Mechanism {
    /// A program that could see something only outside of what can be told apart here. No profile asks for it.
    pub(super) fn out_of_sight(entry: &Entry, why: String) -> Self {
        let state = State::Absent { why };
        Mechanism { serves: Section::Survival, ..Mechanism::new(entry, state) }
    }
}

impl Mechanism {
    /// Pins in a BPF file system.
    pub(super) fn pins(state: State) -> Self {
        Mechanism {
            name: "bpffs/pins",
            state,
            blind: "a daemon that is killed takes every denial with it, until it is started again",
            serves: Section::Survival,
        }
    }
}

impl Mechanism {
    /// The kernel's own digests of files.
    pub(super) fn digests(state: State) -> Self {
        Mechanism {
            name: IMA,
            state,
            blind: "another content of a pinned program that came to be without a trace in its times: the daemon reads them, not the kernel",
            // The daemon stands in for it.
            serves: Section::Survival,
        }
    }
}

/// The mechanism of [`Mechanism::digests`].
pub const IMA: &str = "ima/sha256";

/// Something that a profile asks and this kernel can't enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The missing mechanism.
    pub mechanism: &'static str,
    /// What goes unseen.
    pub blind: &'static str,
    /// Why it is missing.
    pub why: String,
    /// Whether the profile has a section that asks for it, beyond what every profile asks.
    pub asked: bool,
}

/// All mechanisms of this kernel.
#[derive(Clone, Debug, Default)]
pub struct Posture {
    pub mechanisms: Vec<Mechanism>,
}

impl Posture {
    /// Whether a mechanism works.
    pub fn works(&self, name: &str) -> bool {
        self.mechanisms.iter().any(|m| m.name == name && m.state.works())
    }

    /// What `profile` asks and this kernel can't enforce; empty for profiles that only observe.
    pub fn missing_for(&self, profile: &ResolvedProfile) -> Vec<Gap> {
        if profile.mode != Mode::Enforce {
            return Vec::new();
        }
        self.gaps(Wants::of(profile))
    }

    /// Whether rules about paths can be enforced whole.
    pub fn sees_paths(&self) -> bool {
        self.gaps(Wants { paths: true, ..Wants::default() }).iter().all(|gap| !gap.asked)
    }

    /// The mechanism that sees the calls of a hook that this kernel does not have.
    pub fn instead_of(&self, mechanism: &Mechanism) -> Option<&'static str> {
        let other = match mechanism.name {
            // Before 6.2 it is called for descriptors too.
            "lsm/file_truncate" => "lsm/path_truncate",
            // Before 6.2 an ACL is one more extended attribute.
            "lsm/inode_set_acl" => "lsm/inode_setxattr",
            "lsm/inode_remove_acl" => "lsm/inode_removexattr",
            // Before 6.17 flags are set by descriptor only.
            "lsm/inode_file_setattr" => "lsm/file_ioctl",
            _ => return None,
        };
        (matches!(mechanism.state, State::Absent { .. }) && self.works(other)).then_some(other)
    }

    /// What an enforcing profile that wants this can't have here.
    pub fn gaps(&self, wants: Wants) -> Vec<Gap> {
        self.mechanisms
            .iter()
            .filter(|m| !m.state.works() && self.instead_of(m).is_none())
            .filter(|m| match m.serves {
                Section::Always => true,
                Section::Paths => wants.paths,
                Section::Privileges => wants.privileges,
                Section::Mounts => wants.paths || wants.unix || wants.privileges,
                Section::Unix => wants.unix,
                Section::Pins => wants.pins,
                Section::Syscalls => wants.syscalls,
                Section::Survival => false,
            })
            .map(|m| Gap {
                mechanism: m.name,
                blind: m.blind,
                why: match &m.state {
                    State::Refused { why, .. } | State::Absent { why } => why.clone(),
                    State::Active | State::Idle => String::new(),
                },
                asked: m.serves != Section::Always,
            })
            .collect()
    }
}

#[cfg(test)]
impl Posture {
    /// A kernel on which all programs run but those that `lacks` names.
    pub(crate) fn lacking(lacks: impl Fn(&Entry) -> Option<State>) -> Self {
        let mechanisms = super::programs::PROGRAMS
            .iter()
            .map(|entry| Mechanism::new(entry, lacks(entry).unwrap_or(State::Active)));
        Posture { mechanisms: mechanisms.collect() }
    }

    /// A kernel that was built without `CONFIG_SECURITY_PATH`.
    pub(crate) fn without_path_hooks() -> Self {
        Self::lacking(|entry| {
            let why = "this kernel has no such hook".to_owned();
            entry.hook.starts_with("path_").then_some(State::Absent { why })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::programs::PROGRAMS;
    use super::*;

    const EVERYTHING: Wants = Wants { paths: true, unix: true, privileges: true, pins: true, syscalls: true };

    fn absent() -> State {
        State::Absent { why: "this kernel has no such hook".to_owned() }
    }

    fn refused() -> State {
        State::Refused { errno: libc::EACCES, why: "R1 !read_ok".to_owned() }
    }

    /// S10: a probe that another kernel breaks is named, with what goes unseen.
    #[test]
    fn each_program_that_is_missing_is_a_gap_that_names_it() {
        assert_eq!(Posture::lacking(|_| None).gaps(EVERYTHING), []);
        for missing in PROGRAMS {
            for state in [absent(), refused()] {
                let posture = Posture::lacking(|entry| (entry.name == missing.name).then(|| state.clone()));
                let told: Vec<_> =
                    posture.gaps(EVERYTHING).into_iter().map(|gap| (gap.mechanism, gap.blind)).collect();
                let of =
                    posture.mechanisms.iter().find(|mechanism| mechanism.blind == missing.blind).unwrap();
                match posture.instead_of(of) {
                    Some(other) => assert_eq!((&told[..], state), (&[][..], absent()), "{other}"),
                    None => assert_eq!(told, [(missing.mechanism, missing.blind)]),
                }
            }
        }
    }

    #[test]
    fn what_stands_in_for_a_hook_must_itself_be_there() {
        let both = ["lsm/file_truncate", "lsm/path_truncate"];
        let posture = Posture::lacking(|entry| both.contains(&entry.mechanism).then(absent));
        let told: Vec<_> = posture.gaps(EVERYTHING).iter().map(|gap| gap.mechanism).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(both.iter().all(|hook| told.contains(hook)), "{told:?}");
    }

    /// F13: a kernel without `CONFIG_SECURITY_PATH` has no hook of creating, removing and renaming.
    #[test]
    fn a_kernel_without_path_hooks_can_not_enforce_rules_about_paths() {
        let posture = Posture::without_path_hooks();
        let expected = PROGRAMS.iter().filter(|entry| entry.hook.starts_with("path_")).count();
        assert!(expected > 9, "{expected}");
        assert_eq!(posture.gaps(Wants { paths: true, ..Wants::default() }).len(), expected);
        assert_eq!(posture.gaps(Wants { unix: true, privileges: true, ..Wants::default() }), []);
    }
}
