//! Metrics: what `/metrics` shows, by the prometheus crate.
//!
//! [`Metrics::render`] is called by `http` for each scrape with a [`Snapshot`] that the daemon took then; nothing is
//! gathered between scrapes. What must stay true: no label's value is chosen by an agent, and the number of series is
//! bounded by the numbers of profiles, mechanisms and live agents.

pub mod names;
mod process;

use agent_monitor_common::counters::{
    DECISIONS, Domain, Effect, Mode, Ring, RingCounters, Site, decision_cell,
};
use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use self::names::{NamesMetrics, NamesSample};
use crate::control::protocol::{MechanismStatus, ReloadOutcome};
use crate::event::decode::DecodeError;
use crate::event::model::EventType;

/// Everything at one moment; totals are since the daemon's start.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub startup_seconds: f64,
    /// By [`decision_cell`].
    pub decisions: Vec<u64>,
    /// By [`Ring`].
    pub rings: Vec<RingCounters>,
    pub sites: Vec<(Site, u64)>,
    pub profiles: Vec<ProfileSample>,
    pub agents: Vec<AgentSample>,
    pub posture: Vec<MechanismStatus>,
    pub programs: Vec<ProgramSample>,
    /// Profile, system call, count.
    pub syscalls: Vec<(String, String, u64)>,
    pub syscall_hook: bool,
    /// By position in [`EventType::ALL`].
    pub events: Vec<u64>,
    /// By position in [`DecodeError::LABELS`].
    pub decode_errors: Vec<u64>,
    pub sinks: Vec<SinkSample>,
    pub followers: usize,
    /// By position in [`ReloadOutcome::ALL`].
    pub reloads: Vec<u64>,
    /// `reset`, `shut`, `failed`.
    pub flows_cut: [u64; 3],
    /// The daemon's own events that found their queue full.
    pub own_lost: u64,
    pub names: NamesSample,
}

/// A profile in force.
#[derive(Clone, Debug, Default)]
pub struct ProfileSample {
    pub name: String,
    pub mode: String,
    pub digest: String,
    pub generation: u32,
    pub agents: u64,
    pub processes: u64,
    /// Mechanisms that it asks and that do not work here.
    pub gaps: u64,
    /// Whether its newest file was refused.
    pub stale: bool,
}

/// A live agent.
#[derive(Clone, Debug, Default)]
pub struct AgentSample {
    pub id: String,
    pub profile: String,
    pub lost_verdicts: u64,
    pub lost_activity: u64,
}

/// A loaded program.
#[derive(Clone, Debug, Default)]
pub struct ProgramSample {
    pub name: String,
    pub runs: u64,
    pub seconds: f64,
}

/// A sink of events.
#[derive(Clone, Debug, Default)]
pub struct SinkSample {
    pub name: &'static str,
    pub written: u64,
    pub dropped: u64,
    pub errors: u64,
}

/// The registered metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    startup: Gauge,
    decisions: IntCounterVec,
    ring_written: IntCounterVec,
    ring_lost: IntCounterVec,
    agent_lost: IntCounterVec,
    sites: IntCounterVec,
    agents: IntGaugeVec,
    processes: IntGaugeVec,
    generation: IntGaugeVec,
    profile_info: IntGaugeVec,
    profile_gaps: IntGaugeVec,
    profile_stale: IntGaugeVec,
    posture: IntGaugeVec,
    program_runs: IntCounterVec,
    program_seconds: CounterVec,
    syscalls: IntCounterVec,
    syscall_hook: IntGauge,
    events: IntCounterVec,
    decode_errors: IntCounterVec,
    own_lost: IntCounter,
    sink_written: IntCounterVec,
    sink_dropped: IntCounterVec,
    sink_errors: IntCounterVec,
    followers: IntGauge,
    reloads: IntCounterVec,
    flows_cut: IntCounterVec,
    names: NamesMetrics,
    process_cpu: CounterVec,
    process_memory: IntGauge,
    process_start: Gauge,
    process_fds: IntGauge,
}

/// Makes and registers metrics; a name that is refused is a mistake in this file, and ends the start.
struct Maker(Registry);

impl Maker {
    fn add<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> prometheus::Result<C> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Never with the names in this file.
    pub fn new() -> prometheus::Result<Self> {
        let make = Maker(Registry::new());
        let build: GaugeVec = make.add(GaugeVec::new(
            Opts::new("agent_monitor_build_info", "Version of the daemon; always 1."),
            &["version"],
        ))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Ok(Metrics {
            startup: make.add(Gauge::new(
                "agent_monitor_startup_seconds",
                "Time from the start of the process until every profile was in force.",
            ))?,
            decisions: make.counters(
                "agent_monitor_decisions_total",
                "Decisions of the kernel side by domain, effect and the profile's mode; a deny or kill outside enforce mode was not enforced.",
                &["domain", "effect", "mode"],
            )?,
            ring_written: make.counters(
                "agent_monitor_ring_written_total",
                "Records that the kernel side put in a ring buffer.",
                &["ring"],
            )?,
            ring_lost: make.counters(
                "agent_monitor_ring_lost_total",
                "Records that found a ring buffer full; their verdicts were unchanged.",
                &["ring"],
            )?,
            agent_lost: make.counters(
                "agent_monitor_agent_lost_total",
                "Records about a live agent that found a ring buffer full.",
                &["agent", "profile", "ring"],
            )?,
            sites: make.counters(
                "agent_monitor_helper_failures_total",
                "Failures inside the kernel programs by site; in enforce mode each also denied.",
                &["site"],
            )?,
            agents: make.gauges("agent_monitor_agents", "Live agents.", &["profile"])?,
            processes: make.gauges(
                "agent_monitor_labelled_processes",
                "Live processes of agents.",
                &["profile"],
            )?,
            generation: make.gauges(
                "agent_monitor_policy_generation",
                "Generation of the profile's image in force.",
                &["profile"],
            )?,
            profile_info: make.gauges(
                "agent_monitor_profile_info",
                "Mode and image digest of each profile in force; always 1.",
                &["profile", "mode", "digest"],
            )?,
            profile_gaps: make.gauges(
                "agent_monitor_profile_gaps",
                "Mechanisms that the profile asks for and this kernel can't enforce.",
                &["profile"],
            )?,
            profile_stale: make.gauges(
                "agent_monitor_profile_stale",
                "1: the newest file of the profile was refused and an older one is in force.",
                &["profile"],
            )?,
            posture: make.gauges(
                "agent_monitor_posture",
                "1: this kernel runs the mechanism; 0: what it would see goes unseen.",
                &["mechanism", "state"],
            )?,
            program_runs: make.counters(
                "agent_monitor_program_runs_total",
                "Runs of a kernel program; counted with --program-stats only.",
                &["program"],
            )?,
            program_seconds: make.add(CounterVec::new(
                Opts::new(
                    "agent_monitor_program_run_seconds_total",
                    "Time spent in a kernel program; counted with --program-stats only.",
                ),
                &["program"],
            ))?,
            syscalls: make.counters(
                "agent_monitor_syscalls_total",
                "Listed system calls that agents made.",
                &["profile", "syscall"],
            )?,
            syscall_hook: make.gauge(
                "agent_monitor_syscall_hook_attached",
                "1 while a live agent's profile lists system calls.",
            )?,
            events: make.counters("agent_monitor_events_total", "Events that the daemon made.", &["type"])?,
            decode_errors: make.counters(
                "agent_monitor_event_decode_errors_total",
                "Records of the kernel side that could not be read.",
                &["error"],
            )?,
            own_lost: make.add(IntCounter::new(
                "agent_monitor_own_events_lost_total",
                "Events of the daemon itself (agents, profiles, cut flows) that came faster than they could be written.",
            ))?,
            sink_written: make.counters(
                "agent_monitor_sink_written_total",
                "Events that a sink took.",
                &["sink"],
            )?,
            sink_dropped: make.counters(
                "agent_monitor_sink_dropped_total",
                "Events that a sink could not take: the disk was full or slow, a follower read slowly.",
                &["sink"],
            )?,
            sink_errors: make.counters(
                "agent_monitor_sink_errors_total",
                "Failed writes of a sink.",
                &["sink"],
            )?,
            followers: make.gauge("agent_monitor_followers", "Connected followers of events.")?,
            reloads: make.counters(
                "agent_monitor_reloads_total",
                "Loads of a profile by outcome, those at the start included.",
                &["outcome"],
            )?,
            flows_cut: make.counters(
                "agent_monitor_flows_cut_total",
                "Established flows that lost their grant, by what was done to them.",
                &["result"],
            )?,
            names: NamesMetrics::new(&make)?,
            process_cpu: make.add(CounterVec::new(
                Opts::new("process_cpu_seconds_total", "Processor time of the daemon."),
                &[],
            ))?,
            process_memory: make.gauge("process_resident_memory_bytes", "Resident memory of the daemon.")?,
            process_start: make.add(Gauge::new(
                "process_start_time_seconds",
                "Start time of the daemon in seconds since 1970.",
            ))?,
            process_fds: make.gauge("process_open_fds", "Open descriptors of the daemon.")?,
            registry: make.0,
        })
    }

    /// The text that Prometheus reads (exposition format 0.0.4). One scrape at a time: callers hold a lock.
    ///
    /// # Errors
    /// When the encoder refuses, which it does not for the names in this file.
    pub fn render(&self, snapshot: &Snapshot) -> prometheus::Result<Vec<u8>> {
        self.kernel(snapshot);
        self.profiles(snapshot);
        self.daemon(snapshot);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn kernel(&self, now: &Snapshot) {
        for domain in Domain::ALL {
            for effect in Effect::ALL {
                for mode in Mode::ALL {
                    let total = at(&now.decisions, decision_cell(*domain, *effect, *mode) as usize);
                    let labels = [domain.name(), effect.name(), mode.name()];
                    raise(&self.decisions.with_label_values(&labels), total);
                }
            }
        }
        for ring in Ring::ALL {
            let counters = now.rings.get(ring.code() as usize).copied().unwrap_or(RingCounters::ZERO);
            raise(&self.ring_written.with_label_values(&[ring.name()]), counters.written);
            raise(&self.ring_lost.with_label_values(&[ring.name()]), counters.lost);
        }
        for (site, total) in &now.sites {
            raise(&self.sites.with_label_values(&[site.name()]), *total);
        }
        self.posture.reset();
        for mechanism in &now.posture {
            let labels = [mechanism.name.as_str(), mechanism.state.as_str()];
            self.posture.with_label_values(&labels).set(i64::from(mechanism.works));
        }
        for program in &now.programs {
            raise(&self.program_runs.with_label_values(&[&program.name]), program.runs);
            let seconds = self.program_seconds.with_label_values(&[&program.name]);
            seconds.inc_by((program.seconds - seconds.get()).max(0.0));
        }
        for (profile, syscall, total) in &now.syscalls {
            raise(&self.syscalls.with_label_values(&[profile, syscall]), *total);
        }
        self.syscall_hook.set(i64::from(now.syscall_hook));
    }

    fn profiles(&self, now: &Snapshot) {
        for gauge in [
            &self.agents,
            &self.processes,
            &self.generation,
            &self.profile_info,
            &self.profile_gaps,
            &self.profile_stale,
        ] {
            gauge.reset();
        }
        for profile in &now.profiles {
            let name = [profile.name.as_str()];
            self.agents.with_label_values(&name).set(signed(profile.agents));
            self.processes.with_label_values(&name).set(signed(profile.processes));
            self.generation.with_label_values(&name).set(i64::from(profile.generation));
            self.profile_gaps.with_label_values(&name).set(signed(profile.gaps));
            self.profile_stale.with_label_values(&name).set(i64::from(profile.stale));
            self.profile_info.with_label_values(&[&profile.name, &profile.mode, &profile.digest]).set(1);
        }
        // An ended agent's series go; each scrape's are the live agents'.
        self.agent_lost.reset();
        for agent in &now.agents {
            for (ring, lost) in [(Ring::Verdicts, agent.lost_verdicts), (Ring::Activity, agent.lost_activity)]
            {
                let labels = [agent.id.as_str(), agent.profile.as_str(), ring.name()];
                raise(&self.agent_lost.with_label_values(&labels), lost);
            }
        }
    }

    fn daemon(&self, now: &Snapshot) {
        self.startup.set(now.startup_seconds);
        for (position, kind) in EventType::ALL.iter().enumerate() {
            raise(&self.events.with_label_values(&[kind.as_str()]), at(&now.events, position));
        }
        for (position, label) in DecodeError::LABELS.iter().enumerate() {
            raise(&self.decode_errors.with_label_values(&[label]), at(&now.decode_errors, position));
        }
        raise(&self.own_lost, now.own_lost);
        for sink in &now.sinks {
            raise(&self.sink_written.with_label_values(&[sink.name]), sink.written);
            raise(&self.sink_dropped.with_label_values(&[sink.name]), sink.dropped);
            raise(&self.sink_errors.with_label_values(&[sink.name]), sink.errors);
        }
        self.followers.set(i64::try_from(now.followers).unwrap_or(i64::MAX));
        for (position, outcome) in ReloadOutcome::ALL.iter().enumerate() {
            raise(&self.reloads.with_label_values(&[outcome.as_str()]), at(&now.reloads, position));
        }
        for (result, total) in ["reset", "shut", "failed"].into_iter().zip(now.flows_cut) {
            raise(&self.flows_cut.with_label_values(&[result]), total);
        }
        self.names.update(&now.names);
        let own = process::read();
        let cpu = self.process_cpu.with_label_values::<&str>(&[]);
        cpu.inc_by((own.cpu_seconds - cpu.get()).max(0.0));
        self.process_memory.set(signed(own.resident_bytes));
        self.process_start.set(own.start_seconds);
        self.process_fds.set(signed(own.open_fds));
    }
}

/// Sets a counter to a total that was counted elsewhere. A total that went back (it never should) changes nothing.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn at(totals: &[u64], position: usize) -> u64 {
    totals.get(position).copied().unwrap_or(0)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const _: () = assert!(DECISIONS == Domain::ALL.len() * Effect::ALL.len() * Mode::ALL.len());

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn snapshot() -> Snapshot {
        let mut decisions = vec![0; DECISIONS];
        decisions[decision_cell(Domain::NetworkOut, Effect::Deny, Mode::Enforce) as usize] = 7;
        Snapshot {
            decisions,
            rings: vec![RingCounters { written: 5, lost: 2 }, RingCounters::ZERO],
            sites: vec![(Site::LabelMissing, 1)],
            profiles: vec![ProfileSample {
                name: "p".to_owned(),
                generation: 3,
                agents: 1,
                ..Default::default()
            }],
            agents: vec![AgentSample {
                id: "01A".to_owned(),
                profile: "p".to_owned(),
                lost_verdicts: 2,
                ..Default::default()
            }],
            programs: vec![ProgramSample { name: "network_connect4".to_owned(), runs: 9, seconds: 0.5 }],
            syscalls: vec![("p".to_owned(), "ptrace".to_owned(), 4)],
            sinks: vec![SinkSample { name: "file", written: 8, ..Default::default() }],
            ..Default::default()
        }
    }

    fn render(metrics: &Metrics, snapshot: &Snapshot) -> String {
        String::from_utf8(metrics.render(snapshot).unwrap()).unwrap()
    }

    #[test]
    fn totals_are_shown_and_grow_with_the_kernels() {
        let metrics = Metrics::new().unwrap();
        let mut now = snapshot();
        let text = render(&metrics, &now);
        for line in [
            "agent_monitor_decisions_total{domain=\"network_out\",effect=\"deny\",mode=\"enforce\"} 7",
            "agent_monitor_ring_lost_total{ring=\"verdicts\"} 2",
            "agent_monitor_agent_lost_total{agent=\"01A\",profile=\"p\",ring=\"verdicts\"} 2",
            "agent_monitor_program_run_seconds_total{program=\"network_connect4\"} 0.5",
            "agent_monitor_syscalls_total{profile=\"p\",syscall=\"ptrace\"} 4",
            "agent_monitor_policy_generation{profile=\"p\"} 3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        now.rings[0].lost = 6;
        assert!(render(&metrics, &now).contains("agent_monitor_ring_lost_total{ring=\"verdicts\"} 6"));
    }

    #[test]
    fn series_of_ended_agents_and_removed_profiles_go() {
        let metrics = Metrics::new().unwrap();
        let mut now = snapshot();
        render(&metrics, &now);
        now.agents.clear();
        now.profiles.clear();
        let text = render(&metrics, &now);
        assert!(!text.contains("agent_lost_total{") && !text.contains("policy_generation{"), "{text}");
    }

    #[test]
    fn names_follow_the_conventions_that_promtool_checks() {
        let text = render(&Metrics::new().unwrap(), &snapshot());
        let mut helped = HashSet::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
            let mut words = line.split(' ');
            let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert!(name.starts_with("agent_monitor_") || name.starts_with("process_"), "{name}");
            if what == "HELP" {
                helped.insert(name.to_owned());
            } else {
                assert!(helped.contains(name), "{name} has no help");
                assert_eq!(name.ends_with("_total"), rest == "counter", "{name} is a {rest}");
            }
        }
        assert!(helped.len() > 20);
    }
}
