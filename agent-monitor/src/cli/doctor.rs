//! `agent-monitor doctor`: what this host can enforce, and what to change where it can't.
//!
//! Needs no daemon. Where it may, it loads every program for a moment against an empty cgroup of its own, because the
//! only honest answer to "does this kernel run it" is the kernel's.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::{print, table};
use crate::agent::{landlock, seccomp};
use crate::control::protocol::MechanismStatus;
use crate::daemon::report;
use crate::exit::Exit;
use crate::kernel::{Features, Kernel, LoadOptions, Posture, check_privileges};
use crate::resolver::outlook::{self, Servers};
use crate::resolver::server;

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    kernel: String,
    checks: Vec<Check>,
    /// Empty where the programs could not be tried.
    mechanisms: Vec<MechanismStatus>,
    /// Whether names that rules grant can be resolved.
    names: Names,
    /// What stands in for commands that `run` starts where LSM programs are not to be had.
    stand_ins: StandIns,
    /// Whether a profile that uses everything could be enforced.
    enforces_everything: bool,
}

/// See [`Findings::names`].
#[derive(Debug, Serialize)]
struct Names {
    /// The kernel leads agents' questions to the resolver; `None`: not tried.
    redirected: Option<bool>,
    #[serde(flatten)]
    servers: Servers,
}

impl Names {
    fn find(mechanisms: &[MechanismStatus]) -> Self {
        let works = |name: &str| mechanisms.iter().any(|found| found.name == name && found.works);
        Names {
            redirected: (!mechanisms.is_empty()).then(|| outlook::REDIRECT.iter().all(|name| works(name))),
            servers: Servers::of(&server::Options::default()),
        }
    }

    fn describe(&self) -> Vec<Vec<String>> {
        let redirect = match self.redirected {
            Some(true) => "what agents send to port 53 goes to the daemon's resolver",
            Some(false) => "the kernel refused a program above, so no name exists for agents",
            None => "not tried",
        };
        let row = |ok: bool, what: &str, found: String| {
            vec![if ok { "ok" } else { "MISSING" }.to_owned(), what.to_owned(), found]
        };
        vec![
            row(self.redirected == Some(true), "questions", redirect.to_owned()),
            row(self.servers.source.is_some(), "servers", self.servers.describe()),
        ]
    }
}

/// See [`Findings::stand_ins`].
#[derive(Debug, Serialize)]
struct StandIns {
    /// Version of the kernel's Landlock; 0: none.
    landlock: i32,
    seccomp: bool,
}

impl StandIns {
    fn find() -> Self {
        StandIns { landlock: landlock::kernel_abi(), seccomp: seccomp::in_kernel() }
    }

    fn describe(&self) -> Vec<Vec<String>> {
        let landlock = match self.landlock {
            0 => "no: build the kernel with CONFIG_SECURITY_LANDLOCK=y, and boot with landlock in lsm="
                .to_owned(),
            old if old < landlock::NEEDED_ABI => format!("version {old}: too old, kernel 5.19 is needed"),
            version => {
                let tells = if version >= landlock::AUDIT_ABI {
                    "its denials go to the kernel's audit log, and are no events here"
                } else {
                    "it tells of no denial"
                };
                format!("version {version}: files and programs of `run --allow-degraded`; {tells}")
            }
        };
        let seccomp = match self.seccomp {
            true => {
                "socket families and listed system calls of `run --allow-degraded`; it tells of no denial"
            }
            false => "no: build the kernel with CONFIG_SECCOMP_FILTER=y",
        };
        let mark = |works: bool| if works { "ok" } else { "MISSING" }.to_owned();
        vec![
            vec![mark(self.landlock >= landlock::NEEDED_ABI), "landlock".to_owned(), landlock],
            vec![mark(self.seccomp), "seccomp".to_owned(), seccomp.to_owned()],
        ]
    }
}

/// One property of the host.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    found: String,
    /// What to do where it is not ok.
    next: Option<String>,
}

impl Check {
    fn new(what: &'static str, found: Result<String, (String, String)>) -> Self {
        match found {
            Ok(found) => Check { what, ok: true, found, next: None },
            Err((found, next)) => Check { what, ok: false, found, next: Some(next) },
        }
    }
}

/// Looks, tries and prints. Exit code 0 where everything can be enforced, else 69.
///
/// # Errors
/// When standard output can't be written.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let features = Features::read();
    let mut checks = host(&features);
    let mut mechanisms = Vec::new();
    match (&features.cgroup2, check_privileges().is_empty()) {
        (Some(mount), true) => match probe(mount) {
            Ok(found) => mechanisms = report::mechanisms(&found),
            Err((found, next)) => checks.push(Check::new("programs", Err((found, next)))),
        },
        _ => checks.push(Check::new(
            "programs",
            Err(("not tried".to_owned(), "mend what is missing above, and run doctor again".to_owned())),
        )),
    }
    let enforces_everything = checks.iter().all(|check| check.ok) && mechanisms.iter().all(held);
    let findings = Findings {
        kernel: features.release.clone(),
        checks,
        names: Names::find(&mechanisms),
        mechanisms,
        stand_ins: StandIns::find(),
        enforces_everything,
    };
    let text = match args.json {
        true => serde_json::to_string_pretty(&findings)? + "\n",
        false => describe(&findings, &features),
    };
    print(&text)?;
    Ok(if enforces_everything { ExitCode::SUCCESS } else { Exit::CannotEnforce.into() })
}

fn host(features: &Features) -> Vec<Check> {
    let release = &features.release;
    let kernel = match version(release) {
        Some(found) if found >= (6, 1) => Ok(release.clone()),
        Some(_) => Err((release.clone(), "use kernel 6.1 or newer".to_owned())),
        None => Err((release.clone(), "this version can't be read; 6.1 or newer is needed".to_owned())),
    };
    let btf = match features.btf {
        true => Ok("/sys/kernel/btf/vmlinux".to_owned()),
        false => Err((
            "missing".to_owned(),
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y (every Debian kernel)".to_owned(),
        )),
    };
    let cgroup = match &features.cgroup2 {
        Some(mount) => Ok(format!("mounted at {}", mount.display())),
        None => Err(("not mounted".to_owned(), "mount -t cgroup2 none /sys/fs/cgroup/unified".to_owned())),
    };
    let lsm = match (features.bpf_lsm_listed(), &features.lsms) {
        (Some(true), Some(lsms)) => Ok(lsms.join(",")),
        (Some(false), Some(lsms)) => {
            let lsms = lsms.join(",");
            let next = format!("boot with lsm={lsms},bpf (add it to GRUB_CMDLINE_LINUX)");
            Err((format!("{lsms}: no bpf, so LSM programs would never be called"), next))
        }
        _ => Err((
            "unknown: securityfs is not mounted".to_owned(),
            "mount -t securityfs none /sys/kernel/security; if that fails the kernel has no LSM to use"
                .to_owned(),
        )),
    };
    let lacking = check_privileges();
    let capabilities = match lacking.as_slice() {
        [] => Ok("all there".to_owned()),
        lacking => {
            let names: Vec<_> =
                lacking.iter().map(|missing| format!("{} ({})", missing.name, missing.why)).collect();
            Err((format!("missing: {}", names.join(", ")), "run doctor and the daemon as root".to_owned()))
        }
    };
    vec![
        Check::new("kernel", kernel),
        Check::new("type information", btf),
        Check::new("cgroup v2", cgroup),
        Check::new("security modules", lsm),
        Check::new("capabilities", capabilities),
    ]
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Loads everything for a moment, against an empty cgroup that nobody is in.
pub(super) fn probe(mount: &Path) -> Result<Posture, (String, String)> {
    let cgroup = mount.join(format!("agent-monitor-doctor-{}", std::process::id()));
    fs::create_dir(&cgroup).map_err(|error| {
        (
            format!("no cgroup can be made in {}: {error}", mount.display()),
            "mount cgroup v2 writable".to_owned(),
        )
    })?;
    let loaded = Kernel::load(&LoadOptions::new(&cgroup));
    let found = match &loaded {
        Ok(kernel) => Ok(kernel.posture().clone()),
        Err(error) => Err((
            error.to_string(),
            "agents can't be governed on this kernel; a stock Debian 12 or newer kernel can".to_owned(),
        )),
    };
    drop(loaded);
    if let Err(error) = fs::remove_dir(&cgroup) {
        eprintln!("agent-monitor: {} stays behind: {error}", cgroup.display());
    }
    found
}

/// Whether what a mechanism is for is seen here.
fn held(found: &MechanismStatus) -> bool {
    found.works || found.instead.is_some()
}

fn describe(findings: &Findings, features: &Features) -> String {
    let mut text = String::from("Host\n");
    let rows: Vec<_> = findings
        .checks
        .iter()
        .map(|check| {
            let mark = if check.ok { "ok" } else { "MISSING" };
            vec![mark.to_owned(), check.what.to_owned(), check.found.clone()]
        })
        .collect();
    text.push_str(&table::render(&rows));
    if !findings.mechanisms.is_empty() {
        text.push_str("\nMechanisms\n");
        let rows: Vec<_> = findings
            .mechanisms
            .iter()
            .map(|found| {
                let mark = if held(found) { "ok" } else { "BLIND" };
                let words = match (&found.instead, &found.why) {
                    (Some(other), Some(why)) => format!("not needed: {why}, {other} sees its calls"),
                    (_, Some(why)) => format!("{}: {why}", found.blind),
                    (_, None) => found.state.clone(),
                };
                vec![mark.to_owned(), found.name.clone(), words]
            })
            .collect();
        text.push_str(&table::render(&rows));
    }
    text.push_str("\nNames (rules by `host`)\n");
    text.push_str(&table::render(&findings.names.describe()));
    text.extend(findings.names.servers.next.iter().map(|next| format!("  next: {next}\n")));
    text.push_str("\nStand-ins\n");
    text.push_str(&table::render(&findings.stand_ins.describe()));
    let mut steps: Vec<String> = findings.checks.iter().filter_map(|check| check.next.clone()).collect();
    if findings.mechanisms.iter().any(|found| !held(found) && found.name.starts_with("lsm/"))
        && features.bpf_lsm_listed() != Some(false)
    {
        steps.push("this kernel refuses LSM programs: use a stock kernel with CONFIG_BPF_LSM=y, or accept what is BLIND above with --allow-degraded".to_owned());
    }
    if findings.enforces_everything {
        text.push_str("\nEverything that a profile can ask is enforced here.\n");
    } else {
        text.push_str("\nNot everything can be enforced here. A profile in mode enforce is refused (exit 69) unless the daemon has --allow-degraded; then agents that `run --allow-degraded` starts are held by the stand-ins, and claimed or attached ones are not.\n");
        text.extend(steps.iter().map(|step| format!("  next: {step}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        assert_eq!(version("6.12.9-cloud-amd64"), Some((6, 12)));
        assert!(version("6.12.9") > version("6.1.0"));
        assert!(version("5.15.0") < version("6.1"));
        assert_eq!(version("none"), None);
    }
}
