//! The profile file as types: the one definition of what may be written.
//!
//! The JSON schema, the structure check and the reading of values all come from
//! these types, so they can't disagree; the doc comments are the reference that
//! editors show. Values arrive here only after the structure check, so reading
//! them does not fail.

mod network;
mod paths;
mod values;

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

pub use self::network::{
    DeniedWord, ListenProtocolWord, ListenRule, NetworkSection, PeerRule, ProtocolWord, SniWord,
};
pub use self::paths::{
    AccessWord, DeniedFile, DeniedProgram, DeniedSocket, ExecSection, FilesSection, GrantedPath,
    GrantedSocket, PathItem, PinnedProgram, UnixSection,
};
pub use self::values::*;
use super::words::{self, Word};

/// A profile: what one kind of AI agent may do. Order of rules never matters; a
/// `deny` wins over an `allow`; what is not granted is denied.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "agent-monitor profile")]
pub struct ProfileFile {
    /// The version of the profile language: `1`.
    #[schemars(required, extend("examples" = [1]))]
    #[expect(dead_code, reason = "checked by the structure check; there is one version so far")]
    pub version: Option<Version>,
    /// The profile's name, unique among the profiles of a host. It is in every
    /// rule id, event and metric.
    #[schemars(required, extend("examples" = ["coding-agent"]))]
    pub name: Option<Spanned<Name>>,
    /// What the profile is for, in a sentence.
    #[schemars(extend("examples" = ["A coding agent on a developer's machine"]))]
    pub description: Option<String>,
    /// `true`: the profile is only a base for others. It needs no `mode` and
    /// never governs an agent by itself.
    #[serde(rename = "abstract", default)]
    #[schemars(extend("examples" = [true]))]
    pub is_abstract: bool,
    /// Profiles that this one builds on, by file name without `.yaml`: looked up
    /// beside this file, then in the profile directories. Their rules and claims
    /// are added to this profile's. Of single values (`mode`,
    /// `network.denied`) the nearest file's counts.
    #[serde(default)]
    #[schemars(extend("examples" = [["base"]]))]
    pub extends: OneOrMany<Spanned<BaseName>>,
    /// How far verdicts go. Every profile says it, itself or through a base.
    #[schemars(extend("examples" = ["audit"]))]
    pub mode: Option<Spanned<ModeWord>>,
    /// Which processes this profile governs without being told: a process that
    /// any item matches, and all its descendants.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"exe": "/usr/bin/codex"}, {"cgroup": "/system.slice/agent-*.service"}]]))]
    pub agents: Vec<Spanned<AgentClaim>>,
    /// Directories that `${workspace}` stands for in paths under `files` and `exec`:
    /// where the agent's work lies, for every agent of the profile. A profile's own list
    /// takes the place of its bases', in their rules too; without one, theirs add up.
    /// (`${tmp}` is `/tmp` and `/var/tmp`.)
    #[serde(default)]
    #[schemars(extend("examples" = [["~/src/*"], "/srv/work"]))]
    pub workspace: OneOrMany<Spanned<WorkspaceGlob>>,
    /// Names for sets of executables, for `exe` and `except` at rules. A program is in a
    /// set by the path that the kernel resolved when it was executed, and is what it was
    /// then: a script is its interpreter. Sets of the same name in bases add up.
    #[serde(default)]
    #[schemars(schema_with = "program_sets")]
    #[schemars(extend("examples" = [{"git": ["/usr/bin/git", "/usr/lib/git-core/**"]}]))]
    pub programs: BTreeMap<String, OneOrMany<Spanned<ExeGlob>>>,
    /// Which network paths exist.
    #[schemars(extend("examples" = [{"allow": [{"cidr": "10.20.0.0/16", "ports": [443]}]}]))]
    pub network: Option<NetworkSection>,
    /// Which files exist for the agent. Without this section files are not
    /// judged; with it, what is not listed is denied.
    #[schemars(extend("examples" = [{"read": ["/usr/**", "~/src/**"], "write": ["~/src/**"], "deny": ["~/.ssh/**"]}]))]
    pub files: Option<FilesSection>,
    /// Which programs the agent may run. Without this section programs are not
    /// judged; with it, what is not listed is denied.
    #[schemars(extend("examples" = [{"allow": ["/usr/**"], "deny": ["/usr/bin/nc*"]}]))]
    pub exec: Option<ExecSection>,
    /// Which Unix sockets the agent may talk to. Without this section none is
    /// judged; with it, what is not listed is denied.
    #[schemars(extend("examples" = [{"allow": ["/run/systemd/journal/*"], "deny": ["@**"]}]))]
    pub unix: Option<UnixSection>,
    /// What the agent may ask of the host beyond what any process may. Without this
    /// section nothing of it is judged; with it, what is not granted is denied.
    #[schemars(extend("examples" = [{"ptrace": "own"}, {"capabilities": ["net_bind_service"], "user_namespaces": true}]))]
    pub privileges: Option<PrivilegesSection>,
    /// Lets agents of this profile know what they were denied: each asks for its own at
    /// a socket (`AGENT_MONITOR_NOTICES`, `agent-monitor notices`). Without this section
    /// they are told nothing. Of several files the nearest counts.
    #[schemars(extend("examples" = [{"request": "ask in #agents, with the rule's name"}]))]
    pub notices: Option<NoticesSection>,
    /// System calls to watch.
    #[schemars(extend("examples" = [{"watch": ["ptrace", "bpf"], "kill": ["kexec_load"]}]))]
    pub syscalls: Option<SyscallSection>,
}

/// What an agent is told of its denials: what it asked for, the rule, the reason.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticesSection {
    /// How to ask for what was denied, in words for the agent; its first 500
    /// characters count.
    #[schemars(extend("examples" = ["ask in #agents, with the rule's name"]))]
    pub request: Option<String>,
}

/// How far a profile's verdicts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModeWord {
    /// Nothing is denied; what the agent does is recorded, to write a profile from.
    Learn,
    /// Nothing is denied; what would have been is reported.
    Audit,
    /// What is not granted is denied.
    Enforce,
}

/// What makes a process an agent of this profile: exactly one key per item.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct AgentClaim {
    /// Executables by absolute path, as the kernel resolves them. `*` and `?`
    /// stay within one path step, `**` crosses steps, `~` is every user's home.
    #[serde(default)]
    #[schemars(extend("examples" = [["/usr/bin/codex", "~/.local/share/claude/versions/*"]]))]
    pub exe: OneOrMany<Spanned<ExeGlob>>,
    /// Control groups by path as in `/proc/<pid>/cgroup`; descendants belong to
    /// them.
    #[serde(default)]
    #[schemars(extend("examples" = ["/system.slice/agent-*.service"]))]
    pub cgroup: OneOrMany<Spanned<CgroupGlob>>,
}

/// `programs`: the author's names, each with globs.
fn program_sets(generator: &mut SchemaGenerator) -> Schema {
    let globs = generator.subschema_for::<OneOrMany<Spanned<ExeGlob>>>();
    let name = json_schema!({
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9._-]*$",
        "maxLength": words::MAX_NAME_CHARS,
        "format": Word::ProgramName.format(),
    });
    json_schema!({ "type": "object", "propertyNames": name, "additionalProperties": globs })
}

/// The privileges of an agent. Of each key the nearest file's value counts;
/// capabilities add up.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrivilegesSection {
    /// Capabilities that the agent may use where it has them (capabilities(7), in
    /// lower case and without `CAP_`), or `any`. An agent that runs as root has
    /// all of them: for plain work in other users' files grant `dac_override`,
    /// `fowner` and `chown`. `dac_override` includes `dac_read_search`.
    #[serde(default)]
    #[schemars(extend("examples" = [["net_bind_service"], "any"]))]
    pub capabilities: OneOrMany<Spanned<Capability>>,
    /// Another user, another group or more capabilities: by programs such as
    /// `sudo` (set-user-id and set-group-id bits, file capabilities), and by
    /// `setuid` and its like. Includes the capabilities `setuid` and `setgid`.
    #[schemars(extend("examples" = [true]))]
    pub setuid: Option<Spanned<bool>>,
    /// New user namespaces, as sandboxes and rootless containers make them, with
    /// every capability inside them.
    #[schemars(extend("examples" = [true]))]
    pub user_namespaces: Option<Spanned<bool>>,
    /// Which processes the agent may trace or read by `ptrace`,
    /// `process_vm_readv`, `/proc/PID/mem` or `/proc/PID/environ`; `own` if left
    /// out. A process may always read itself.
    #[schemars(extend("examples" = ["own"]))]
    pub ptrace: Option<Spanned<PtraceWord>>,
    /// Which processes the agent may send signals to; `own` if left out. Signal 0,
    /// which asks whether a process is there, is always allowed.
    #[schemars(extend("examples" = ["own"]))]
    pub signals: Option<Spanned<SignalsWord>>,
    /// Mounting, unmounting and changing roots. It has no effect beside `files`
    /// and `exec`: rules about paths hold only while mounts are denied.
    #[schemars(extend("examples" = [true]))]
    pub mounts: Option<Spanned<bool>>,
    /// Loading kernel modules, also by using what would load one, and kernels to
    /// boot.
    #[schemars(extend("examples" = [true]))]
    pub modules: Option<Spanned<bool>>,
    /// The system call `bpf`.
    #[schemars(extend("examples" = [true]))]
    pub bpf: Option<Spanned<bool>>,
    /// The system call `perf_event_open`.
    #[schemars(extend("examples" = [true]))]
    pub perf: Option<Spanned<bool>>,
    /// io_uring beyond plain operations: polling kernel threads, other users'
    /// registered credentials, commands to drivers. Plain operations are judged
    /// as files and network whether this is granted or not.
    #[schemars(extend("examples" = [true]))]
    pub io_uring: Option<Spanned<bool>>,
}

/// Which processes may be traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PtraceWord {
    /// No other process.
    None,
    /// Processes of the same agent.
    Own,
    /// Every process that the kernel's own rules let it trace.
    Any,
}

/// Which processes may be sent signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignalsWord {
    /// Processes of the same agent.
    Own,
    /// Every process that the kernel's own rules let it signal.
    Any,
}

/// System calls that are watched. While an agent of the profile lives, every
/// system call of the host costs a little more, so nothing is watched unless
/// listed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyscallSection {
    /// Calls that are counted and reported.
    #[serde(default)]
    #[schemars(extend("examples" = [["bpf", "ptrace"]]))]
    pub watch: Vec<Spanned<Syscall>>,
    /// Calls whose caller is killed, in mode `enforce`; reported like `watch`.
    /// A call in both lists kills.
    #[serde(default)]
    #[schemars(extend("examples" = [["kexec_load", "init_module"]]))]
    pub kill: Vec<Spanned<Syscall>>,
}
