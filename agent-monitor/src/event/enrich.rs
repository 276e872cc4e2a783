//! From a decoded record to a public event: agent, process, time, rule.
//!
//! Called by `daemon::pipeline` in two steps a record: [`Enricher::note`] learns from it (new processes, a new agent,
//! an ended one), [`Enricher::event`] describes it. One thread owns it; nothing here blocks except the first question
//! about a process that no record told of, which `/proc` answers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use agent_monitor_common::counters::Effect;
use agent_monitor_common::event::{FileBody, NetBody, PrivilegeBody, Reason};
use agent_monitor_common::image::PLAIN_CLASS;
use agent_monitor_common::label::LabelOrigin;
use agent_monitor_common::path::{Right, Rights};
use agent_monitor_common::privilege;
use agent_monitor_common::request::{Address, Direction, Protocol, socket_kind};
use jiff::Timestamp;
use ulid::{Generator, Ulid};

use super::attribution::{Attributor, DecidedBy, Question, address_of};
use super::clock::Clock;
use super::decode::{Body, Record, Said};
use super::escape;
use super::generations::Generations;
use super::model::{
    Agent, Event, EventType, Exec, Exit, File, Fork, Id, Network, Privilege, Socket, Syscall, Verdict,
    VerdictEffect,
};
use super::process::Processes;
use super::words::{errno_name, mechanism, signal_name};
use crate::agent::registry::{AgentInfo, Registry};
use crate::policy::protected::MONITOR;
use crate::policy::{capabilities, syscalls};
use crate::resolver::Names;

/// Agents remembered here so that most events ask the shared registry nothing.
const MAX_KNOWN: usize = 4_096;

/// What a record changed among the agents.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// A process became an agent by its exec.
    Started(Arc<AgentInfo>),
    /// An agent's last process went.
    Ended(Arc<AgentInfo>),
}

/// See the module.
#[derive(Debug)]
pub struct Enricher {
    clock: Clock,
    ids: Generator,
    pub processes: Processes,
    registry: Arc<Registry>,
    attributor: Attributor,
    /// What addresses were asked for by, where names are resolved.
    pub names: Option<Arc<Names>>,
    known: HashMap<u32, Arc<AgentInfo>>,
    /// The rule behind the event in hand, which borrows from it.
    decided_by: Option<Arc<DecidedBy>>,
}

impl Enricher {
    #[must_use]
    pub fn new(processes: Processes, registry: Arc<Registry>, generations: Arc<Generations>) -> Self {
        Enricher {
            clock: Clock::measure(),
            ids: Generator::new(),
            processes,
            registry,
            attributor: Attributor::new(generations),
            names: None,
            known: HashMap::new(),
            decided_by: None,
        }
    }

    /// Call once before each batch of records.
    pub fn begin_batch(&mut self) {
        self.clock = Clock::measure();
        self.attributor.refresh();
    }

    /// Learns from a record. A change is to be told before the record's own event where an agent started, after it
    /// where one ended.
    pub fn note(&mut self, record: &Record<'_>) -> Option<Change> {
        let header = &record.header;
        match record.body {
            Body::Exec { body, path, argv } => self.processes.exec(header.tgid, &body, path, argv),
            Body::Fork(body) => self.processes.fork(header.tgid, body.child),
            _ => self.processes.learn(header.tgid),
        }
        self.processes.learn_cgroup(header.tgid, header.cgroup);
        let started = self.note_agent(record);
        if let Body::Exit(body) = record.body {
            self.processes.exit(header.tgid);
            if body.last != 0 {
                return self.registry.end(header.agent).map(Change::Ended);
            }
        }
        started.map(Change::Started)
    }

    /// The agent of this record is known afterwards; it is returned if it is new.
    fn note_agent(&mut self, record: &Record<'_>) -> Option<Arc<AgentInfo>> {
        let header = record.header;
        if header.agent == 0 || self.known.contains_key(&header.agent) {
            return None;
        }
        let slot = u32::from(header.profile);
        let (registry, attributor, clock) = (&self.registry, &mut self.attributor, self.clock);
        // Agents that the daemon labels are in the registry before their first record: this one the kernel made.
        let (info, new) = registry.find_or_add(header.agent, || {
            let started = clock.wall(header.time_ns);
            AgentInfo {
                key: header.agent,
                id: self
                    .ids
                    .generate_from_datetime(SystemTime::from(started))
                    .unwrap_or_else(|full| full.commit_overflow_increment()),
                profile: attributor
                    .profile(slot, header.generation)
                    .map_or_else(|| "?".into(), |p| p.name.as_str().into()),
                slot,
                root: header.tgid,
                origin: LabelOrigin::Exec,
                started,
                cgroup: None,
                confined: false,
            }
        });
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(header.agent, Arc::clone(&info));
        new.then_some(info)
    }

    /// The event of a record that was noted.
    pub fn event(&mut self, record: &Record<'_>) -> Event<'_> {
        let header = &record.header;
        let time = self.clock.wall(header.time_ns);
        let (kind, reason) = self.judge(record);
        let id = self.next_id(time);
        let slot = u32::from(header.profile);
        // The last mutable use is over: from here the event borrows.
        let this: &Self = self;
        let mut event = Event::new(id, time, kind);
        event.agent = this.agent(header.agent, slot, header.generation);
        event.program =
            Cow::Borrowed(this.attributor.known_program(slot, header.generation, u32::from(header.class)));
        event.process =
            (header.tgid != 0).then(|| this.processes.describe(header.tgid, header.tid, header.cgroup));
        match record.body {
            Body::Network { body, direction, protocol, said, .. } => {
                let host = |address| {
                    let names = this.names.as_ref()?;
                    Some(names.host_of(u32::from(header.profile), address)?.to_string())
                };
                event.network = Some(network(&body, direction, protocol, said, host));
            }
            Body::Socket { body, .. } => {
                event.socket = Some(Socket {
                    kind: socket_kind(body.family, body.kind, body.protocol)
                        .map_or("inet", |kind| kind.name())
                        .into(),
                    family: body.family,
                    r#type: body.kind,
                    protocol: body.protocol,
                    repeats: repeats(body.repeats),
                });
            }
            Body::Syscall(body) => {
                event.syscall = Some(Syscall {
                    nr: body.nr,
                    name: (body.compat == 0).then(|| syscalls::name(body.nr)).flatten().map(Cow::Borrowed),
                    compat: body.compat != 0,
                    killed: body.killed != 0,
                });
            }
            Body::File { body, path, .. } => event.file = Some(file(&body, path)),
            Body::Privilege { body, privilege, .. } => event.privilege = Some(privileged(&body, privilege)),
            Body::Exec { body, .. } => {
                event.exec = Some(Exec { claimed: body.claimed != 0, inode: body.inode });
            }
            Body::Fork(body) => {
                event.fork = Some(Fork { child: body.child, label_lost: body.label_lost != 0 })
            }
            Body::Exit(body) => event.exit = Some(exit(body.code, body.last != 0)),
        }
        let by_monitor = |reason| match &this.decided_by {
            // The kernel knows a rule; whose it is shows here.
            Some(by) if by.rule == MONITOR => Reason::Protected.name(),
            _ => reason,
        };
        event.verdict = reason.map(by_monitor).map(|reason| Verdict {
            effect: VerdictEffect::of(record.effect, record.mode),
            mode: record.mode.name().into(),
            errno: errno_name(header.errno),
            rule: this.decided_by.as_ref().map(|by| Cow::Borrowed(&*by.rule)),
            source: this.decided_by.as_ref().map(|by| Cow::Borrowed(&*by.source)),
            reason: reason.into(),
            mechanism: mechanism(record.hook).into(),
            generation: header.generation,
        });
        event
    }

    /// Whether an agent has a living process, as far as its records tell.
    #[must_use]
    pub fn lives(&self, agent: u32) -> bool {
        self.registry.lives(agent)
    }

    /// `agent.started` or `agent.ended`, at the time of the record that told, or now.
    pub fn agent_event<'a>(&mut self, kind: EventType, info: &'a AgentInfo, time: Timestamp) -> Event<'a> {
        let mut event = Event::new(self.next_id(time), time, kind);
        event.agent = Some(Agent {
            id: Some(Id(info.id)),
            profile: Cow::Borrowed(&info.profile),
            origin: (kind == EventType::AgentStarted).then_some(Cow::Borrowed(info.origin.name())),
        });
        event
    }

    /// The wall-clock time of a record.
    #[must_use]
    pub fn time(&self, record: &Record<'_>) -> Timestamp {
        self.clock.wall(record.header.time_ns)
    }

    /// An id for the next event; never smaller than an earlier one.
    pub fn next_id(&mut self, time: Timestamp) -> Ulid {
        self.ids
            .generate_from_datetime(SystemTime::from(time))
            .unwrap_or_else(|full| full.commit_overflow_increment())
    }

    fn agent(&self, key: u32, slot: u32, generation: u32) -> Option<Agent<'_>> {
        match self.known.get(&key) {
            Some(info) => {
                Some(Agent { id: Some(Id(info.id)), profile: Cow::Borrowed(&info.profile), origin: None })
            }
            None => self.attributor.known_profile(slot, generation).map(|profile| Agent {
                id: None,
                profile: Cow::Borrowed(&profile.name),
                origin: None,
            }),
        }
    }

    /// Type and reason; a reason where there is a verdict, and then its rule is in `decided_by`.
    fn judge(&mut self, record: &Record<'_>) -> (EventType, Option<&'static str>) {
        let (slot, generation) = (u32::from(record.header.profile), record.header.generation);
        let class = u32::from(record.header.class);
        if class > PLAIN_CLASS {
            // So that its name is known, whatever is asked below.
            self.attributor.profile(slot, generation);
        }
        let (kind, question, reason) = match record.body {
            Body::Network { body, direction, protocol, reason, .. } => {
                let question =
                    Question::network(body.address, body.port, direction, protocol, reason, body.name);
                (EventType::Network, question, reason.name())
            }
            Body::Socket { reason, .. } => {
                let question = matches!(reason, Reason::SocketKind | Reason::Default | Reason::Rule);
                (EventType::Socket, question.then_some(Question::Socket), reason.name())
            }
            Body::Syscall(body) => {
                // The 32-bit table has other numbers; its calls are judged by the kernel's own list.
                (EventType::Syscall, (body.compat == 0).then_some(Question::Syscall(body.nr)), "listed")
            }
            Body::File { body, reason, path } => {
                let kind = match body.rights & Right::Connect as Rights {
                    0 => EventType::File,
                    _ => EventType::Unix,
                };
                // A question finds what denies; of a grant only the words are told.
                let denied = record.effect != Effect::Allow;
                let question = denied.then(|| Question::path(path, body.rights, reason)).flatten();
                (kind, question, reason.name())
            }
            Body::Privilege { privilege, reason, .. } => {
                let by_rule = matches!(reason, Reason::Default | Reason::Outside | Reason::Rule);
                (EventType::Privilege, by_rule.then_some(Question::Privilege(privilege)), reason.name())
            }
            Body::Exec { .. } => return (EventType::Exec, None),
            Body::Fork(_) => return (EventType::Fork, None),
            Body::Exit(_) => return (EventType::Exit, None),
        };
        self.decided_by =
            question.and_then(|question| self.attributor.decided_by(slot, generation, class, question));
        (kind, Some(reason))
    }
}

fn network(
    body: &NetBody,
    direction: Direction,
    protocol: Protocol,
    said: Option<Said<'_>>,
    host: impl FnOnce(IpAddr) -> Option<String>,
) -> Network {
    let address = address_of(Address::from_bytes(body.address));
    Network {
        direction: direction.name().into(),
        address: Some(address),
        host: if direction == Direction::Out { host(address) } else { None },
        port: body.port,
        protocol: protocol.name().into(),
        local_port: (body.local_port != 0).then_some(body.local_port),
        hello: said.map(|said| said.hello.name().into()),
        sni: said.filter(|said| !said.name.is_empty()).map(|said| escape::text(said.name).into_owned()),
    }
}

fn file(body: &FileBody, path: &[u8]) -> File<'static> {
    File {
        path: (!path.is_empty()).then(|| Cow::Owned(escape::text(path).into_owned())),
        truncated: body.path_total > body.path_length,
        access: Right::ALL
            .into_iter()
            .filter(|right| body.rights & *right as Rights != 0)
            .map(|right| Cow::Borrowed(right.name()))
            .collect(),
        inode: (body.inode != 0).then_some(body.inode),
        repeats: repeats(body.repeats),
    }
}

fn repeats(count: u32) -> Option<u32> {
    (count != 0).then_some(count)
}

fn privileged(body: &PrivilegeBody, privilege: privilege::Privilege) -> Privilege<'static> {
    use privilege::Privilege as Kind;
    let number = match privilege {
        Kind::Capability | Kind::Setuid | Kind::Signal | Kind::Bpf => Some(body.number),
        _ => None,
    };
    Privilege {
        kind: privilege.name().into(),
        name: match privilege {
            Kind::Capability => capabilities::name(body.number).map(Cow::Borrowed),
            Kind::Signal => signal_name(body.number).map(Cow::Borrowed),
            _ => None,
        },
        number,
        target: (body.target != 0).then_some(body.target),
        repeats: repeats(body.repeats),
    }
}

/// `task->exit_code`: status in bits 8–15, signal in bits 0–6.
fn exit(code: u32, last: bool) -> Exit {
    let signal = code & 0x7f;
    Exit { status: (signal == 0).then_some(code >> 8 & 0xff), signal: (signal != 0).then_some(signal), last }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::decode::{build, decode};
    use crate::event::fixture::profile;
    use crate::policy::resolved::{PrivilegesPolicy, ResolvedProfile};
    use agent_monitor_common::event::{ExecBody, ExitBody, Header, Kind, SocketBody, SyscallBody};
    use std::path::Path;

    const HEADER: Header = Header {
        hook: 1,
        effect: 1,
        mode: 2,
        errno: 101,
        agent: 5,
        profile: 2,
        generation: 3,
        tgid: 900,
        tid: 901,
        cgroup: 0,
        ..Header::ZERO
    };

    fn enricher() -> Enricher {
        enricher_of(profile("coding-agent"))
    }

    fn enricher_of(profile: Arc<ResolvedProfile>) -> Enricher {
        let generations = Arc::new(Generations::default());
        generations.install(2, profile, || Ok::<_, ()>(3)).unwrap();
        let processes = Processes::new(Path::new("/nowhere"), Path::new("/nowhere"));
        let mut enricher = Enricher::new(processes, Arc::new(Registry::default()), generations);
        enricher.begin_batch();
        enricher
    }

    fn event(enricher: &mut Enricher, bytes: &[u8]) -> (Option<Change>, Event<'static>) {
        let record = decode(bytes).unwrap();
        let change = enricher.note(&record);
        let json = serde_json::to_string(&enricher.event(&record)).unwrap();
        (change, serde_json::from_str(&json).unwrap())
    }

    fn denied(address: &str, port: u16, reason: Reason) -> Vec<u8> {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        let body = NetBody {
            address: address.to_ipv6_mapped().octets(),
            port,
            reason: reason.code(),
            ..NetBody::ZERO
        };
        build::record(Kind::Network, HEADER, &body, &[])
    }

    #[test]
    fn a_verdict_names_agent_process_rule_and_line() {
        let mut enricher = enricher();
        let exec = build::exec(
            Header { hook: 15, effect: 0, ..HEADER },
            ExecBody { parent: 1, claimed: 1, comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0", ..ExecBody::ZERO },
            b"/usr/bin/curl",
            b"curl\0http://10.0.0.5\0",
        );
        let (change, exec) = event(&mut enricher, &exec);
        let Some(Change::Started(info)) = change else { panic!("{change:?}") };
        assert_eq!((info.root, info.slot, &*info.profile), (900, 2, "coding-agent"));
        assert!(exec.exec.unwrap().claimed && exec.verdict.is_none());

        let (change, event) = event(&mut enricher, &denied("10.0.0.5", 22, Reason::Rule));
        assert_eq!(change, None);
        assert_eq!(event.agent.unwrap().id, Some(Id(info.id)));
        let process = event.process.unwrap();
        assert_eq!(
            (process.pid, process.tid, process.exe.as_deref()),
            (900, Some(901), Some("/usr/bin/curl"))
        );
        assert_eq!(process.argv.join(" "), "curl http://10.0.0.5");
        assert_eq!(event.network.unwrap().address, Some("10.0.0.5".parse().unwrap()));
        let verdict = event.verdict.unwrap();
        assert_eq!(verdict.effect, VerdictEffect::Deny);
        assert_eq!(verdict.rule.as_deref(), Some("coding-agent:network.deny[0]"));
        assert_eq!(verdict.source.as_deref(), Some("/etc/agent-monitor/profiles.d/p.yaml:7"));
        assert_eq!((&*verdict.mechanism, &*verdict.mode), ("cgroup/connect4", "enforce"));
        assert_eq!(verdict.errno.as_deref(), Some("ENETUNREACH"));
    }

    #[test]
    fn a_verdict_names_the_program_and_the_rule_that_is_about_it() {
        let mut edited = (*profile("coding-agent")).clone();
        edited.programs = [("git".to_owned(), vec!["/usr/bin/git".to_owned()])].into();
        let git = crate::policy::ProgramRef::Name("git".to_owned());
        // The default denies what is allowed to git alone; the denial of all but git is not about git.
        edited.network.allow[0].programs.exe = vec![git.clone()];
        edited.network.deny[0].programs.except = vec![git];
        let generations = Arc::new(Generations::default());
        generations.install(2, Arc::new(edited), || Ok::<_, ()>(3)).unwrap();
        let processes = Processes::new(Path::new("/nowhere"), Path::new("/nowhere"));
        let mut enricher = Enricher::new(processes, Arc::new(Registry::default()), generations);
        enricher.begin_batch();
        let mut of_class = |class| {
            let mut record = denied("10.1.0.5", 22, Reason::Rule);
            record[std::mem::offset_of!(Header, class)] = class;
            let event = event(&mut enricher, &record).1;
            (event.program.into_owned(), event.verdict.unwrap().rule.unwrap().into_owned())
        };
        let none = Vec::<String>::new();
        let [unknown, plain, git, beyond] = [0, 1, 2, 63].map(&mut of_class);
        assert_eq!(unknown, (none.clone(), "coding-agent:network.deny[0]".to_owned()));
        assert_eq!(plain, unknown);
        assert_eq!(git, (vec!["git".to_owned()], "coding-agent:network.allow[0]".to_owned()));
        assert_eq!(beyond, unknown, "a class that the profile does not have is not known");
    }

    #[test]
    fn a_default_denial_points_at_the_section_that_grants_nothing() {
        let (_, event) = event(&mut enricher(), &denied("198.51.100.1", 80, Reason::Default));
        let verdict = event.verdict.unwrap();
        assert_eq!(verdict.rule.as_deref(), Some("coding-agent:network.default"));
        assert_eq!(verdict.source.as_deref(), Some("/etc/agent-monitor/profiles.d/p.yaml:4"));
        assert_eq!(verdict.reason, "default-deny");
    }

    #[test]
    fn a_transition_form_is_explained_by_the_ipv4_rule_inside() {
        let address: std::net::Ipv6Addr = "64:ff9b::10.9.9.9".parse().unwrap();
        let body = NetBody { address: address.octets(), reason: Reason::Rule.code(), ..NetBody::ZERO };
        let (_, event) = event(&mut enricher(), &build::record(Kind::Network, HEADER, &body, &[]));
        assert_eq!(event.verdict.unwrap().rule.as_deref(), Some("coding-agent:network.deny[0]"));
    }

    #[test]
    fn a_peer_on_an_abstract_name_is_escaped_and_of_its_own_type() {
        let name = b"@x\0\x1b[2J";
        let body = FileBody {
            rights: Right::Connect as Rights,
            path_length: name.len() as u32,
            path_total: name.len() as u32,
            ..FileBody::ZERO
        };
        let (_, event) = event(&mut enricher(), &build::record(Kind::File, HEADER, &body, name));
        let file = event.file.unwrap();
        assert_eq!((event.kind, file.access.as_slice()), (EventType::Unix, &["connect".into()][..]));
        assert!(
            file.path.as_deref().is_some_and(|path| path.starts_with("@x") && !path.contains(['\0', '\x1b']))
        );
    }

    #[test]
    fn a_denied_privilege_names_its_kind_and_number() {
        let body = agent_monitor_common::event::PrivilegeBody {
            privilege: privilege::Privilege::Capability.code(),
            number: 21,
            ..agent_monitor_common::event::PrivilegeBody::ZERO
        };
        let (_, event) = event(&mut enricher(), &build::record(Kind::Privilege, HEADER, &body, &[]));
        let asked = event.privilege.unwrap();
        assert_eq!(
            (&*asked.kind, asked.name.as_deref(), asked.number),
            ("capability", Some("sys_admin"), Some(21))
        );
        assert_eq!((event.kind, asked.target), (EventType::Privilege, None));
        assert_eq!(event.verdict.unwrap().reason, "default-deny");
    }

    #[test]
    fn the_first_use_of_a_grant_names_the_key_that_grants_it() {
        let mut profile = (*profile("coding-agent")).clone();
        profile.privileges = Some(PrivilegesPolicy::nothing(profile.network.source.clone()));
        let profile = Arc::new(profile);
        let rule = u32::from(Reason::Rule.code());
        let granted = Header { effect: Effect::Allow.code(), errno: 0, ..HEADER };
        let number = privilege::Privilege::Capability.code();
        let capability = PrivilegeBody { privilege: number, number: 21, reason: rule, ..PrivilegeBody::ZERO };
        let raw = SocketBody { family: 2, kind: 3, protocol: 1, reason: rule, ..SocketBody::ZERO };
        for (bytes, key) in [
            (
                build::record(Kind::Privilege, granted, &capability, &[]),
                "coding-agent:privileges.capabilities",
            ),
            (build::record(Kind::Socket, granted, &raw, &[]), "coding-agent:network.sockets"),
        ] {
            let verdict = event(&mut enricher_of(Arc::clone(&profile)), &bytes).1.verdict.unwrap();
            assert_eq!((verdict.effect.as_str(), verdict.errno.as_deref()), ("allow", None));
            assert_eq!((&*verdict.reason, verdict.rule.as_deref()), ("rule", Some(key)));
        }
    }

    #[test]
    fn a_listed_call_names_itself_and_its_line() {
        let body = SyscallBody { nr: 101, killed: 1, ..SyscallBody::ZERO };
        let (_, event) = event(&mut enricher(), &build::record(Kind::Syscall, HEADER, &body, &[]));
        let syscall = event.syscall.unwrap();
        assert_eq!((syscall.name.as_deref(), syscall.killed), (Some("ptrace"), true));
        assert_eq!(event.verdict.unwrap().rule.as_deref(), Some("coding-agent:syscalls.watch[0]"));
    }

    #[test]
    fn the_last_exit_ends_the_agent_and_a_lost_label_has_none() {
        let mut enricher = enricher();
        let exit = |code, last| build::record(Kind::Exit, HEADER, &ExitBody { code, last }, &[]);
        let (_, first) = event(&mut enricher, &exit(9, 0));
        assert_eq!(first.exit.unwrap().signal, Some(9));
        let (change, _) = event(&mut enricher, &exit(0x100, 1));
        assert!(matches!(change, Some(Change::Ended(info)) if info.key == 5));
        assert!(enricher.registry.live().is_empty());

        let lost = Header { agent: 0, ..HEADER };
        let body = NetBody { reason: Reason::LabelLost.code(), ..NetBody::ZERO };
        let (change, event) = event(&mut enricher, &build::record(Kind::Network, lost, &body, &[]));
        assert_eq!(change, None);
        assert!(event.agent.is_none_or(|agent| agent.id.is_none()));
        assert_eq!(event.verdict.unwrap().rule, None);
    }

    #[test]
    fn ids_grow_even_when_time_does_not() {
        let mut enricher = enricher();
        let mut last = enricher.next_id(Timestamp::now());
        for back in 0..1_000 {
            let id = enricher.next_id(Timestamp::now() - jiff::SignedDuration::from_millis(back));
            assert!(id > last);
            last = id;
        }
    }
}
