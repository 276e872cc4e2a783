//! The daemon: loads, installs, labels, then serves until it is told to end.
//!
//! [`run`] is the whole of it; `cli::daemon` calls it with the signals, tests with a oneshot. What must stay true: on
//! any error before "ready" nothing new stays in force, and what an earlier daemon pinned does; after it, no error of a
//! client, a file or a disk ends the daemon. An end leaves what is pinned in force: only `--detach` takes it away.

mod agents;
pub mod core;
mod leases;
mod memory;
mod names;
pub mod pipeline;
mod reload;
pub mod report;
pub mod table;

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_monitor_common::counters::Ring;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use self::core::{Core, Totals};
use self::pipeline::{Injector, Notice, Pipeline, PipelineCounts, Records};
use self::table::Table;
use crate::agent::cgroup;
use crate::agent::registry::Registry;
use crate::control::notices::{self, Teller};
use crate::control::peer::Peer;
use crate::control::protocol::{Code, Op, Refusal};
use crate::control::server::{self, Handler};
use crate::event::enrich::Enricher;
use crate::event::generations::Generations;
use crate::event::process::Processes;
use crate::event::repeats::Repeats;
use crate::exit::Exit;
use crate::http;
use crate::kernel::{
    Features, Kernel, LoadError, LoadOptions, MissingCapability, Origin, PinError, RingReader, State,
    check_privileges,
};
use crate::metrics::Metrics;
use crate::policy::{Directory, load_directory};
use crate::resolver::Names;
use crate::settings::Settings;
use crate::sink::follow::{Filter, Followers, Subscription};
use crate::sink::jsonl;

/// How often lost records are looked for and losses told of.
const TIDY: Duration = Duration::from_secs(10);
/// How often claimed cgroups are looked at, while there are claims of cgroups.
const WATCH_CGROUPS: Duration = Duration::from_secs(1);
/// How long the rings may take to drain at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("{}\nRun the daemon as root, or give it these capabilities (see `agent-monitor doctor`).", missing(.0))]
    Privileges(Vec<MissingCapability>),
    #[error(
        "no cgroup v2 hierarchy is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`), or name a cgroup with --cgroup"
    )]
    NoCgroup,
    #[error("the profiles have errors; nothing was put in force\n\n{0}")]
    Profiles(String),
    #[error("{0}")]
    CannotEnforce(String),
    #[error("the profiles are right and could not be put in force; nothing is\n\n{0}")]
    Install(String),
    #[error("{0}")]
    Pins(#[source] PinError),
    #[error("the kernel side did not come up: {0}")]
    Load(#[source] LoadError),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("metrics can't be made: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl DaemonError {
    /// The exit code that says so.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Privileges(_) => Exit::NotPermitted,
            Self::Profiles(_) => Exit::BadProfile,
            Self::NoCgroup | Self::CannotEnforce(_) => Exit::CannotEnforce,
            Self::Load(LoadError::Cgroup { .. }) => Exit::Failure,
            Self::Pins(PinError::Incompatible { .. }) => Exit::CannotEnforce,
            Self::Pins(_) => Exit::Failure,
            Self::Load(_) => Exit::CannotEnforce,
            Self::Install(_) | Self::Io { .. } | Self::Metrics(_) => Exit::Failure,
        }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn missing(capabilities: &[MissingCapability]) -> String {
    let lines: Vec<_> =
        capabilities.iter().map(|missing| format!("{} is missing, {}", missing.name, missing.why)).collect();
    lines.join("\n")
}

impl Records for RingReader {
    fn drain(&mut self, limit: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        RingReader::drain(self, limit, each)
    }
}

/// Runs the daemon until `shutdown`, SIGHUP reloading meanwhile.
///
/// # Errors
/// [`DaemonError`] where it does not come up; then nothing is in force but what an earlier daemon pinned.
pub async fn run(mut settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), DaemonError> {
    let began = Instant::now();
    memory::prepare();
    let lacking = check_privileges();
    if !lacking.is_empty() {
        return Err(DaemonError::Privileges(lacking));
    }
    // Events and status name files for readers in any directory.
    settings.profiles = std::path::absolute(&settings.profiles).unwrap_or(settings.profiles);
    let directory = load_profiles(&settings)?;
    let mut hangups = signal(SignalKind::hangup()).map_err(DaemonError::io("SIGHUP can't be waited for"))?;
    // What another daemon may hold is asked for before anything is loaded.
    let socket = settings.socket.clone();
    let control = server::listen_at(&socket, settings.control_gid)
        .map_err(DaemonError::io(format!("control socket {}", socket.display())))?;
    let started = match metrics_listener(&settings).await {
        Ok(metrics) => {
            // The port that the kernel chose, where it was to choose: agents are kept off it.
            if let Some(address) = metrics.as_ref().and_then(|listener| listener.local_addr().ok()) {
                settings.metrics = address;
            }
            start(settings, directory, began).map(|started| (metrics, started))
        }
        Err(error) => Err(error),
    };
    let (metrics, Started { core, notices, threads }) = started.inspect_err(|_| {
        // Made a moment ago; one that stays is found dead by the next daemon.
        let _ = std::fs::remove_file(&socket);
    })?;
    if let Some(address) = metrics.as_ref().and_then(|listener| listener.local_addr().ok()) {
        // Set once, here.
        let _ = core.metrics_address.set(address);
    }
    let startup = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let _ = core.startup_ms.set(startup);

    let (end, ended) = watch::channel(());
    let until_end = |mut ended: watch::Receiver<()>| async move {
        // An error means that the sender is gone, which ends everything too.
        let _ = ended.changed().await;
    };
    serve_notices(&core, until_end(ended.clone()));
    let handler: Arc<dyn Handler> = Arc::new(Served(Arc::clone(&core)));
    let serving = until_end(ended.clone());
    let control = tokio::spawn(async move { server::serve(control, &socket, handler, serving).await });
    if let Some(listener) = metrics {
        let pages: Arc<dyn http::Pages> = Arc::clone(&core) as _;
        tokio::spawn(http::serve(listener, pages, until_end(ended)));
    }
    memory::settle();
    tracing::info!(milliseconds = startup, "ready");
    notify(&[sd_notify::NotifyState::Ready]);

    work(&core, notices, &mut hangups, shutdown).await;

    notify(&[sd_notify::NotifyState::Stopping]);
    names::end(&core);
    tracing::info!("ending: no new requests, then the rings are drained");
    drop(end);
    let _ = control.await;
    drain(&core, threads).await;
    Ok(())
}

async fn metrics_listener(settings: &Settings) -> Result<Option<TcpListener>, DaemonError> {
    if settings.no_metrics {
        return Ok(None);
    }
    let bound = http::bind(settings.metrics, settings.metrics_anywhere).await;
    bound.map(Some).map_err(DaemonError::io(format!("metrics on {}", settings.metrics)))
}

/// The profile directory, whole or not at all: a daemon that starts with half of its profiles would govern half.
fn load_profiles(settings: &Settings) -> Result<Directory, DaemonError> {
    let directory = load_directory(&settings.profiles, &settings.bases).map_err(|error| {
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        DaemonError::Profiles(format!("{error}{source}; name another with --profiles"))
    })?;
    if !directory.failed.is_empty() {
        let errors: Vec<_> = directory.failed.iter().map(|failed| failed.errors.to_string()).collect();
        return Err(DaemonError::Profiles(errors.join("\n\n")));
    }
    if directory.profiles.is_empty() {
        tracing::warn!(directory = %settings.profiles.display(), "no profile is in force: no process will be governed");
    }
    Ok(directory)
}

/// The running parts.
struct Started {
    core: Arc<Core>,
    notices: UnboundedReceiver<Notice>,
    threads: Threads,
}

/// The threads beside the runtime.
struct Threads {
    events: JoinHandle<()>,
    file: Option<JoinHandle<()>>,
}

/// Loads the kernel side and puts everything in force.
fn start(settings: Settings, directory: Directory, began: Instant) -> Result<Started, DaemonError> {
    let mount = Features::read().cgroup2.ok_or(DaemonError::NoCgroup)?;
    // Compared with the paths of processes' cgroups, which are absolute and without links.
    let governed =
        settings.cgroup.as_ref().map(|cgroup| cgroup.canonicalize().unwrap_or_else(|_| cgroup.clone()));
    let governed = governed.unwrap_or_else(|| mount.clone());
    let mut kernel = Kernel::load(&LoadOptions {
        stats: settings.program_stats,
        verdict_ring: settings.verdict_ring,
        pins: settings.pinning(),
        ..LoadOptions::new(&governed)
    })
    .map_err(|error| match error {
        LoadError::Pin(error) => DaemonError::Pins(error),
        error => DaemonError::Load(error),
    })?;
    let (Some(verdicts), Some(activity)) =
        (kernel.take_ring(Ring::Verdicts), kernel.take_ring(Ring::Activity))
    else {
        return Err(DaemonError::Io {
            what: "the rings".to_owned(),
            source: io::Error::other("the kernel side gave no readers"),
        });
    };
    let names = kernel.take_names().map(Names::new).map(Arc::new).ok_or_else(|| DaemonError::Io {
        what: "the maps of names".to_owned(),
        source: io::Error::other("the kernel side gave none"),
    })?;
    let (sink, file, file_thread) = match settings.event_file() {
        None => (None, None, None),
        Some(file) => {
            let failed = |path: &Path| DaemonError::io(format!("event file {}", path.display()));
            if let Some(parent) = file.path.parent() {
                std::fs::create_dir_all(parent).map_err(failed(&file.path))?;
            }
            let path = file.path.clone();
            let (sink, counts, thread) = jsonl::start(file).map_err(failed(&path))?;
            (Some(sink), Some(counts), Some(thread))
        }
    };
    let registry = Arc::new(Registry::default());
    let generations = Arc::new(Generations::default());
    let processes = Processes::new(Path::new("/proc"), &mount);
    let enricher = Enricher::new(processes, Arc::clone(&registry), Arc::clone(&generations));
    let (notice, notices) = unbounded_channel();
    let injector = Injector::new().map_err(DaemonError::io("an eventfd can't be made"))?;
    let core = Arc::new(Core {
        protected: settings.protected(&mount),
        names: Arc::clone(&names),
        resolver: Mutex::new(None),
        mount,
        governed,
        registry,
        generations,
        followers: Arc::new(Followers::default()),
        denials: Arc::default(),
        injector: Arc::new(injector),
        counts: Arc::new(PipelineCounts::default()),
        file,
        metrics: Mutex::new(Metrics::new()?),
        began,
        startup_ms: OnceLock::new(),
        events_ended: false.into(),
        watches_cgroups: false.into(),
        has_leases: false.into(),
        metrics_address: OnceLock::new(),
        stop: tokio::sync::Notify::new(),
        totals: Totals::default(),
        leftover: Mutex::default(),
        claimed_cgroups: Mutex::default(),
        told: Mutex::new(kernel.told()),
        changes: Mutex::default(),
        table: Mutex::new(inherited_table(&kernel)),
        kernel: Mutex::new(kernel),
        settings,
    });
    core.inherit_agents();
    let mut pipeline =
        Pipeline::new(enricher, sink, Arc::clone(&core.followers), Arc::clone(&core.counts), notice);
    pipeline.enricher.names = Some(names);
    pipeline.denials = Arc::clone(&core.denials);
    names::serve(&core);
    pipeline.repeats = core.kernel().take_used().map(Repeats::new);
    // What was recorded while no daemon ran is read when the profiles that decided it are known.
    let in_force = put_in_force(&core, directory);
    let events = pipeline
        .start(verdicts, activity, Arc::clone(&core.injector))
        .map_err(DaemonError::io("the event thread can't be started"))?;
    let threads = Threads { events, file: file_thread };
    if let Err(error) = in_force {
        core.injector.stop();
        // They end at once; what they wrote so far says why the daemon did not come up.
        let _ = threads.events.join();
        let _ = threads.file.map(JoinHandle::join);
        return Err(error);
    }
    Ok(Started { core, notices, threads })
}

/// What an earlier daemon left in force; nothing after a fresh start.
fn inherited_table(kernel: &Kernel) -> Table {
    match kernel.origin() {
        Origin::Fresh => {
            let pins = kernel.posture().mechanisms.iter().find(|mechanism| mechanism.name == "bpffs/pins");
            if let Some(State::Absent { why }) = pins.map(|pins| &pins.state) {
                tracing::warn!(why, "nothing is pinned: enforcement ends with this process");
            }
        }
        Origin::Adopted => tracing::info!("what an earlier daemon pinned goes on"),
        Origin::Replaced(why) => tracing::info!(why, "what an earlier daemon pinned was taken over"),
    }
    Table {
        inherited: kernel.inherited_profiles().into_iter().collect(),
        // In force, and not known which: unlike any that is compiled.
        exe_claims: kernel.claims_in_force().then(Vec::new),
        ..Table::default()
    }
}

/// Profiles, claims, living agents.
fn put_in_force(core: &Core, directory: Directory) -> Result<(), DaemonError> {
    let reloaded = core.start_with(directory).map_err(|refusal| DaemonError::Profiles(refusal.message))?;
    let refused: Vec<_> = reloaded
        .profiles
        .iter()
        .filter_map(|profile| Some((profile.code?, profile.error.clone()?)))
        .collect();
    if !refused.is_empty() {
        let text = refused.iter().map(|(_, error)| error.as_str()).collect::<Vec<_>>().join("\n\n");
        let any = |wanted: Code| refused.iter().any(|(code, _)| *code == wanted);
        return Err(if any(Code::BadProfile) {
            DaemonError::Profiles(text)
        } else if any(Code::CannotEnforce) {
            DaemonError::CannotEnforce(text)
        } else {
            DaemonError::Install(text)
        });
    }
    for held in core.table().slots.values() {
        for gap in &held.gaps {
            tracing::warn!(profile = %held.profile.name, mechanism = gap.mechanism, why = %gap.why,
                "degraded; blind: {}", gap.blind);
        }
    }
    core.release_inherited();
    for left in core.table().inherited.values() {
        tracing::warn!(profile = %left.name,
            "the file of a profile with living agents is gone: they stay under the rules that they had");
    }
    core.scan();
    core.kernel().commit().map_err(DaemonError::Pins)
}

/// Everything that happens between "ready" and the end.
async fn work(
    core: &Arc<Core>,
    mut notices: UnboundedReceiver<Notice>,
    hangups: &mut tokio::signal::unix::Signal,
    shutdown: impl Future<Output = ()>,
) {
    let mut events_end = false;
    let mut tidy = interval(TIDY);
    let mut watch = interval(WATCH_CGROUPS);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lease = interval(leases::LOOK);
    lease.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(shutdown);
    loop {
        // Everything below talks to the kernel and may wait for it: never on the thread that serves clients.
        let core = Arc::clone(core);
        let watches_cgroups = core.watches_cgroups.load(Ordering::Acquire);
        let has_leases = core.has_leases.load(Ordering::Acquire);
        tokio::select! {
            () = &mut shutdown => return,
            () = core.stop.notified() => return,
            notice = notices.recv(), if !events_end => match notice {
                Some(notice) => blocking(move || match notice {
                    Notice::Started(info) => {
                        tracing::info!(agent = %info.id, profile = %info.profile, root = info.root, "agent, by its exec");
                        core.note_agent(&info);
                        core.label_held_sockets(&info);
                        core.sync_syscall_hook();
                    }
                    Notice::Ended(info) => core.agent_ended(&info),
                }).await,
                None => {
                    // Serve what can be served, `tidy` finds the ended agents; whoever watches /healthz decides.
                    events_end = true;
                    core.events_ended.store(true, Ordering::Release);
                    tracing::error!("the event thread ended: verdicts go on, events are lost");
                }
            },
            Some(()) = hangups.recv() => {
                blocking(move || {
                    if let Err(refusal) = core.reload(None) {
                        tracing::error!(%refusal, "nothing was reloaded");
                    }
                }).await;
            }
            _ = tidy.tick() => blocking(move || core.tidy()).await,
            _ = lease.tick(), if has_leases => blocking(move || core.end_leases()).await,
            _ = watch.tick(), if watches_cgroups => blocking(move || core.watch_cgroups()).await,
        }
    }
}

async fn blocking(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%error, "a task of the daemon failed");
    }
}

/// Reads what is left in the rings, then ends the threads.
async fn drain(core: &Core, threads: Threads) {
    core.injector.stop();
    let joined = tokio::task::spawn_blocking(move || {
        let events = threads.events.join();
        let file = threads.file.map_or(Ok(()), JoinHandle::join);
        events.is_ok() && file.is_ok()
    });
    match tokio::time::timeout(DRAIN, joined).await {
        Ok(Ok(true)) => tracing::info!("drained"),
        Ok(_) => tracing::error!("the event thread failed"),
        Err(_) => tracing::error!(seconds = DRAIN.as_secs(), "the rings did not drain in time"),
    }
    // Those of agents whose end was among the last records; a living agent keeps its own.
    for directory in cgroup::children(&Settings::agents_cgroup(&core.governed)) {
        cgroup::remove(&directory);
    }
}

/// Tells systemd; nobody listens when it did not start this.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd can't be told");
    }
}

/// Tells agents of their denials. Without the socket everything else goes on.
fn serve_notices(core: &Arc<Core>, until: impl Future<Output = ()> + Send + 'static) {
    let path = core.settings.notices();
    match server::listen_for_all(&path) {
        Ok(listener) => {
            let teller: Arc<dyn Teller> = Arc::clone(core) as _;
            tokio::spawn(async move {
                notices::serve(listener, teller, until).await;
                // One that stays is found dead by the next daemon.
                let _ = std::fs::remove_file(&path);
            });
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no agent is told of its denials: the socket can't be made");
        }
    }
}

impl Teller for Core {
    fn agent_of(&self, pid: u32) -> Option<ulid::Ulid> {
        let label = self.kernel().label_of(pid)?;
        self.registry.find(label.agent).map(|info| info.id)
    }

    fn take(&self, agent: ulid::Ulid) -> Vec<u8> {
        self.denials.take(agent)
    }
}

/// The daemon as the control server sees it.
struct Served(Arc<Core>);

impl Handler for Served {
    fn is_labelled(&self, pid: u32) -> bool {
        self.0.kernel().is_labelled(pid)
    }

    fn control_group(&self) -> Option<u32> {
        self.0.settings.control_gid
    }

    fn answer(&self, op: Op, from: Peer) -> Result<Box<RawValue>, Refusal> {
        let core = &self.0;
        let answer = match op {
            Op::Status => serde_json::value::to_raw_value(&core.status()),
            Op::Reload { profile } => serde_json::value::to_raw_value(&core.reload(profile.as_deref())?),
            Op::Enforcement { profile } => serde_json::value::to_raw_value(&core.enforcement(&profile)?),
            Op::Run { profile, confined } => {
                serde_json::value::to_raw_value(&core.run_agent(from.pid, &profile, confined)?)
            }
            Op::Attach { pid, profile } => {
                serde_json::value::to_raw_value(&core.attach_agent(pid, &profile, from)?)
            }
            Op::Stop if from.uid != 0 => {
                return Err(Refusal::new(Code::NotPermitted, "only root may end the daemon"));
            }
            Op::Stop => {
                core.stop.notify_one();
                serde_json::value::to_raw_value(&serde_json::Map::new())
            }
            Op::Events { .. } => {
                return Err(Refusal::new(Code::BadRequest, "events are followed, not asked for"));
            }
        };
        answer.map_err(|error| Refusal::new(Code::Kernel, error.to_string()))
    }

    fn follow(&self, filter: Filter) -> Result<Subscription, Refusal> {
        self.0.followers.subscribe(filter).map_err(|full| Refusal::new(Code::Busy, full.to_string()))
    }
}
