//! The profile file as types: the one definition of what may be written.
//!
//! The JSON schema, the structure check and the reading of values all come from
//! these types, so they can't disagree; the doc comments are the reference that
//! editors show. Values arrive here only after the structure check, so reading
//! them does not fail.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::globs;
use super::hosts_from::Manager;
use super::lease::{self, Lease};
use super::names::{self, HostPattern};
use super::pins;
use super::programs::ProgramRef;
use super::reader::SPANNED;
use super::sockets::SocketKind;
use super::source::Span;
use super::words::{self, Problem, Word};

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

/// The network of an agent. Only what is listed exists; TCP, UDP and Unix
/// sockets can be made, other kinds only if `sockets` grants them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSection {
    /// What a denied call returns to the agent; `unreachable` if left out.
    #[schemars(extend("examples" = ["refused"]))]
    pub denied: Option<Spanned<DeniedWord>>,
    /// Peers that the agent may send to or connect to.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"cidr": "10.20.0.0/16", "ports": [5432, "8000-8100"]}]]))]
    pub allow: Vec<Spanned<PeerRule>>,
    /// Package managers of the host whose registries the agent may reach, each by the
    /// manager's own programs alone (the set of its name under `programs`). When the
    /// profile is loaded, the registries are read from the managers' configuration,
    /// mirrors included, as far as agents of the profile can't write it; where none is
    /// configured, the manager's own counts.
    #[serde(default)]
    #[schemars(extend("examples" = [["npm", "pip"]]))]
    pub hosts_from: OneOrMany<Spanned<Manager>>,
    /// Peers that never exist for the agent, whatever is allowed.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"cidr": "169.254.0.0/16", "protocol": "any"}]]))]
    pub deny: Vec<Spanned<PeerRule>>,
    /// Local addresses that the agent may bind and listen on.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"ports": ["3000-3999"]}]]))]
    pub listen: Vec<Spanned<ListenRule>>,
    /// Kinds of socket that exist for the agent beyond TCP, UDP and Unix sockets.
    #[serde(default)]
    #[schemars(extend("examples" = [["netlink"]]))]
    pub sockets: Vec<SocketKind>,
}

/// What a denied network call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeniedWord {
    /// `ENETUNREACH`: the path does not exist.
    Unreachable,
    /// `ECONNREFUSED`: nobody listens there.
    Refused,
    /// `EACCES`: a filter said no.
    Denied,
    /// `EPERM`: a privilege is missing.
    NotPermitted,
}

/// A rule about network peers: any of the addresses, networks and names, on any
/// of the ports, by any of the protocols.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["cidr"]}, {"required": ["address"]}, {"required": ["host"]}]))]
pub struct PeerRule {
    /// One network or a list of them. `0.0.0.0/0` is every IPv4 address, `::/0`
    /// every IPv6 address.
    #[serde(default)]
    #[schemars(extend("examples" = ["10.0.0.0/8", ["10.0.0.0/8", "2001:db8::/32"]]))]
    pub cidr: OneOrMany<Cidr>,
    /// One address or a list of them.
    #[serde(default)]
    #[schemars(extend("examples" = ["10.1.2.3", ["10.1.2.3", "2001:db8::1"]]))]
    pub address: OneOrMany<Spanned<Address>>,
    /// Under `allow` only: one name or a list of them. The agent can look such a name
    /// up, and reach the addresses that answer to it while the answer holds; every
    /// other name does not exist for it. `*.example.com` is every name below
    /// `example.com`, of one label or more, and not `example.com` itself.
    #[serde(default)]
    #[schemars(extend("examples" = ["api.example.com", ["example.com", "*.example.com"]]))]
    pub host: OneOrMany<Spanned<Host>>,
    /// With `host` and `tcp` only. `require`: what a connection sends first must be the
    /// hello of a TLS client, whole in one packet and one record, that says a name
    /// (server name indication) which rules grant at this port and which the agent has looked
    /// up; else it is dropped. So what lives at the same address under another name
    /// is not reached. Without it nobody looks. A rule without it that grants the same
    /// wins.
    #[schemars(extend("examples" = ["require"]))]
    pub sni: Option<Spanned<SniWord>>,
    /// Ports and ranges of ports; every port if left out.
    #[schemars(extend("examples" = [[443, "8000-8100"]]))]
    pub ports: Option<Spanned<OneOrMany<Ports>>>,
    /// The transport protocols; `tcp` alone if left out.
    #[serde(default)]
    #[schemars(extend("examples" = [["tcp", "udp"]]))]
    pub protocol: OneOrMany<ProtocolWord>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// Under `deny` only: programs for which the rule does not hold, by names of
    /// `programs` or by globs.
    #[serde(default)]
    #[schemars(extend("examples" = ["model-client"]))]
    pub except: OneOrMany<Spanned<Program>>,
    /// Under `allow` only: how long the grant holds after the last change of this file (`2h`, `90m`, `7d`), or until when
    /// (`2030-01-31T18:00:00Z`). It ends by itself, in the kernel; for good if left out.
    #[schemars(extend("examples" = ["2h", "2030-01-31T18:00:00Z"]))]
    pub expires: Option<Spanned<LeaseWord>>,
    /// Under `deny` only. `true`: tries the denial out. What it matches goes on where it is granted by address, and
    /// is told as what would be denied (`would-deny`). Of what a name grants it says nothing.
    #[schemars(extend("examples" = [true]))]
    pub audit: Option<Spanned<bool>>,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// What is asked of the name that a TLS client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SniWord {
    /// It is there, and granted.
    Require,
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolWord {
    Tcp,
    Udp,
    /// ICMP and ICMPv6, which have no ports. The agent also needs a socket kind
    /// that can send it: `ping` or `raw`.
    Icmp,
    /// Every protocol, also those that no other word names. With `ports` it
    /// means protocols that have ports.
    Any,
}

/// A rule about the local addresses that an agent may listen on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenRule {
    /// One local address or a list of them; loopback (127.0.0.0/8 and ::1) if
    /// left out. `0.0.0.0` is any IPv4 address, `::` any address of both
    /// families.
    #[serde(default)]
    #[schemars(extend("examples" = ["127.0.0.1", ["0.0.0.0"]]))]
    pub address: OneOrMany<Address>,
    /// Ports and ranges of ports; every port if left out, also one of the
    /// kernel's choice.
    #[schemars(extend("examples" = [[443, "8000-8100"]]))]
    pub ports: Option<OneOrMany<Ports>>,
    /// The transport protocols; `tcp` alone if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["udp"]))]
    pub protocol: OneOrMany<ListenProtocolWord>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// How long the grant holds after the last change of this file (`2h`, `90m`, `7d`), or until when
    /// (`2030-01-31T18:00:00Z`). It ends by itself, in the kernel; for good if left out.
    #[schemars(extend("examples" = ["2h", "2030-01-31T18:00:00Z"]))]
    pub expires: Option<Spanned<LeaseWord>>,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// Transport protocols that can be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenProtocolWord {
    Tcp,
    Udp,
    /// Every protocol, also those that no other word names.
    Any,
}

/// The files of an agent, by the path that the kernel resolves: links and other
/// mounts of an object lead to the same verdict. A directory may be listed where
/// its own path or something in it (`/usr/**`) may be read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesSection {
    /// Files that may be opened for reading.
    #[serde(default)]
    #[schemars(extend("examples" = [["/usr/**", "/etc/ssl/**"], [{"path": "~/.npmrc", "exe": "npm"}]]))]
    pub read: Vec<Spanned<PathItem<GrantedPath>>>,
    /// Files that may be opened for writing, created, removed, renamed, linked,
    /// truncated or given another mode or owner. It does not include reading.
    #[serde(default)]
    #[schemars(extend("examples" = [["~/src/**", "/tmp/**"]]))]
    pub write: Vec<Spanned<PathItem<GrantedPath>>>,
    /// Files that never exist for the agent, whatever is granted: not read, not
    /// written, not executed; and no directory above them is moved.
    #[serde(default)]
    #[schemars(extend("examples" = [["~/.ssh/**", "**/.env*"], [{"path": "~/.npmrc", "except": "npm"}]]))]
    pub deny: Vec<Spanned<PathItem<DeniedFile>>>,
}

/// The programs of an agent: executables, their interpreters, and every file
/// that is mapped as code (shared libraries).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecSection {
    /// What may be executed.
    #[serde(default)]
    #[schemars(extend("examples" = [["/usr/**", "~/src/**"]]))]
    pub allow: Vec<Spanned<PathItem<GrantedPath>>>,
    /// What is never executed, whatever is allowed.
    #[serde(default)]
    #[schemars(extend("examples" = [["/usr/bin/nc*"]]))]
    pub deny: Vec<Spanned<PathItem<DeniedProgram>>>,
    /// Programs that may be executed with one content only, whatever is
    /// allowed; nor may the agent change them. The kernel hashes the file that
    /// is about to run where its IMA does so with SHA-256; else the daemon does
    /// whenever the file changes.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"path": "/usr/bin/git", "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]]))]
    pub pinned: Vec<Spanned<PinnedProgram>>,
}

/// A rule about paths that grants.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantedPath {
    /// The paths that the rule is about, as a glob.
    #[schemars(required, extend("examples" = ["~/.npmrc"]))]
    pub path: Option<Spanned<PathGlob>>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// How long the grant holds after the last change of this file (`2h`, `90m`, `7d`), or until when
    /// (`2030-01-31T18:00:00Z`). It ends by itself, in the kernel; for good if left out.
    #[schemars(extend("examples" = ["2h", "2030-01-31T18:00:00Z"]))]
    pub expires: Option<Spanned<LeaseWord>>,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// A rule about files that denies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeniedFile {
    /// The paths that the rule is about, as a glob.
    #[schemars(required, extend("examples" = ["~/.npmrc"]))]
    pub path: Option<Spanned<PathGlob>>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// Programs for which the rule does not hold, by names of `programs` or by globs.
    #[serde(default)]
    #[schemars(extend("examples" = ["npm"]))]
    pub except: OneOrMany<Spanned<Program>>,
    /// What is denied; reading, writing and executing if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["write", ["write", "execute"]]))]
    pub access: OneOrMany<AccessWord>,
    /// `true`: tries the denial out. What it matches goes on where it is granted, and is told as what would be
    /// denied (`would-deny`).
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub audit: bool,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// A rule about programs that denies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeniedProgram {
    /// The paths that the rule is about, as a glob.
    #[schemars(required, extend("examples" = ["/usr/bin/nc*"]))]
    pub path: Option<Spanned<PathGlob>>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// Programs for which the rule does not hold, by names of `programs` or by globs.
    #[serde(default)]
    #[schemars(extend("examples" = ["npm"]))]
    pub except: OneOrMany<Spanned<Program>>,
    /// `true`: tries the denial out. What it matches goes on where it is granted, and is told as what would be
    /// denied (`would-deny`).
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub audit: bool,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// A rule about Unix sockets that grants.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantedSocket {
    /// The sockets that the rule is about, as a glob: paths, or abstract names behind
    /// an `@`.
    #[schemars(required, extend("examples" = ["/run/systemd/journal/*", "@/tmp/.X11-unix/*"]))]
    pub path: Option<Spanned<UnixGlob>>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// How long the grant holds after the last change of this file (`2h`, `90m`, `7d`), or until when
    /// (`2030-01-31T18:00:00Z`). It ends by itself, in the kernel; for good if left out.
    #[schemars(extend("examples" = ["2h", "2030-01-31T18:00:00Z"]))]
    pub expires: Option<Spanned<LeaseWord>>,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["git asks the key agent"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// A rule about Unix sockets that denies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeniedSocket {
    /// The sockets that the rule is about, as a glob: paths, or abstract names behind
    /// an `@`.
    #[schemars(required, extend("examples" = ["**/docker.sock", "@**"]))]
    pub path: Option<Spanned<UnixGlob>>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// Programs for which the rule does not hold, by names of `programs` or by globs.
    #[serde(default)]
    #[schemars(extend("examples" = ["docker"]))]
    pub except: OneOrMany<Spanned<Program>>,
    /// `true`: tries the denial out. What it matches goes on where it is granted, and is told as what would be
    /// denied (`would-deny`).
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub audit: bool,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["who talks to the engine is root"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// What can be done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessWord {
    /// Opened for reading, or listed.
    Read,
    /// Opened for writing, created, removed, renamed, linked, truncated or given another mode or owner.
    Write,
    /// Run, or mapped as code.
    Execute,
}

/// A glob, or a rule that says more about it.
#[derive(Debug)]
pub enum PathItem<M, G = PathGlob> {
    Glob(G),
    Rule(M),
}

impl<'de, M: Deserialize<'de>, G: Deserialize<'de>> Deserialize<'de> for PathItem<M, G> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<M, G>(PhantomData<(M, G)>);

        impl<'de, M: Deserialize<'de>, G: Deserialize<'de>> Visitor<'de> for Either<M, G> {
            type Value = PathItem<M, G>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a glob or a rule")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                G::deserialize(text.into_deserializer()).map(PathItem::Glob)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                M::deserialize(MapAccessDeserializer::new(map)).map(PathItem::Rule)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<M: JsonSchema, G: JsonSchema> JsonSchema for PathItem<M, G> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("PathItem_{}", M::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (glob, rule) = (generator.subschema_for::<G>(), generator.subschema_for::<M>());
        json_schema!({ "anyOf": [glob, rule] })
    }
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

/// The Unix sockets of an agent, by the path at which a socket is bound, wherever
/// the agent looks it up, or by its abstract name. Sockets that the agent's own
/// processes made, and pairs of sockets without a name, need no grant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnixSection {
    /// Sockets that may be connected or sent to: paths, and abstract names behind
    /// an `@`.
    #[serde(default)]
    #[schemars(extend("examples" = [["/run/systemd/journal/*", "@/tmp/.X11-unix/*"], [{"path": "${tmp}/ssh-*/agent.*", "exe": "git"}]]))]
    pub allow: Vec<Spanned<PathItem<GrantedSocket, UnixGlob>>>,
    /// Sockets that never exist for the agent, whatever is allowed. What
    /// `files.deny` denies is denied here too.
    #[serde(default)]
    #[schemars(extend("examples" = [["**/docker.sock", "/run/dbus/**"], [{"path": "**/docker.sock", "except": "docker"}]]))]
    pub deny: Vec<Spanned<PathItem<DeniedSocket, UnixGlob>>>,
}

/// A program and the content that it must have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PinnedProgram {
    /// The program's whole path, as the kernel resolves it.
    #[schemars(required, extend("examples" = ["/usr/bin/git"]))]
    pub path: Option<Spanned<LiteralPath>>,
    /// The SHA-256 of its content, as `sha256sum` prints it.
    #[schemars(required, extend("examples" = ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]))]
    pub sha256: Option<Spanned<Sha256>>,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["git 2.39.5 of Debian 12"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
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

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Parts<T> {
            type Value = Spanned<T>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a value with its place")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
                let missing = || serde::de::Error::custom("only a profile tree knows places");
                let start = parts.next_element()?.ok_or_else(missing)?;
                let end = parts.next_element()?.ok_or_else(missing)?;
                let value = parts.next_element()?.ok_or_else(missing)?;
                Ok(Spanned { value, span: Span { start, end } })
            }
        }

        deserializer.deserialize_newtype_struct(SPANNED, Parts(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A list that may be written without brackets if it has one item. The reader
/// hands a single value over as a list of one.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [item, { "type": "array", "items": item, "minItems": 1 }] })
    }
}

/// Values of [`super::words`]: read by its functions; in the schema, what an
/// editor can check by itself plus the `format` that has our own check do the
/// rest.
macro_rules! word_types {
    ($($(#[$doc:meta])* $name:ident($value:ty) = $word:expr, $read:expr => $schema:tt)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug)]
            pub struct $name(pub $value);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    deserializer.deserialize_any(WordVisitor($read)).map($name)
                }
            }

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn inline_schema() -> bool {
                    true
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    let mut schema = json_schema!($schema);
                    schema.insert("format".to_owned(), $word.format().into());
                    schema
                }
            }
        )+
    };
}

/// Reads a word from text; a number is read as if it had been text.
struct WordVisitor<T>(fn(&str) -> Result<T, Problem>);

impl<T> Visitor<'_> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("text or a number")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(|problem| E::custom(problem.message))
    }
}

word_types! {
    Version(()) = Word::Version, words::version_text => { "type": "integer", "const": words::VERSION as i64 }
    Name(String) = Word::ProfileName, words::profile_name => {
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9._-]*$",
        "maxLength": words::MAX_NAME_CHARS,
    }
    BaseName(String) = Word::BaseName, words::base_name => {
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9._-]*$",
        "maxLength": words::MAX_NAME_CHARS,
    }
    Cidr(IpNet) = Word::Cidr, words::cidr => {
        "type": "string",
        "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$",
        "examples": ["10.0.0.0/8", "2001:db8::/32"],
    }
    Address(IpAddr) = Word::Address, words::address => {
        "type": "string",
        "pattern": "^[0-9a-fA-F:.]+$",
        "examples": ["10.1.2.3", "2001:db8::1"],
    }
    Host(HostPattern) = Word::Host, names::host => {
        "type": "string",
        "maxLength": 255,
        "examples": ["api.example.com", "*.example.com"],
    }
    Ports(RangeInclusive<u16>) = Word::Ports, words::port_range => {
        "type": ["integer", "string"],
        "minimum": 1,
        "maximum": 65535,
        "pattern": "^[1-9][0-9]{0,4}( *- *[1-9][0-9]{0,4})?$",
        "examples": [443, "8000-8100"],
    }
    ExeGlob(String) = Word::ExeGlob, globs::exe_glob => {
        "type": "string",
        "pattern": "^(~?/|\\*\\*/)",
        "examples": ["/usr/bin/codex", "~/.local/share/claude/versions/*"],
    }
    WorkspaceGlob(String) = Word::ExeGlob, globs::exe_glob => {
        "type": "string",
        "pattern": "^(~?/|\\*\\*/|\\{)",
        "examples": ["~/src/*"],
    }
    PathGlob(String) = Word::PathGlob, globs::path_glob => {
        "type": "string",
        "pattern": "^(~?/|\\*\\*/|\\{|\\$\\{)",
        "examples": ["/usr/**", "~/.ssh/**"],
    }
    CgroupGlob(String) = Word::CgroupGlob, globs::cgroup_glob => {
        "type": "string",
        "pattern": "^/",
        "examples": ["/system.slice/agent-*.service"],
    }
    UnixGlob(String) = Word::UnixGlob, globs::unix_glob => {
        "type": "string",
        "pattern": "^(@|~?/|\\*\\*/|\\{|\\$\\{)",
        "examples": ["/run/systemd/journal/*", "@/tmp/.X11-unix/*"],
    }
    /// The mask of what it grants.
    Capability(u64) = Word::Capability, words::capability => {
        "type": "string",
        "pattern": "^[a-z_]+$",
        "examples": ["net_bind_service", "any"],
    }
    Program(ProgramRef) = Word::Program, words::program => {
        "type": "string",
        "pattern": "^(~?/|\\*\\*/|\\{|\\$\\{|[a-z0-9][a-z0-9._-]*$)",
        "examples": ["git", "/usr/bin/git"],
    }
    LiteralPath(String) = Word::LiteralPath, pins::literal_path => {
        "type": "string",
        "pattern": "^/",
        "examples": ["/usr/bin/git"],
    }
    Sha256([u8; 32]) = Word::Sha256, pins::sha256 => {
        "type": "string",
        "pattern": "^[0-9a-fA-F]{64}$",
        "examples": ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    }
    LeaseWord(Lease) = Word::Lease, lease::lease => {
        "type": "string",
        "examples": ["2h", "2030-01-31T18:00:00Z"],
    }
    /// The call's number.
    Syscall(u32) = Word::Syscall, words::syscall => {
        "type": "string",
        "pattern": "^[a-z0-9_]+$",
        "examples": ["ptrace", "kexec_load"],
    }
}
