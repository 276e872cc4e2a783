//! `run` where no BPF LSM enforces the profile: Landlock and seccomp stand in, or the command does not start.
//!
//! Every attempt has its twin: the same by the same program without `run`. On a kernel with BPF LSM the rules are
//! asked for with `--landlock`, so that they are tested there too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::agent;
use crate::daemon::Daemon;
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_profile_of_files_is_refused_with_69_unless_run_may_degrade", refused),
        trial("landlock_denies_what_the_profile_does_not_grant", files),
        trial("landlock_denies_to_descendants_of_another_session", descendants),
        trial("landlock_denies_programs_that_are_not_granted", programs),
        trial("seccomp_refuses_what_the_profile_does_not_grant", calls),
        trial("a_confined_command_gains_nothing_from_setuid_programs", setuid),
        trial("a_confined_agent_is_told_apart_in_status", status),
        trial("a_profile_that_observes_confines_nobody", observing),
        trial("privileges_that_are_not_granted_are_given_up", privileges),
        trial("check_and_doctor_say_what_stands_in", told),
    ]
}

/// Files and programs of the test's own, and what any program needs.
struct Place {
    daemon: Daemon,
}

impl Place {
    fn start(mode: &str) -> Result<Self> {
        Self::start_with(mode, "")
    }

    fn start_with(mode: &str, more: &str) -> Result<Self> {
        let mut daemon = Daemon::prepare("version: 1\nname: tester\n")?;
        for directory in ["work/lib", "work/.git/hooks", "home", "bin"] {
            fs::create_dir_all(daemon.path(directory))?;
        }
        for file in ["work/lib/x", "work/y", "work/.env", "work/.git/hooks/pre", "home/key"] {
            fs::write(daemon.path(file), "secret")?;
        }
        fs::copy("/bin/true", daemon.path("bin/tool"))?;
        let here = daemon.directory.path().canonicalize()?;
        let here = here.to_str().context("path")?;
        let me = std::env::current_exe()?.canonicalize()?;
        let me = me.to_str().context("path")?;
        daemon.write_profile(&format!(
            "version: 1\nname: tester\nmode: {mode}\n\
             files:\n  read: [\"/usr/**\", \"/etc/**\", \"/proc/**\", /dev/null, \"{me}\", \"{here}/work/**\", \"{here}/bin/**\"]\n\
             \x20 write: [\"{here}/work/**\", /dev/null]\n  deny: [\"**/.env*\", \"**/.git/hooks/**\"]\n\
             exec:\n  allow: [\"/usr/**\", \"{me}\"]\n{more}"
        ))?;
        daemon.launch()?;
        Ok(Place { daemon })
    }

    fn file(&self, name: &str) -> Result<String> {
        let path = self.daemon.directory.path().canonicalize()?.join(name);
        Ok(path.to_str().context("path")?.to_owned())
    }

    fn run(&self, flags: &[&str], words: &[&str]) -> Result<Output> {
        let me = std::env::current_exe()?;
        let mut all = vec!["run", "--profile", "tester"];
        all.extend(flags);
        all.extend(["--", me.to_str().context("path")?, agent::ARGUMENT]);
        all.extend(words);
        self.daemon.ask(&all)
    }

    /// What the agent said of an attempt, confined and free; files are named in the place.
    fn both(&self, words: &[&str]) -> Result<(i32, i32)> {
        let output = self.run(&["--allow-degraded", "--landlock"], words)?;
        let free = Command::new(std::env::current_exe()?).arg(agent::ARGUMENT).args(words).output()?;
        Ok((said(&output)?, said(&free)?))
    }
}

fn said(output: &Output) -> Result<i32> {
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse().with_context(|| format!("the agent said {text:?}"))
}

fn enforced_by_lsm(daemon: &Daemon) -> Result<bool> {
    Ok(daemon.status()?["posture"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["name"] == "lsm/file_open" && one["works"] == true)))
}

fn refused() -> Result<()> {
    let place = Place::start("enforce")?;
    let output = place.run(&[], &["attempt", "read", "/etc/passwd"])?;
    if enforced_by_lsm(&place.daemon)? {
        ensure!(said(&output)? == 0, "the kernel enforces it all, and the command did not start");
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(69), "{output:?}");
    ensure!(output.stdout.is_empty(), "the command ran: {output:?}");
    ensure!(words.contains("run --allow-degraded") && words.contains("lsm/file_open"), "{words}");
    ensure!(place.daemon.status()?["agents"] == serde_json::json!([]), "a refused command left an agent");
    // The twin: with leave it runs.
    ensure!(said(&place.run(&["--allow-degraded"], &["attempt", "read", "/etc/passwd"])?)? == 0);
    Ok(())
}

fn files() -> Result<()> {
    let place = Place::start("enforce")?;
    let file = |name: &str| place.file(name);
    let expected: &[(&[&str], i32)] = &[
        (&["read", &file("work/lib/x")?], 0),
        (&["read", &file("work/y")?], 0),
        (&["read", &file("home/key")?], libc::EACCES),
        (&["read", "/root/.bashrc"], libc::EACCES),
        (&["read", &file("work/.env")?], libc::EACCES),
        (&["read", &file("work/.git/hooks/pre")?], libc::EACCES),
        (&["write", &file("work/y")?], 0),
        (&["write", &file("home/key")?], libc::EACCES),
        (&["write", &file("work/.git/hooks/pre")?], libc::EACCES),
        (&["create", &file("work/lib/new")?], 0),
        (&["create", &file("home/new")?], libc::EACCES),
        // Beside what is denied nothing is made: said on standard error.
        (&["create", &file("work/.git/hooks/post")?], libc::EACCES),
        (&["truncate", &file("home/key")?], libc::EACCES),
        (&["rename", &file("work/.git/hooks")?, &file("work/lib/h")?], libc::EACCES),
        (&["link", &file("work/.env")?, &file("work/lib/e")?], libc::EXDEV),
        (&["list", &file("work")?], 0),
        (&["list", &file("home")?], libc::EACCES),
        (&["remove", &file("home/key")?], libc::EACCES),
    ];
    for (words, errno) in expected {
        let all = [&["attempt"], *words].concat();
        let confined = said(&place.run(&["--allow-degraded", "--landlock"], &all)?)?;
        ensure!(confined == *errno, "{words:?}: {confined}, not {errno}");
    }
    let told = place.run(&["--allow-degraded", "--landlock"], &["attempt", "read", "/etc/passwd"])?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(told.contains("beside what is denied"), "what Landlock can't do is not said: {told:?}");
    // The twins, in an order in which each still finds its file.
    for (words, errno) in expected.iter().filter(|(_, errno)| *errno != 0) {
        if words[1].starts_with("/root") && !fs::exists(words[1])? {
            continue;
        }
        let all = [&["attempt"], *words].concat();
        let output = Command::new(std::env::current_exe()?).arg(agent::ARGUMENT).args(&all).output()?;
        ensure!(said(&output)? == 0, "free, {words:?} does not work either: that {errno} proves nothing");
    }
    Ok(())
}

fn descendants() -> Result<()> {
    let place = Place::start("enforce")?;
    let (confined, free) = place.both(&["attempt-below", "read", &place.file("home/key")?])?;
    ensure!((confined, free) == (libc::EACCES, 0), "{confined} {free}");
    let (confined, free) = place.both(&["attempt-below", "read", &place.file("work/y")?])?;
    ensure!((confined, free) == (0, 0), "{confined} {free}");
    // Through a program in between.
    let me = std::env::current_exe()?;
    let me = me.to_str().context("path")?;
    let key = place.file("home/key")?;
    let words = ["exec", me, agent::ARGUMENT, "attempt", "read", &key];
    let (confined, free) = place.both(&words)?;
    ensure!((confined, free) == (libc::EACCES, 0), "{confined} {free}");
    Ok(())
}

fn programs() -> Result<()> {
    let place = Place::start("enforce")?;
    let (confined, free) = place.both(&["attempt", "execute", &place.file("bin/tool")?])?;
    ensure!((confined, free) == (libc::EACCES, 0), "{confined} {free}");
    let (confined, free) = place.both(&["attempt", "execute", "/usr/bin/true"])?;
    ensure!((confined, free) == (0, 0), "{confined} {free}");
    // The command itself is held to it too.
    let output = place.daemon.ask(&[
        "run",
        "--profile",
        "tester",
        "--allow-degraded",
        "--landlock",
        "--",
        &place.file("bin/tool")?,
    ])?;
    ensure!(output.status.code() == Some(126), "{output:?}");
    Ok(())
}

fn calls() -> Result<()> {
    let place = Place::start_with("enforce", "syscalls:\n  kill: [delete_module]\n")?;
    let packet = libc::AF_PACKET.to_string();
    for (words, expected) in [
        (&["attempt", "socket", &packet][..], libc::EAFNOSUPPORT),
        (&["attempt-below", "socket", &packet], libc::EAFNOSUPPORT),
        (&["attempt", "uring"], libc::ENOSYS),
        (&["attempt", "type-into-terminal"], libc::EPERM),
    ] {
        let (confined, free) = place.both(words)?;
        ensure!(confined == expected, "{words:?}: {confined}");
        // Free, the kernel answers: it has the call, whatever it makes of these arguments.
        ensure!(free != expected, "{words:?}: {free} without the monitor too, so it proves nothing");
    }
    let me = std::env::current_exe()?;
    let me = me.to_str().context("path")?;
    let killed = 128 + libc::SIGSYS;
    let (confined, free) =
        place.both(&["attempt", "execute", me, agent::ARGUMENT, "attempt", "delete-module"])?;
    ensure!(confined == killed, "the call was not stopped before it began: {confined}");
    ensure!(free == 0, "{free}");
    // A 32-bit call, which no rule by number would find. Without that table in the kernel there is nothing to stop.
    let (confined, free) = place.both(&["attempt", "execute", me, agent::ARGUMENT, "attempt", "compat"])?;
    ensure!(free == 128 + libc::SIGSEGV || (confined, free) == (killed, 0), "{confined} {free}");
    Ok(())
}

fn setuid() -> Result<()> {
    let place = Place::start("enforce")?;
    // A program of root's that whoever starts it becomes root by; in a place that everybody reaches.
    let directory = tempfile::Builder::new().prefix("agent-monitor-e2e-").tempdir_in("/usr/local")?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let program = directory.path().join("su");
    fs::copy(std::env::current_exe()?, &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755))?;
    let words = [program.to_str().context("path")?, agent::ARGUMENT, "euid"];
    let free = Command::new(words[0]).args(&words[1..]).uid(65534).gid(65534).output()?;
    ensure!(said(&free)? == 0, "the twin: it is no way to root, so the test proves nothing");
    let mut run = vec!["run", "-p", "tester", "--allow-degraded", "--landlock", "--user", "65534", "--"];
    run.extend(words);
    let confined = said(&place.daemon.ask(&run)?)?;
    ensure!(confined == 65534, "it became user {confined}");
    Ok(())
}

fn status() -> Result<()> {
    let place = Place::start("enforce")?;
    let me = std::env::current_exe()?;
    let me = me.to_str().context("path")?;
    let mut words = vec!["run", "-p", "tester", "--allow-degraded", "--landlock", "--", me, agent::ARGUMENT];
    words.extend(["connect-when-told", "127.0.0.1:1"]);
    let mut talker = crate::daemon::Talker::spawn(place.daemon.verb(&words)?)?;
    ensure!(talker.line()? == "ready");
    let agents = place.daemon.status()?["agents"].clone();
    ensure!(agents[0]["confined"] == true, "{agents}");
    let text = place.daemon.ask(&["status"])?;
    ensure!(String::from_utf8_lossy(&text.stdout).contains("landlock, seccomp"), "{text:?}");
    Ok(())
}

fn observing() -> Result<()> {
    let place = Place::start("audit")?;
    for flags in [&[][..], &["--allow-degraded"], &["--landlock"]] {
        let output = place.run(flags, &["attempt", "read", &place.file("home/key")?])?;
        ensure!(said(&output)? == 0, "{flags:?}");
    }
    Ok(())
}

fn privileges() -> Result<()> {
    let profile = "version: 1\nname: tester\nmode: enforce\nprivileges: { capabilities: [fowner] }\n";
    let daemon = Daemon::start(profile)?;
    let mine = daemon.path("mine");
    fs::write(&mine, "x")?;
    let mine = mine.to_str().context("path")?;
    // Of the same user, so that nothing but the rules keeps the agent from it.
    let mut outside = Command::new("/bin/sleep").arg("600").spawn()?;
    let pid = outside.id().to_string();
    let tried = (|| {
        let landlock = daemon.ask(&["doctor", "--json"])?;
        let landlock: serde_json::Value = serde_json::from_slice(&landlock.stdout)?;
        let scoped = landlock["stand_ins"]["landlock"].as_i64() >= Some(6);
        let me = std::env::current_exe()?;
        let me = me.to_str().context("path")?;
        for (words, confined) in [
            (&["chown", mine][..], libc::EPERM),
            (&["become", "65534"], libc::EPERM),
            (&["user-namespace"], libc::EPERM),
            (&["bpf"], libc::EPERM),
            (&["trace", &pid], libc::EPERM),
            (&["signal", &pid], if scoped { libc::EPERM } else { 0 }),
            (&["signal-own"], 0),
        ] {
            let mut run = vec!["run", "-p", "tester", "--allow-degraded", "--landlock", "--", me];
            let rest = [&[agent::ARGUMENT, "attempt"], words].concat();
            run.extend(&rest);
            let seen = said(&daemon.ask(&run)?)?;
            ensure!(seen == confined, "{words:?}: {seen}, not {confined}");
            let free = said(&Command::new(me).args(&rest).output()?)?;
            ensure!(free == 0, "free, {words:?} does not work either: {free}");
        }
        Ok(())
    })();
    outside.kill()?;
    outside.wait()?;
    tried
}

fn told() -> Result<()> {
    let place = Place::start("enforce")?;
    let profile = place.file("profiles/tester.yaml")?;
    let lsm = enforced_by_lsm(&place.daemon)?;
    let output = place.daemon.ask(&["check", "--kernel", "this", "--format", "json", &profile])?;
    ensure!(output.status.code() == Some(if lsm { 0 } else { 69 }), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let rules = report["profiles"][0]["enforcement"]["rules"].as_array().context("no rules")?.clone();
    let of = |rule: &str| {
        let row = rules.iter().find(|row| row["rule"] == rule);
        row.map(|row| row["mechanism"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    let expected = if lsm { ["lsm"; 3] } else { ["landlock", "landlock, in part", "landlock, in part"] };
    let found = [of("tester:exec.allow[1]"), of("tester:files.write[0]"), of("tester:files.deny[0]")];
    ensure!(found == expected, "{found:?}");
    let doctor = place.daemon.ask(&["doctor", "--json"])?;
    let found: serde_json::Value = serde_json::from_slice(&doctor.stdout)?;
    ensure!(
        found["stand_ins"]["landlock"].as_i64() >= Some(2) && found["stand_ins"]["seccomp"] == true,
        "{found}"
    );
    Ok(())
}
