//! F17: an enforcing profile denies where a helper of the kernel side fails, and counts it by site.
//!
//! In the build with `fault-injection` the tests are these, and no others. Each takes an operation that its profile grants
//! and lets a helper fail that a hook of the operation needs. The twin is the same failure under the same profile in mode
//! `audit`, where it goes through and is counted; of a failure that hides the mode itself (no label, no image) it is the
//! operation without the failure.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use agent_monitor_common::counters::{Ring, Site};
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::Name;
use agent_monitor_tests::world::{AGENT4, GRANTED4, GRANTED6};
use agent_monitor_tests::{Attempt, Child, Failure, Socket};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack;
use crate::files::{at, plant, read, run};
use crate::lab::{Lab, in_audit};
use crate::network_out::mapped;

/// Grants everything that the operations do.
const PROFILE: &str = "\
version: 1
name: faulty
mode: enforce
network:
  allow:
    - { cidr: 10.9.0.3/32, ports: [7000-7099], protocol: any }
    - { cidr: 'fd09::3/128', ports: [7000-7099], protocol: any }
  listen:
    - { address: 10.9.0.1, ports: [7100-7109], protocol: tcp }
";

/// What the operations on files need besides; only where the kernel can judge it.
const PATHS: &str = "\
files:
  read: ['/**']
  write: ['/**']
exec:
  allow: ['/**']
";

/// What an operation works with: made before the process is an agent, so that only its own hooks meet the failure.
type Prepared = Option<Socket>;

/// One operation.
#[derive(Clone, Copy)]
struct Operation {
    name: &'static str,
    prepare: fn() -> Result<Prepared, Failure>,
    run: fn(&Prepared) -> Attempt,
    /// The helpers that its hooks need.
    sites: &'static [Site],
    /// The mechanism that judges it, where not every kernel has it.
    mechanism: Option<&'static str>,
}

/// The address hooks.
const ADDRESS: &[Site] = &[Site::LabelMissing, Site::ImageMissing, Site::SocketStorage];
/// The file hooks.
const PATH: &[Site] =
    &[Site::LabelMissing, Site::ImageMissing, Site::TaskStorage, Site::PathWalk, Site::KernelRead];

const fn network(
    name: &'static str,
    sites: &'static [Site],
    prepare: fn() -> Result<Prepared, Failure>,
    run: fn(&Prepared) -> Attempt,
) -> Operation {
    Operation { name, prepare, run, sites, mechanism: None }
}

const fn path(name: &'static str, mechanism: &'static str, run: fn(&Prepared) -> Attempt) -> Operation {
    Operation { name, prepare: || Ok(None), run, sites: PATH, mechanism: Some(mechanism) }
}

fn socket(prepared: &Prepared) -> Result<&Socket, Failure> {
    prepared.as_ref().ok_or_else(|| Failure::new("no socket was prepared".to_owned(), 0))
}

fn ok(step: &str, result: std::io::Result<impl Sized>) -> Attempt {
    result.map(drop).map_err(|e| Failure::of(step, &e))
}

fn operations() -> Vec<Operation> {
    vec![
        network(
            "connect4",
            ADDRESS,
            || Socket::tcp4().map(Some),
            |s| socket(s)?.connect(&Name::new(GRANTED4, SINK)),
        ),
        network(
            "connect6",
            ADDRESS,
            || Socket::tcp6().map(Some),
            |s| socket(s)?.connect(&Name::new(GRANTED6, SINK)),
        ),
        network(
            "sendmsg4",
            ADDRESS,
            || Socket::udp4().map(Some),
            |s| socket(s)?.send_to(b"x", 0, &Name::new(GRANTED4, SINK)).map(drop),
        ),
        network(
            "sendmsg6",
            ADDRESS,
            || Socket::udp6().map(Some),
            |s| socket(s)?.send_to(b"x", 0, &Name::new(GRANTED6, SINK)).map(drop),
        ),
        network("bind4", ADDRESS, || Socket::tcp4().map(Some), |s| socket(s)?.bind(&Name::new(AGENT4, 7105))),
        network(
            "bind6",
            ADDRESS,
            || Socket::tcp6().map(Some),
            |s| socket(s)?.bind(&Name::new(mapped(AGENT4), 7106)),
        ),
        network(
            "sock_create",
            &[Site::LabelMissing, Site::SocketStorage],
            || Ok(None),
            |_| Socket::tcp4().map(drop),
        ),
        // Connected before, so that egress alone is asked, and nothing is remembered.
        network(
            "egress",
            &[Site::ImageMissing, Site::PacketRead],
            || {
                let socket = Socket::udp4()?;
                socket.connect(&Name::new(GRANTED4, SINK))?;
                Ok(Some(socket))
            },
            |s| socket(s)?.send(b"x").map(drop),
        ),
        // Two: the fork whose label fails is not the process that asks.
        network(
            "fork",
            &[Site::LabelInsert],
            || Socket::tcp4().map(Some),
            |s| in_child(|| socket(s)?.connect(&Name::new(GRANTED4, SINK))),
        ),
        path("open_to_read", "lsm/file_open", |_| read(&at("open/plain"))),
        path("open_to_write", "lsm/file_open", |_| {
            ok("write", fs::OpenOptions::new().append(true).open(at("open/plain")))
        }),
        path("mknod", "lsm/path_mknod", |_| {
            let name = std::ffi::CString::new(at("open/made")).unwrap_or_default();
            // SAFETY: a path that lives through the call.
            match unsafe { libc::mknod(name.as_ptr(), libc::S_IFREG | 0o600, 0) } {
                0 => Ok(()),
                _ => Err(Failure::last("mknod")),
            }
        }),
        path("mkdir", "lsm/path_mkdir", |_| ok("mkdir", fs::create_dir(at("open/made")))),
        path("unlink", "lsm/path_unlink", |_| ok("unlink", fs::remove_file(at("open/plain")))),
        path("rmdir", "lsm/path_rmdir", |_| ok("rmdir", fs::remove_dir(at("closed/dir")))),
        path("symlink", "lsm/path_symlink", |_| ok("symlink", symlink("plain", at("open/soft")))),
        path("link", "lsm/path_link", |_| ok("link", fs::hard_link(at("open/plain"), at("open/hard")))),
        path("rename", "lsm/path_rename", |_| ok("rename", fs::rename(at("open/plain"), at("open/other")))),
        path("truncate", "lsm/path_truncate", |_| {
            let name = std::ffi::CString::new(at("open/plain")).unwrap_or_default();
            // SAFETY: a path that lives through the call.
            match unsafe { libc::truncate(name.as_ptr(), 1) } {
                0 => Ok(()),
                _ => Err(Failure::last("truncate")),
            }
        }),
        path("chmod", "lsm/path_chmod", |_| {
            ok("chmod", fs::set_permissions(at("open/plain"), fs::Permissions::from_mode(0o600)))
        }),
        path("chown", "lsm/path_chown", |_| {
            ok("chown", std::os::unix::fs::chown(at("open/plain"), Some(7), None))
        }),
        path("exec", "lsm/file_open", |_| run(&at("open/bin/tool"))),
    ]
}

/// Runs `body` in a child of this process; what came of it.
fn in_child(body: impl FnOnce() -> Attempt) -> Attempt {
    // SAFETY: this process has one thread. The child only makes system calls and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let errno = body().err().map_or(0, |failure| failure.errno);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(errno & 0xff) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    if pid < 0 || unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        return Err(Failure::last("fork"));
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        errno => Err(Failure::new("in the child".to_owned(), errno)),
    }
}

/// Whether the failure hides the mode that it would be judged under.
fn hides_the_mode(site: Site) -> bool {
    matches!(site, Site::LabelMissing | Site::ImageMissing | Site::LabelInsert)
}

/// Runs the operation in a new agent of `profile`, with these helpers failing. What came of it, and how often it was
/// counted.
fn injected(lab: &mut Lab, operation: Operation, profile: &str, sites: &[Site]) -> Result<(Attempt, u64)> {
    plant()?;
    let (monitor, world) = lab.parts()?;
    monitor.install(profile)?;
    let mut child = Child::spawn(&world.agents, move |stage| {
        let prepared = (operation.prepare)()?;
        stage.pause()?;
        (operation.run)(&prepared)
    })?;
    child.paused()?;
    let agent = monitor.label(child.pid())?;
    let counted =
        |monitor: &agent_monitor_tests::Monitor| sites.iter().map(|s| monitor.faults(*s)).sum::<u64>();
    let before = counted(monitor);
    monitor.kernel.inject(sites)?;
    child.go_on()?;
    let attempt = child.finish();
    monitor.kernel.inject(&[])?;
    let after = counted(monitor);
    drop(child);
    monitor.drain(Ring::Verdicts)?;
    monitor.kernel.remove_agent(agent);
    Ok((attempt?, after - before))
}

fn profile(lab: &mut Lab) -> Result<String> {
    let paths = lab.monitor()?.works("lsm/file_open");
    Ok(if paths { format!("{PROFILE}{PATHS}") } else { PROFILE.to_owned() })
}

fn denied(lab: &mut Lab, operation: Operation, site: Site) -> Result<Completion> {
    if let Some(mechanism) = operation.mechanism
        && !lab.monitor()?.works(mechanism)
    {
        return Ok(Completion::ignored_with(lab.monitor()?.blind(mechanism)?));
    }
    let profile = profile(lab)?;
    let (attempt, counted) = injected(lab, operation, &profile, &[site])?;
    let Err(failure) = attempt else { bail!("it went through although {} failed", site.name()) };
    ensure!(failure.errno != 0, "the test itself failed: {failure}");
    ensure!(counted >= 1, "the failure was not counted");
    Ok(Completion::Completed)
}

fn twin(lab: &mut Lab, operation: Operation, site: Site) -> Result<()> {
    let profile = profile(lab)?;
    if hides_the_mode(site) {
        let (attempt, _) = injected(lab, operation, &profile, &[])?;
        return attempt.context("denied without a failure");
    }
    let (attempt, counted) = injected(lab, operation, &in_audit(&profile), &[site])?;
    attempt.context("denied in mode audit")?;
    if operation.mechanism.is_none_or(|mechanism| lab.monitor().is_ok_and(|m| m.works(mechanism))) {
        ensure!(counted >= 1, "the failure was not counted");
    }
    Ok(())
}

pub fn trials() -> Vec<Trial> {
    let pairs = operations().into_iter().flat_map(|operation| {
        operation.sites.iter().map(move |site| {
            attack::pair(
                &format!("F17_{}_without_{}", operation.name, site.name()),
                move |lab| denied(lab, operation, *site),
                move |lab| twin(lab, operation, *site),
            )
        })
    });
    pairs.flatten().collect()
}
