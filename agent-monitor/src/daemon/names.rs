//! The resolver as a part of the daemon: its start, its end, and what it tells.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};

use agent_monitor_common::counters::{Effect, Mode};

use super::core::Core;
use super::pipeline::own_event;
use crate::control::protocol::MechanismStatus;
use crate::event::escape;
use crate::event::model::{Agent, EventType, Id, Lookup, Process, Verdict, VerdictEffect};
use crate::metrics::names::NamesSample;
use crate::policy;
use crate::resolver::outlook;
use crate::resolver::server::{self, Why};

/// Starts to resolve names. Without it the rest works, and no name exists for any agent.
pub fn serve(core: &Arc<Core>) {
    let weak: Weak<Core> = Arc::downgrade(core);
    let tell = move |lookup: server::Lookup| {
        if let Some(core) = weak.upgrade() {
            core.tell_lookup(&lookup);
        }
    };
    match server::start(Arc::clone(&core.names), core.settings.resolver(), tell) {
        Ok(resolver) => {
            tracing::info!(port = resolver.place.port, "names are resolved");
            *core.resolver.lock().unwrap_or_else(PoisonError::into_inner) = Some(resolver);
        }
        Err(error) => tracing::error!(%error, "names can't be resolved: none exists for any agent"),
    }
}

/// Ends it.
pub fn end(core: &Core) {
    drop(core.resolver.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Core {
    /// Whether it runs.
    pub fn resolver_status(&self) -> MechanismStatus {
        let resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        outlook::mechanism(resolver.as_ref().map(|resolver| resolver.place.port))
    }

    /// What the resolver counted.
    pub fn names_sample(&self) -> NamesSample {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sample = NamesSample {
            running: resolver.is_some(),
            live: self.names.live() as u64,
            kept: self.names.kept() as u64,
            full: read(&self.names.counts.full),
            crowded: read(&self.names.counts.crowded),
            ..NamesSample::default()
        };
        if let Some(resolver) = resolver.as_ref() {
            sample.lookups = resolver.totals.lookups.iter().map(read).collect();
            sample.rebinding = read(&resolver.totals.rebinding);
            sample.odd = read(&resolver.totals.odd);
            sample.tunnels = read(&resolver.totals.tunnels);
        }
        sample
    }

    fn tell_lookup(&self, lookup: &server::Lookup) {
        let profile = &lookup.in_force.profile;
        let mut event = own_event(EventType::Dns);
        event.agent = Some(Agent {
            id: self.registry.find(lookup.asker.agent).map(|info| Id(info.id)),
            profile: profile.name.clone().into(),
            origin: None,
        });
        event.process = (lookup.asker.tgid != 0).then(|| Process::numbered(lookup.asker.tgid));
        let (refused, reason, tally) = match &lookup.what {
            Why::Denied => (Vec::new(), "default-deny", None),
            Why::Rebinding(addresses) => (addresses.clone(), "rebinding", None),
            Why::Tunnel(tally) => (Vec::new(), "tunnel", Some(*tally)),
        };
        event.lookup = Some(Lookup {
            name: escape::text(lookup.name.as_bytes()).into_owned().into(),
            r#type: lookup.kind.clone().into(),
            refused,
            questions: tally.map(|tally| tally.questions),
            names: tally.map(|tally| tally.names),
            odd: tally.map(|tally| tally.odd),
        });
        if lookup.what.is_sign() {
            // Seen, not judged: what is denied of it has events of its own.
            self.injector.send(event);
            return;
        }
        let mode = match profile.mode {
            policy::Mode::Learn => Mode::Learn,
            policy::Mode::Audit => Mode::Audit,
            policy::Mode::Enforce => Mode::Enforce,
        };
        event.verdict = Some(Verdict {
            effect: VerdictEffect::of(Effect::Deny, mode),
            mode: mode.name().into(),
            errno: None,
            rule: Some(format!("{}:network.default", profile.name).into()),
            source: Some(profile.network.source.to_string().into()),
            reason: reason.into(),
            mechanism: "resolver".into(),
            generation: lookup.in_force.generation,
        });
        self.injector.send(event);
    }
}
