//! Landlock and seccomp rules of an image, on every kernel that the tests run on: the versions differ.
//!
//! What `run` does with them is tested end to end; here the rules are put in force by a child of the test, without a
//! label.

use std::fs;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::Path;

use agent_monitor::agent::confine;
use agent_monitor::agent::landlock::{NEEDED_ABI, TRUNCATE_ABI, kernel_abi};
use agent_monitor::policy::compile;
use agent_monitor_tests::monitor::resolve;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("landlock_and_seccomp_rules_of_an_image_hold_on_this_kernel", || {
        rules().map_err(|error| format!("{error:#}").into())
    })]
}

const ROOT: &str = "/tmp/agent-monitor-landlock";

const PROFILE: &str = "\
version: 1
name: confined
mode: enforce
network: {}
files:
  read: ['/tmp/agent-monitor-landlock/open/**', '/usr/**', '/lib*/**', '/etc/**', '/dev/null']
  write: ['/tmp/agent-monitor-landlock/open/**', '/dev/null']
  deny: ['**/.env', '/tmp/agent-monitor-landlock/open/vault/**']
exec:
  allow: ['/tmp/agent-monitor-landlock/open/tool', '/usr/**', '/lib*/**']
";

fn plant() -> Result<()> {
    let _ = fs::remove_dir_all(ROOT);
    let root = Path::new(ROOT);
    for directory in ["open/vault", "open/dir", "open/other", "closed"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for file in ["open/plain", "open/dir/.env", "open/dir/x", "open/vault/key", "open/other/x", "closed/key"]
    {
        fs::write(root.join(file), "contents")?;
    }
    for program in ["open/tool", "open/other/tool"] {
        fs::copy("/proc/self/exe", root.join(program))?;
    }
    Ok(())
}

fn errno(done: std::io::Result<()>) -> i32 {
    done.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

fn execute(program: &Path) -> std::io::Result<()> {
    let null = || std::process::Stdio::null();
    std::process::Command::new(program)
        .arg("--list")
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .status()
        .map(drop)
}

/// What is tried, its errno under the rules, and how it is tried.
type Attempt = (&'static str, i32, fn(&Path) -> i32);

/// The attempts, in an order in which each still finds its file.
fn attempts(abi: i32) -> Vec<Attempt> {
    let denied = libc::EACCES;
    let truncated = if abi < TRUNCATE_ABI { 0 } else { denied };
    vec![
        ("read what is granted", 0, |at| errno(fs::read(at.join("open/plain")).map(drop))),
        ("read what is not", denied, |at| errno(fs::read(at.join("closed/key")).map(drop))),
        ("read what is denied", denied, |at| errno(fs::read(at.join("open/vault/key")).map(drop))),
        ("read what is denied by a name", denied, |at| errno(fs::read(at.join("open/dir/.env")).map(drop))),
        ("read beside it", 0, |at| errno(fs::read(at.join("open/dir/x")).map(drop))),
        ("write", 0, |at| errno(fs::write(at.join("open/dir/x"), "y"))),
        ("create", 0, |at| errno(fs::write(at.join("open/other/new"), "x"))),
        ("create where nothing is granted", denied, |at| errno(fs::write(at.join("closed/new"), "x"))),
        ("create beside what is denied", denied, |at| errno(fs::write(at.join("open/dir/new"), "x"))),
        ("move", 0, |at| errno(fs::rename(at.join("open/other/new"), at.join("open/other/moved")))),
        ("move away", libc::EXDEV, |at| {
            // The kernel may name either reason; the twin shows that there is no other.
            match errno(fs::rename(at.join("open/other/moved"), at.join("closed/moved"))) {
                libc::EACCES => libc::EXDEV,
                errno => errno,
            }
        }),
        ("truncate by path", truncated, |at| {
            let path = std::ffi::CString::new(at.join("closed/key").to_string_lossy().as_bytes());
            // SAFETY: a string that outlives the call.
            path.map_or(-1, |path| match unsafe { libc::truncate(path.as_ptr(), 4) } {
                0 => 0,
                _ => errno(Err(std::io::Error::last_os_error())),
            })
        }),
        ("run what is granted", 0, |at| errno(execute(&at.join("open/tool")))),
        ("run what is not", denied, |at| errno(execute(&at.join("open/other/tool")))),
        ("make a packet socket", libc::EAFNOSUPPORT, |_| {
            // SAFETY: numbers only; the descriptor ends with the child.
            match unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0) } {
                -1 => errno(Err(std::io::Error::last_os_error())),
                _ => 0,
            }
        }),
        ("make a ring", libc::ENOSYS, |_| {
            let mut parameters = [0_u64; 32];
            // SAFETY: `struct io_uring_params` has 120 bytes, fewer than the buffer.
            match unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) } {
                -1 => errno(Err(std::io::Error::last_os_error())),
                _ => 0,
            }
        }),
        ("change mounts", libc::EPERM, |at| {
            let path = std::ffi::CString::new(at.join("open/other").to_string_lossy().as_bytes());
            // SAFETY: strings that outlive the call.
            path.map_or(-1, |path| unsafe {
                match libc::mount(c"none".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()) {
                    0 => {
                        libc::umount2(path.as_ptr(), libc::MNT_DETACH);
                        0
                    }
                    _ => errno(Err(std::io::Error::last_os_error())),
                }
            })
        }),
    ]
}

fn rules() -> Result<()> {
    let abi = kernel_abi();
    ensure!(abi >= NEEDED_ABI, "this kernel has Landlock {abi}; boot it with landlock in lsm=");
    let profile = resolve(PROFILE)?;
    let image = compile::profile(&profile)?;
    for confined in [true, false] {
        plant()?;
        let seen = child(|| {
            if confined {
                confine::prepare(&image.words)?.enforce()?;
            }
            Ok(attempts(abi).iter().map(|(_, _, attempt)| attempt(Path::new(ROOT))).collect())
        })?;
        for ((what, expected, _), seen) in attempts(abi).into_iter().zip(seen) {
            let expected = if confined { expected } else { 0 };
            ensure!(
                seen == expected,
                "{what}, confined {confined}: {seen} and not {expected} (Landlock {abi})"
            );
        }
    }
    fs::remove_dir_all(ROOT)?;
    Ok(())
}

/// What `act` finds in a child; its last words where it fails.
fn child(act: impl FnOnce() -> Result<Vec<i32>>) -> Result<Vec<i32>> {
    let mut ends = [0; 2];
    // SAFETY: two descriptors of room. The tests run on the only thread, so the child may do anything.
    let pid = unsafe {
        ensure!(libc::pipe(ends.as_mut_ptr()) == 0, "{}", std::io::Error::last_os_error());
        libc::fork()
    };
    ensure!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        let text = match act() {
            Ok(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => format!("{error:#}"),
        };
        // SAFETY: the text outlives the call, with its length; the child runs no handlers of the test's.
        unsafe {
            libc::write(ends[1], text.as_ptr().cast(), text.len());
            libc::_exit(0)
        }
    }
    let mut text = String::new();
    // SAFETY: both ends are ours, and closed once.
    unsafe {
        libc::close(ends[1]);
        fs::File::from_raw_fd(ends[0]).read_to_string(&mut text)?;
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    text.split(' ').map(|word| word.parse().with_context(|| format!("the child said {text:?}"))).collect()
}
