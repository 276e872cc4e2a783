//! Which mechanism of a kernel enforces each rule of a profile: `check --kernel`.
//!
//! What must stay true: a rule is said to be enforced only by a mechanism that was seen to work (`this`), or that the
//! kernel asked about has by definition.

use anyhow::Context;
use serde::Serialize;

use super::{doctor, table};
use crate::agent::landlock::{self, Bounds, Expressed, Plan};
use crate::kernel::{Features, IMA, Posture};
use crate::policy::diagnostic::printable;
use crate::policy::{Mode, ResolvedProfile, Targets, compile};

/// The kernel that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Of {
    /// This one; needs root, since the programs must be loaded to know.
    This,
    /// One that runs BPF LSM programs.
    Lsm,
    /// One without BPF LSM and with Landlock, for agents that `run` starts; the
    /// files are those of this host.
    Landlock,
    /// One with neither.
    None,
}

/// What that kernel has.
#[derive(Debug)]
pub(super) struct Found {
    /// Of [`Of::This`] only.
    posture: Option<Posture>,
    lsm: bool,
    /// Version of its Landlock; 0: none.
    landlock: i32,
    seccomp: bool,
}

impl Found {
    pub(super) fn find(of: Of) -> anyhow::Result<Self> {
        let of_lsm = |lsm, landlock, seccomp| Found { posture: None, lsm, landlock, seccomp };
        Ok(match of {
            Of::Lsm => of_lsm(true, 0, false),
            Of::None => of_lsm(false, 0, false),
            // The newest that is needed for nothing to be missing; what this host has says nothing about the other.
            Of::Landlock => of_lsm(false, landlock::SIGNAL_ABI, true),
            Of::This => {
                let mount = Features::read().cgroup2.context("no cgroup v2 hierarchy is mounted")?;
                let posture = doctor::probe(&mount).map_err(|(found, next)| {
                    anyhow::anyhow!("this kernel can't be asked: {found}\n{next}; `--kernel lsm`, `landlock` and `none` ask about others")
                })?;
                let seccomp = crate::agent::seccomp::in_kernel();
                let lsm = posture.works("lsm/file_open");
                Found { posture: Some(posture), lsm, landlock: landlock::kernel_abi(), seccomp }
            }
        })
    }

    /// What it does about `profile`.
    pub(super) fn enforces(&self, profile: &ResolvedProfile) -> Enforcement {
        let gaps = match &self.posture {
            // As if it enforced: a profile that observes is asked about what it would do.
            Some(posture) => posture.missing_for(&ResolvedProfile { mode: Mode::Enforce, ..profile.clone() }),
            None => Vec::new(),
        };
        let sections = profile.filesystem.is_some() || profile.exec.is_some() || profile.privileges.is_some();
        let sections_of_lsm = sections || profile.unix.is_some();
        let plan = match (self.lsm || self.landlock < landlock::NEEDED_ABI, compile::profile(profile)) {
            (false, Ok(image)) => Some(landlock::plan(&image.words, Bounds::default())),
            // The kernel does it, or nothing; a profile that can't be compiled had errors before.
            _ => None,
        };
        let asked =
            gaps.iter().any(|gap| gap.asked) || self.posture.is_none() && !self.lsm && sections_of_lsm;
        let missing: Vec<String> =
            gaps.iter().map(|gap| format!("{}: {} ({})", gap.mechanism, gap.blind, gap.why)).collect();
        let mut rules = self.paths(profile, plan.as_ref());
        if profile.privileges.is_some() {
            rules.extend(self.privileges(profile, plan.as_ref()));
        }
        rules.extend(self.unix(profile));
        let works = |name: &str, lsm: bool| match &self.posture {
            Some(posture) => posture.works(name),
            None => lsm,
        };
        let (mechanism, differs) = match works("lsm.s/bprm_check_security", self.lsm) {
            true if works(IMA, true) => ("lsm, digest by IMA", None),
            true => (
                "lsm, digest by the daemon",
                Some("a content that changes without a trace in the file's times is not noticed"),
            ),
            false if self.lsm => (
                "lsm, in part",
                Some("runs with any content: the kernel refuses the program that asks for it"),
            ),
            false if self.landlock >= landlock::NEEDED_ABI => {
                ("landlock, in part", Some("runs with any content: Landlock knows no digests"))
            }
            false => ("nothing", None),
        };
        for rule in profile.exec.iter().flat_map(|exec| &exec.pinned) {
            rules.push(Row {
                rule: rule.id.clone(),
                what: rule.glob.clone(),
                source: Some(rule.source.to_string()),
                mechanism,
                differs: differs.into_iter().map(str::to_owned).collect(),
            });
        }
        let sockets = match works("lsm/socket_create", self.lsm) {
            true => ("lsm", None),
            false if self.seccomp => ("seccomp", Some("for `run --allow-degraded` only, and without events")),
            false => ("nothing", None),
        };
        rules.push(Row {
            rule: format!("{}:network", profile.name),
            what: "addresses, ports and protocols".to_owned(),
            source: None,
            mechanism: "cgroup",
            differs: Vec::new(),
        });
        rules.push(Row {
            rule: format!("{}:network.sockets", profile.name),
            what: "socket families beyond AF_INET, AF_INET6 and AF_UNIX".to_owned(),
            source: None,
            mechanism: sockets.0,
            differs: sockets.1.into_iter().map(str::to_owned).collect(),
        });
        for call in &profile.syscalls {
            let traced = works("raw_tp/sys_enter", true);
            let differs = match (call.kill, traced) {
                (true, true) => Some("the call has begun when its caller is killed"),
                (true, false) if self.seccomp => Some("for `run --allow-degraded` only, and without events"),
                _ => None,
            };
            let mechanism = match traced {
                true => "raw_tp/sys_enter",
                false if call.kill && self.seccomp => "seccomp",
                false => "nothing",
            };
            rules.push(Row {
                rule: call.id.clone(),
                what: call.name.clone(),
                source: Some(call.source.to_string()),
                mechanism,
                differs: differs.into_iter().map(str::to_owned).collect(),
            });
        }
        let unseen = plan.as_ref().map(|plan| landlock::unseen(plan, self.landlock)).unwrap_or_default();
        Enforcement { rules, missing, unseen, degraded: profile.mode == Mode::Enforce && asked }
    }

    /// Unix sockets, for which nothing stands in.
    fn unix(&self, profile: &ResolvedProfile) -> Vec<Row> {
        let mechanism = if self.lsm { "lsm" } else { "nothing" };
        let rules = profile.unix.iter().flat_map(|unix| [&unix.allow, &unix.deny]).flatten();
        let rows = rules.map(|rule| Row {
            rule: rule.id.clone(),
            what: rule.glob.clone(),
            source: Some(rule.source.to_string()),
            mechanism,
            differs: Vec::new(),
        });
        rows.collect()
    }

    /// What holds each privilege that is not granted.
    fn privileges(&self, profile: &ResolvedProfile, plan: Option<&Plan>) -> Vec<Row> {
        let Some(policy) = &profile.privileges else { return Vec::new() };
        let seccomp = if self.seccomp { "seccomp" } else { "nothing" };
        let landlock = if plan.is_some() { "landlock" } else { "nothing" };
        let scoped = if self.landlock >= landlock::SIGNAL_ABI { landlock } else { "nothing" };
        let run = "no_new_privs, capset";
        // Which are granted, and what holds the others for a command of `run`.
        let stand_ins = [
            ("capabilities", false, run),
            ("setuid", policy.setuid.value, run),
            ("user_namespaces", policy.user_namespaces.value, seccomp),
            ("ptrace", policy.ptrace.value == Targets::Any, landlock),
            ("signals", policy.signals.value == Targets::Any, scoped),
            ("mounts", policy.mounts.value, seccomp),
            ("modules", policy.modules.value, seccomp),
            ("bpf", policy.bpf.value, seccomp),
            ("perf", policy.perf.value, seccomp),
            ("io_uring", false, seccomp),
        ];
        let denied = stand_ins.into_iter().filter(|(_, granted, _)| !granted);
        denied
            .map(|(key, _, stand_in)| Row {
                rule: format!("{}:privileges.{key}", profile.name),
                what: "what is not granted".to_owned(),
                source: Some(policy.source.to_string()),
                mechanism: match (self.lsm, plan) {
                    (true, _) => "lsm",
                    (false, Some(_)) => stand_in,
                    (false, None) => "nothing",
                },
                differs: match (self.lsm, plan, key) {
                    (false, Some(_), "io_uring") => vec!["no io_uring at all, granted or not".to_owned()],
                    _ => Vec::new(),
                },
            })
            .collect()
    }

    fn paths(&self, profile: &ResolvedProfile, plan: Option<&Plan>) -> Vec<Row> {
        let row = |rule: &crate::policy::PathRule, mechanism, differs| Row {
            rule: rule.id.clone(),
            what: rule.glob.clone(),
            source: Some(rule.source.to_string()),
            mechanism,
            differs,
        };
        let Some(plan) = plan else {
            let whole = self.posture.as_ref().is_none_or(Posture::sees_paths);
            let mechanism = match (self.lsm, whole) {
                (true, true) => "lsm",
                (true, false) => "lsm, in part",
                (false, _) => "nothing",
            };
            let files = profile.filesystem.iter().flat_map(|files| [&files.read, &files.write, &files.deny]);
            let exec = profile.exec.iter().flat_map(|exec| [&exec.allow, &exec.deny]);
            return files.chain(exec).flatten().map(|rule| row(rule, mechanism, Vec::new())).collect();
        };
        let reports = landlock::report(profile, plan).into_iter();
        reports
            .map(|report| match report.expressed {
                Expressed::Exactly => row(report.rule, "landlock", Vec::new()),
                Expressed::Approximately(differs) => row(report.rule, "landlock, in part", differs),
                Expressed::Not(why) => row(report.rule, "nothing", vec![why]),
            })
            .collect()
    }
}

/// What a kernel does about a profile.
#[derive(Debug, Serialize)]
pub(super) struct Enforcement {
    rules: Vec<Row>,
    /// What this kernel lacks of what the profile asks.
    missing: Vec<String>,
    /// What the stand-ins never see.
    unseen: Vec<&'static str>,
    /// The profile enforces, and a section of its is left to the stand-ins or to nothing: the daemon takes it only
    /// with `--allow-degraded`.
    pub(super) degraded: bool,
}

/// One rule.
#[derive(Debug, Serialize)]
struct Row {
    rule: String,
    /// As it was written, or in words.
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    mechanism: &'static str,
    /// How the mechanism differs from the rule.
    differs: Vec<String>,
}

impl Enforcement {
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        let rows: Vec<_> = self
            .rules
            .iter()
            .map(|row| vec![row.rule.clone(), printable(&row.what), row.mechanism.to_owned()])
            .collect();
        for (row, line) in self.rules.iter().zip(table::render(&rows).lines()) {
            text.extend(["  ", line, "\n"]);
            text.extend(row.differs.iter().map(|differs| format!("      {differs}\n")));
        }
        if !self.missing.is_empty() {
            text.push_str("  This kernel lacks what the profile asks for. Unseen here:\n");
            text.extend(self.missing.iter().map(|what| format!("      {}\n", printable(what))));
        }
        if !self.unseen.is_empty() {
            text.push_str("  Landlock and seccomp hold agents that `run` starts, and tell of no denial. They do not see:\n");
            text.extend(self.unseen.iter().map(|what| format!("      {what}\n")));
        }
        if self.degraded {
            text.push_str(
                "  Not enforced for claimed and attached agents: taken with --allow-degraded only\n",
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F13: what files are opened is judged, what is created, removed or renamed would not be.
    #[test]
    fn a_kernel_without_path_hooks_is_refused_and_told_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p.yaml");
        let text = "version: 1\nname: p\nmode: enforce\nfiles: { read: [/usr/**] }\n";
        let asked = |text: &str, posture: Posture| {
            std::fs::write(&file, text).unwrap();
            let profile = crate::policy::load_profile(&file, &[]).unwrap().profile;
            let lsm = posture.works("lsm/file_open");
            Found { posture: Some(posture), lsm, landlock: 0, seccomp: false }.enforces(&profile)
        };
        let found = asked(text, Posture::without_path_hooks());
        assert!(found.degraded, "exit 69");
        let of = |found: &Enforcement| {
            found.rules.iter().find(|row| row.rule == "p:files.read[0]").map(|row| row.mechanism)
        };
        assert_eq!(of(&found), Some("lsm, in part"));
        let said = found.describe();
        for hook in [
            "path_mknod",
            "path_mkdir",
            "path_unlink",
            "path_rmdir",
            "path_rename",
            "path_link",
            "path_symlink",
            "path_truncate",
            "path_chmod",
            "path_chown",
        ] {
            assert!(said.contains(&format!("lsm/{hook}: ")), "{hook} in {said}");
        }
        let whole = asked(text, Posture::lacking(|_| None));
        assert!(!whole.degraded && whole.missing.is_empty() && of(&whole) == Some("lsm"));
        let network = asked(&text.replace("files: { read: [/usr/**] }\n", ""), Posture::without_path_hooks());
        assert!(!network.degraded && network.missing.is_empty(), "it asks for no path");
    }
}
