//! Metrics of the resolver.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::{Maker, at, raise, signed};
use crate::resolver::server::Outcome;

/// Totals of the resolver.
#[derive(Clone, Debug, Default)]
pub struct NamesSample {
    /// Its thread runs.
    pub running: bool,
    /// By position in [`Outcome::ALL`].
    pub lookups: Vec<u64>,
    /// Addresses that may not answer for a name.
    pub rebinding: u64,
    /// Questions with a label that looks like data.
    pub odd: u64,
    /// Windows in which an agent asked as a tunnel would.
    pub tunnels: u64,
    /// Addresses that stand for a name now.
    pub live: u64,
    /// Addresses that are kept, expired ones included.
    pub kept: u64,
    /// Addresses that found no room.
    pub full: u64,
    /// Addresses that stood for more kinds of names than the kernel keeps.
    pub crowded: u64,
}

#[derive(Debug)]
pub(super) struct NamesMetrics {
    running: IntGauge,
    lookups: IntCounterVec,
    rebinding: IntCounter,
    odd: IntCounter,
    tunnels: IntCounter,
    live: IntGauge,
    kept: IntGauge,
    dropped: IntCounterVec,
}

impl NamesMetrics {
    pub(super) fn new(make: &Maker) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| make.add(IntCounter::new(name, help));
        Ok(NamesMetrics {
            running: make
                .gauge("agent_monitor_resolver_running", "1: agents' granted names are resolved.")?,
            lookups: make.counters(
                "agent_monitor_lookups_total",
                "Questions of agents about names, by what became of them.",
                &["outcome"],
            )?,
            rebinding: counter(
                "agent_monitor_rebinding_total",
                "Addresses that answered for a granted name and may not: local ones, and the host's own.",
            )?,
            odd: counter(
                "agent_monitor_odd_lookups_total",
                "Questions of agents with a label that looks like data.",
            )?,
            tunnels: counter(
                "agent_monitor_tunnels_total",
                "Minutes in which an agent asked for names as a tunnel would.",
            )?,
            live: make
                .gauge("agent_monitor_named_addresses", "Addresses that stand for a granted name now.")?,
            kept: make.gauge(
                "agent_monitor_named_addresses_kept",
                "Addresses that stand for a granted name or did within a day, for flows that go on; 131072 at most.",
            )?,
            dropped: make.counters(
                "agent_monitor_named_dropped_total",
                "Addresses that were not granted: no room for more, or for more kinds of names of one.",
                &["reason"],
            )?,
        })
    }

    pub(super) fn update(&self, now: &NamesSample) {
        self.running.set(i64::from(now.running));
        for (position, outcome) in Outcome::ALL.iter().enumerate() {
            raise(&self.lookups.with_label_values(&[outcome.as_str()]), at(&now.lookups, position));
        }
        raise(&self.rebinding, now.rebinding);
        raise(&self.odd, now.odd);
        raise(&self.tunnels, now.tunnels);
        self.live.set(signed(now.live));
        self.kept.set(signed(now.kept));
        raise(&self.dropped.with_label_values(&["full"]), now.full);
        raise(&self.dropped.with_label_values(&["crowded"]), now.crowded);
    }
}
