//! F1 to F16, S4, S7, A36: objects reached by what is not their path, changed by what is not a write, run by what is no
//! plain exec; on the tree and under the profile of `files`.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent_monitor_common::event::{Hook, Reason};
use agent_monitor_tests::peer::SINK;
use agent_monitor_tests::socket::{Name, Socket};
use agent_monitor_tests::uring::{self, Entry};
use agent_monitor_tests::world::GRANTED4;
use agent_monitor_tests::{Attempt, Body, Failure};
use anyhow::{Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use crate::attack::checked_pair;
use crate::files::{PROFILE, at, attack, c, call, ok, pairs, plant, prepared, read};
use crate::lab::{self, Lab};

/// An extended attribute that root sets on any file system of the tests.
const XATTR: &CStr = c"trusted.agent-monitor";
const ACL: &CStr = c"system.posix_acl_access";
/// Version 2, and the three entries of mode 0600 (include/uapi/linux/posix_acl_xattr.h).
const ACL_BYTES: [u8; 28] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 0, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255,
    255,
];
/// `FS_IOC_SETFLAGS` and the flag `nodump`.
const SET_FLAGS: libc::c_ulong = 0x4008_6602;
const NODUMP: u32 = 0x40;

pub fn set_xattr(path: &str, name: &CStr, value: &[u8]) -> Attempt {
    // SAFETY: strings that end in NUL, a value with its length.
    let set =
        unsafe { libc::setxattr(c(path).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    call("setxattr", set.into()).map(drop)
}

fn remove_xattr(path: &str, name: &CStr) -> Attempt {
    // SAFETY: strings that end in NUL.
    call("removexattr", unsafe { libc::removexattr(c(path).as_ptr(), name.as_ptr()) }.into()).map(drop)
}

fn set_times(path: &str) -> Attempt {
    let times = [libc::timespec { tv_sec: 1, tv_nsec: 0 }; 2];
    // SAFETY: a string that ends in NUL, two times.
    let set = unsafe { libc::utimensat(libc::AT_FDCWD, c(path).as_ptr(), times.as_ptr(), 0) };
    call("utimensat", set.into()).map(drop)
}

fn set_flags(file: &fs::File) -> Attempt {
    let flags = NODUMP;
    // SAFETY: the call reads one word.
    match unsafe { libc::ioctl(file.as_raw_fd(), SET_FLAGS, &raw const flags) } {
        0 => Ok(()),
        _ => match Failure::last("set flags") {
            f if f.errno == libc::ENOTTY || f.errno == libc::EOPNOTSUPP => {
                Err(Failure::absent("flags of files", f.errno))
            }
            f => Err(f),
        },
    }
}

pub fn open(path: &str) -> Result<fs::File, Failure> {
    fs::File::open(path).map_err(|e| Failure::of("open", &e))
}

/// A descriptor that names an object and opens nothing.
fn name(path: &str) -> Result<OwnedFd, Failure> {
    // SAFETY: a string that ends in NUL; a new descriptor.
    unsafe {
        let fd = call("open O_PATH", libc::open(c(path).as_ptr(), libc::O_PATH | libc::O_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// `execveat` of a descriptor in a child: the errno of an exec that does not happen.
fn execute(fd: &impl AsRawFd) -> Attempt {
    let words = [c("tool"), c("--help")];
    let argv = [words[0].as_ptr(), words[1].as_ptr(), std::ptr::null()];
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    let nowhere = open("/dev/null")?;
    // SAFETY: this program has one thread; the child only calls the kernel.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::dup2(nowhere.as_raw_fd(), 1);
            libc::syscall(
                libc::SYS_execveat,
                fd.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            libc::_exit(std::io::Error::last_os_error().raw_os_error().unwrap_or(255));
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        match libc::WEXITSTATUS(status) {
            0 if libc::WIFEXITED(status) => Ok(()),
            errno => Err(Failure::new("execveat", errno)),
        }
    }
}

/// A mount namespace whose changes stay in it.
pub fn own_namespace() -> Attempt {
    // SAFETY: strings that end in NUL.
    unsafe {
        call("unshare", libc::unshare(libc::CLONE_NEWNS).into())?;
        let none = std::ptr::null();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        call("private", libc::mount(none, c"/".as_ptr(), none, private, none.cast()).into())?;
    }
    Ok(())
}

pub fn bind(from: &str, to: &str) -> Attempt {
    // SAFETY: strings that end in NUL.
    unsafe {
        let none = std::ptr::null();
        let bound = libc::mount(c(from).as_ptr(), c(to).as_ptr(), none, libc::MS_BIND, none.cast());
        call("bind", bound.into()).map(drop)
    }
}

const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

/// A copy of the mount at `path` that is mounted nowhere.
fn clone_tree(path: &str) -> Result<OwnedFd, Failure> {
    // SAFETY: a string that ends in NUL; a new descriptor.
    unsafe {
        let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c(path).as_ptr(), OPEN_TREE_CLONE);
        Ok(OwnedFd::from_raw_fd(call("open_tree", tree)? as i32))
    }
}

fn read_at(directory: &impl AsRawFd, path: &CStr) -> Attempt {
    // SAFETY: a string that ends in NUL.
    call("openat", unsafe { libc::openat(directory.as_raw_fd(), path.as_ptr(), libc::O_RDONLY) }.into())
        .map(drop)
}

/// One operation by io_uring. What the entry points to lives until it is done.
fn ring(entry: Entry, polled: bool) -> Attempt {
    uring::run(entry, polled).map(drop)
}

fn ring_open(polled: bool) -> Attempt {
    let path = c(&at("closed/file"));
    ring(
        Entry {
            opcode: uring::OP_OPENAT,
            fd: libc::AT_FDCWD,
            address: path.as_ptr().addr() as u64,
            ..Entry::default()
        },
        polled,
    )
}

/// Rounds of a race: enough to win it with enforcement off, few enough for a slow machine.
const ROUNDS: u32 = 3_000;
/// How much longer a race goes on that nobody refused and that was not won: the other thread may not have run yet.
const LONGEST: Duration = Duration::from_secs(10);

/// Reads `path` while `change` goes on in another thread: `Ok` when once it got what lies in `closed/raced`.
fn race(path: &CStr, change: impl Fn(u32) + Sync) -> Attempt {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                change(round);
                round += 1;
            }
        });
        let mut refused = 0;
        let mut end = Err(Failure::new("win the race", 0));
        let began = Instant::now();
        for round in 0.. {
            if round >= ROUNDS && (refused > 0 || began.elapsed() > LONGEST) {
                break;
            }
            let mut bytes = [0; 6];
            // SAFETY: the string always ends in NUL, whichever of its letters is read.
            let read = unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_RDONLY);
                if fd < 0 {
                    let errno = std::io::Error::last_os_error().raw_os_error();
                    refused += i32::from(errno == Some(libc::EACCES));
                    continue;
                }
                let read = libc::read(fd, bytes.as_mut_ptr().cast(), 6);
                libc::close(fd);
                read
            };
            if read == 6 && bytes == *b"secret" {
                end = Ok(());
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        match end {
            Err(_) if refused > 0 => Err(Failure::new("win the race", libc::EACCES)),
            end => end,
        }
    })
}

fn plant_race() -> Attempt {
    ok("write", fs::write(at("open/plain"), "public"))?;
    ok("write", fs::write(at("closed/raced"), "secret"))
}

fn trials_of_attributes() -> impl Iterator<Item = Trial> {
    use Hook::{
        LsmFileIoctl as Ioctl, LsmInodeRemoveAcl as RemoveAcl, LsmInodeRemovexattr as Remove,
        LsmInodeSetAcl as SetAcl, LsmInodeSetattr as Times, LsmInodeSetxattr as Set,
    };
    use Reason::{Default, Rule};
    pairs(vec![
        attack("F12_setxattr", Set, Default, || set_xattr(&at("closed/file"), XATTR, b"x")),
        attack("F12_setxattr_of_a_denied_file", Set, Rule, || set_xattr(&at("open/secret"), XATTR, b"x")),
        attack("F12_setxattr_through_a_symlink", Set, Default, || {
            ok("symlink", symlink(at("closed/file"), at("open/link")))?;
            set_xattr(&at("open/link"), XATTR, b"x")
        }),
        prepared("F12_fsetxattr_by_an_older_descriptor", Set, Default, |stage| {
            let file = open(&at("closed/file"))?;
            stage.pause()?;
            // SAFETY: a string that ends in NUL, a value with its length.
            let set =
                unsafe { libc::fsetxattr(file.as_raw_fd(), XATTR.as_ptr(), b"x".as_ptr().cast(), 1, 0) };
            call("fsetxattr", set.into()).map(drop)
        }),
        attack("F12_setxattr_by_io_uring", Set, Default, || {
            let path = c(&at("closed/file"));
            ring(
                Entry {
                    opcode: uring::OP_SETXATTR,
                    address: XATTR.as_ptr().addr() as u64,
                    offset: b"x".as_ptr().addr() as u64,
                    length: 1,
                    rest: [path.as_ptr().addr() as u64, 0],
                    ..Entry::default()
                },
                false,
            )
        }),
        prepared("F12_removexattr", Remove, Default, |stage| {
            set_xattr(&at("closed/file"), XATTR, b"x")?;
            stage.pause()?;
            remove_xattr(&at("closed/file"), XATTR)
        }),
        attack("F12_set_acl", SetAcl, Default, || set_xattr(&at("closed/file"), ACL, &ACL_BYTES)),
        attack("F12_remove_acl", RemoveAcl, Default, || remove_xattr(&at("closed/file"), ACL)),
        attack("F12_utimes", Times, Default, || set_times(&at("closed/file"))),
        prepared("F12_futimens_by_an_older_descriptor", Times, Default, |stage| {
            let file = open(&at("closed/file"))?;
            stage.pause()?;
            // SAFETY: null: the time of the call.
            call("futimens", unsafe { libc::futimens(file.as_raw_fd(), std::ptr::null()) }.into()).map(drop)
        }),
        attack("F12_utimes_of_a_named_descriptor", Times, Default, || {
            let fd = name(&at("closed/file"))?;
            let times = [libc::timespec { tv_sec: 1, tv_nsec: 0 }; 2];
            // SAFETY: an empty string, two times.
            call("utimensat", unsafe {
                libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH).into()
            })
            .map(drop)
        }),
        prepared("F12_flags_by_an_older_descriptor", Ioctl, Default, |stage| {
            let file = open(&at("closed/file"))?;
            stage.pause()?;
            set_flags(&file)
        }),
        prepared("F12_ftruncate_by_an_older_descriptor", Hook::LsmFileTruncate, Default, |stage| {
            let file = fs::OpenOptions::new().write(true).open(at("closed/file"));
            let file = file.map_err(|e| Failure::of("open", &e))?;
            stage.pause()?;
            ok("ftruncate", file.set_len(0))
        }),
    ])
}

fn trials_of_ways() -> impl Iterator<Item = Trial> {
    use Hook::{
        LsmFileOpen as Open, LsmFileReceive as Receive, LsmMoveMount as Move, LsmPathMkdir as Mkdir,
        LsmPathMknod as Mknod, LsmPathUnlink as Unlink, LsmSbPivotroot as Pivot, LsmSbUmount as Umount,
    };
    use Reason::{Anonymous, Default, DeniedBelow, Mount, NoPath, Rule};
    pairs(vec![
        prepared("F1_symlink_that_is_swapped_meanwhile", Open, Default, |stage| {
            plant_race()?;
            stage.pause()?;
            ok("symlink", symlink("plain", at("open/raced")))?;
            let targets = [at("open/plain"), at("closed/raced")];
            race(&c(&at("open/raced")), |round| {
                let next = at("open/next");
                let _ = symlink(&targets[round as usize % 2], &next);
                let _ = fs::rename(next, at("open/raced"));
            })
        }),
        prepared("F1_parent_that_is_swapped_meanwhile", Open, Default, |stage| {
            plant_race()?;
            stage.pause()?;
            for (directory, text) in [("open/a", "public"), ("open/b", "public")] {
                ok("mkdir", fs::create_dir(at(directory)))?;
                ok("write", fs::write(at(&format!("{directory}/raced")), text))?;
            }
            let targets = [at("open/a"), at("closed")];
            ok("symlink", symlink("a", at("open/raced")))?;
            race(&c(&at("open/raced/raced")), |round| {
                let next = at("open/next");
                let _ = symlink(&targets[round as usize % 2], &next);
                let _ = fs::rename(next, at("open/raced"));
            })
        }),
        prepared("S4_path_that_changes_in_memory_meanwhile", Open, Rule, |stage| {
            ok("write", fs::write(at("open/secres"), "public"))?;
            ok("write", fs::write(at("open/secret"), "secret"))?;
            stage.pause()?;
            let mut bytes = c(&at("open/secret")).into_bytes_with_nul();
            let place = bytes.as_mut_ptr().addr() + bytes.len() - 2;
            // SAFETY: the buffer ends in NUL and outlives the race.
            let path = unsafe { CStr::from_ptr(bytes.as_ptr().cast()) };
            race(path, |round| {
                let letter = if round.is_multiple_of(2) { b's' } else { b't' };
                // SAFETY: a letter of the buffer; whoever reads it meanwhile gets the one or the other.
                unsafe { std::ptr::with_exposed_provenance_mut::<u8>(place).write_volatile(letter) };
            })
        }),
        prepared("F4_copy_of_a_mount_that_is_mounted_nowhere", Open, NoPath, |stage| {
            own_namespace()?;
            stage.pause()?;
            // Under the copy's root its path is `/etc/shadow`, and `/etc/**` is granted.
            read_at(&clone_tree(&at("closed"))?, c"etc/shadow")
        }),
        prepared("F4_file_system_that_is_mounted_nowhere", Mkdir, NoPath, |stage| {
            own_namespace()?;
            stage.pause()?;
            // SAFETY: strings that end in NUL; new descriptors.
            unsafe {
                let context = call("fsopen", libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0))?;
                let none = std::ptr::null::<u8>();
                call("fsconfig", libc::syscall(libc::SYS_fsconfig, context, 6, none, none, 0))?;
                let mount = call("fsmount", libc::syscall(libc::SYS_fsmount, context, 0, 0))? as i32;
                call("mkdirat", libc::mkdirat(mount, c"tmp".as_ptr(), 0o700).into())?;
            }
            Ok(())
        }),
        prepared("F4_move_mount", Move, Mount, |stage| {
            own_namespace()?;
            stage.pause()?;
            let tree = clone_tree(&at("closed"))?;
            // SAFETY: strings that end in NUL.
            call("move_mount", unsafe {
                libc::syscall(
                    libc::SYS_move_mount,
                    tree.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_FDCWD,
                    c(&at("open/dir")).as_ptr(),
                    MOVE_MOUNT_F_EMPTY_PATH,
                )
            })?;
            read(&at("open/dir/file"))
        })
        .seen_as(libc::EPERM),
        prepared("F4_umount_of_what_hides", Umount, Mount, |stage| {
            own_namespace()?;
            bind(&at("open/dir"), &at("open/dir"))?;
            stage.pause()?;
            // SAFETY: a string that ends in NUL.
            call("umount", unsafe { libc::umount2(c(&at("open/dir")).as_ptr(), libc::MNT_DETACH) }.into())
                .map(drop)
        })
        .seen_as(libc::EPERM),
        prepared("F4_pivot_root", Pivot, Mount, |stage| {
            own_namespace()?;
            // A root that has a parent: an initramfs is not let go.
            bind(&at("closed"), &at("closed"))?;
            bind(&at("closed/dir"), &at("closed/dir"))?;
            ok("chroot", std::os::unix::fs::chroot(at("closed")))?;
            stage.pause()?;
            ok("chdir", std::env::set_current_dir("/dir"))?;
            // SAFETY: strings that end in NUL.
            call("pivot_root", unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })
                .map(drop)
        })
        .seen_as(libc::EPERM),
        attack("F4_chroot", Open, Default, || {
            ok("chroot", std::os::unix::fs::chroot(at("closed")))?;
            read("/etc/shadow")
        }),
        attack("F6_root_of_another_process", Open, Default, || {
            // SAFETY: no pointers.
            let parent = unsafe { libc::getppid() };
            read(&format!("/proc/{parent}/root{}", at("closed/file")))
        }),
        attack("F6_dev_fd", Open, Default, || {
            let fd = name(&at("closed/file"))?;
            match fs::exists("/dev/fd") {
                Ok(true) => read(&format!("/dev/fd/{}", fd.as_raw_fd())),
                _ => Err(Failure::absent("/dev/fd", libc::ENOENT)),
            }
        }),
        attack("F9_memfd_by_descriptor", Open, Anonymous, || {
            // SAFETY: a string that ends in NUL; a new descriptor.
            let memfd = unsafe {
                let fd = call("memfd_create", libc::memfd_create(c"x".as_ptr(), libc::MFD_CLOEXEC).into())?;
                OwnedFd::from_raw_fd(fd as i32)
            };
            ok("copy", fs::copy(at("open/bin/tool"), format!("/proc/self/fd/{}", memfd.as_raw_fd())))?;
            execute(&memfd)
        }),
        attack("F9_program_that_was_removed", Open, Default, || {
            ok("copy", fs::copy(at("open/bin/tool"), at("open/gone")))?;
            ok("chmod", fs::set_permissions(at("open/gone"), fs::Permissions::from_mode(0o755)))?;
            let program = name(&at("open/gone"))?;
            ok("unlink", fs::remove_file(at("open/gone")))?;
            execute(&program)
        }),
        attack("F9_file_without_a_name", Open, Default, || {
            let flags = libc::O_TMPFILE | libc::O_WRONLY | libc::O_CLOEXEC;
            // SAFETY: a string that ends in NUL; a new descriptor.
            let file = unsafe {
                let fd =
                    call("open O_TMPFILE", libc::open(c(&at("open/dir")).as_ptr(), flags, 0o755).into())?;
                fs::File::from_raw_fd(fd as i32)
            };
            ok("copy", fs::copy(at("open/bin/tool"), format!("/proc/self/fd/{}", file.as_raw_fd())))?;
            let program = name(&format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            drop(file);
            execute(&program)
        }),
        attack("F12_mapped_for_writing", Open, Default, || {
            let file = fs::OpenOptions::new().read(true).write(true).open(at("closed/file"));
            let file = file.map_err(|e| Failure::of("open", &e))?;
            // SAFETY: a new mapping of the file's page; a byte within the file.
            unsafe {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                let map =
                    libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
                if map == libc::MAP_FAILED {
                    return Err(Failure::last("mmap"));
                }
                map.cast::<u8>().write_volatile(b'x');
            }
            Ok(())
        }),
        attack("F12_open_by_io_uring", Open, Default, || ring_open(false)),
        attack("S2_open_by_the_kernels_thread", Open, Default, || ring_open(true)),
        attack("F12_unlink_by_io_uring", Unlink, Default, || {
            let path = c(&at("closed/file"));
            ring(
                Entry {
                    opcode: uring::OP_UNLINKAT,
                    fd: libc::AT_FDCWD,
                    address: path.as_ptr().addr() as u64,
                    ..Entry::default()
                },
                false,
            )
        }),
        prepared("A36_file_in_a_message", Receive, Default, |stage| {
            let (ours, theirs) = Socket::pair()?;
            let file = open(&at("closed/file"))?;
            ours.pass(file.as_fd())?;
            drop(file);
            stage.pause()?;
            theirs.take().map(drop)
        }),
        prepared("A36_file_for_writing_in_a_message", Receive, Rule, |stage| {
            let (ours, theirs) = Socket::pair()?;
            let file = fs::OpenOptions::new().append(true).open(at("open/secret"));
            ours.pass(file.map_err(|e| Failure::of("open", &e))?.as_fd())?;
            stage.pause()?;
            theirs.take().map(drop)
        }),
        prepared("A36_file_of_another_process", Receive, Default, |stage| {
            let file = open(&at("closed/file"))?;
            stage.pause()?;
            // Its own table stands for another's: the kernel's check is the same.
            // SAFETY: no pointers; new descriptors.
            unsafe {
                let process =
                    call("pidfd_open", libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0))? as i32;
                call("pidfd_getfd", libc::syscall(libc::SYS_pidfd_getfd, process, file.as_raw_fd(), 0))?;
            }
            Ok(())
        }),
        attack("S7_root_of_openat2", Open, Default, || {
            let how = [0_u64, 0, 0x10]; // RESOLVE_IN_ROOT
            let root = name(&at("closed"))?;
            // SAFETY: a string that ends in NUL and a whole `struct open_how`.
            call("openat2", unsafe {
                let (how, size) = (how.as_ptr(), size_of_val(&how));
                libc::syscall(libc::SYS_openat2, root.as_raw_fd(), c"/etc/shadow".as_ptr(), how, size)
            })
            .map(drop)
        }),
        attack("S7_execveat", Open, Default, || execute(&name(&at("open/tool"))?)),
        attack("S7_clone3", Open, Default, || {
            let mut arguments = [0_u64; 11];
            arguments[4] = libc::SIGCHLD as u64;
            // SAFETY: a whole `struct clone_args` that asks for a plain child; it only opens and ends.
            unsafe {
                let size = size_of_val(&arguments);
                let child = call("clone3", libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size))?;
                if child == 0 {
                    let fd = libc::open(c(&at("closed/file")).as_ptr(), libc::O_RDONLY);
                    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(255);
                    libc::_exit(if fd < 0 { errno } else { 0 });
                }
                let mut status = 0;
                libc::waitpid(child as i32, &raw mut status, 0);
                match libc::WEXITSTATUS(status) {
                    0 => Ok(()),
                    errno => Err(Failure::new("open", errno)),
                }
            }
        }),
        attack("F14_newline_and_bytes_that_are_no_text", Mknod, Rule, || {
            let path = OsStr::from_bytes(b"/tmp/agent-monitor-files/open/.claude/a\nb\xff\xfe\x1b[2J");
            ok("create", fs::File::create_new(path))
        }),
        attack("F16_git_hook", Mknod, Rule, || {
            ok("create", fs::File::create_new(at("open/.git/hooks/post-checkout")))
        }),
        attack("F16_symlink_in_the_place_of_git_hooks", Hook::LsmPathSymlink, DeniedBelow, || {
            made_repository()?;
            ok("symlink", symlink("../made", at("open/dir/.git/hooks")))?;
            read(&at("open/dir/.git/hooks/post-checkout"))
        }),
        attack("F16_symlink_in_the_place_of_a_repository", Hook::LsmPathSymlink, DeniedBelow, || {
            made_repository()?;
            ok("mkdir", fs::create_dir(at("open/dir/other")))?;
            ok("rename", fs::rename(at("open/dir/made"), at("open/dir/hooks")))?;
            ok("symlink", symlink("..", at("open/dir/other/.git")))?;
            read(&at("open/dir/other/.git/hooks/post-checkout"))
        }),
        attack("F16_symlink_that_is_renamed_to_git_hooks", Hook::LsmPathRename, DeniedBelow, || {
            made_repository()?;
            ok("symlink", symlink("../made", at("open/dir/link")))?;
            ok("rename", fs::rename(at("open/dir/link"), at("open/dir/.git/hooks")))?;
            read(&at("open/dir/.git/hooks/post-checkout"))
        }),
        attack("F16_symlink_that_is_exchanged_for_git_hooks", Hook::LsmPathRename, DeniedBelow, || {
            made_repository()?;
            ok("create", fs::File::create_new(at("open/dir/.git/hooks")))?;
            ok("symlink", symlink("../made", at("open/dir/link")))?;
            exchange(&at("open/dir/.git/hooks"), &at("open/dir/link"))?;
            read(&at("open/dir/.git/hooks/post-checkout"))
        }),
        attack("F16_symlink_that_is_linked_to_git_hooks", Hook::LsmPathLink, DeniedBelow, || {
            made_repository()?;
            ok("symlink", symlink("../made", at("open/dir/link")))?;
            // Of the link itself: `link` follows none.
            ok("link", fs::hard_link(at("open/dir/link"), at("open/dir/.git/hooks")))?;
            read(&at("open/dir/.git/hooks/post-checkout"))
        }),
        attack("F16_shell_start_up", Open, Rule, || {
            ok("append", fs::OpenOptions::new().append(true).open(at("open/.bashrc")))
        }),
        attack("F16_rename_onto_shell_start_up", Hook::LsmPathRename, Rule, || {
            ok("rename", fs::rename(at("open/plain"), at("open/.bashrc")))
        }),
        attack("F16_servers_of_tools", Mknod, Rule, || {
            ok("create", fs::File::create_new(at("open/.mcp.json")))
        }),
        attack("F16_tasks_of_an_editor", Mknod, Rule, || {
            ok("create", fs::File::create_new(at("open/.vscode/tasks.json")))
        }),
        attack("F16_settings_of_the_agent", Mknod, Rule, || {
            ok("create", fs::File::create_new(at("open/.claude/settings.json")))
        }),
    ])
}

/// Sends to an address whose last byte another thread flips between what is granted and what is not.
fn flip_address(stage: &mut agent_monitor_tests::Stage) -> Attempt {
    stage.pause()?;
    let socket = Socket::udp4()?.into_fd();
    let mut address = Name::new(GRANTED4, SINK).bytes().to_vec();
    let (from, length) = (address.as_mut_ptr().addr() + 7, address.len() as u32);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = [3, 4].into_iter().cycle();
            while !over.load(Ordering::Relaxed) {
                let byte = last.next().unwrap_or(3);
                // SAFETY: a byte of the buffer; whoever reads it meanwhile gets the one or the other.
                unsafe { std::ptr::with_exposed_provenance_mut::<u8>(from).write_volatile(byte) };
            }
        });
        // SAFETY: as above.
        let now = || unsafe { std::ptr::with_exposed_provenance::<u8>(from).read_volatile() };
        let (mut sent, mut seen) = (0, [false; 2]);
        let until = Instant::now() + Duration::from_secs(20);
        // On a busy machine the other thread may be without a processor for all of the first sends.
        while sent < 500 || seen != [true; 2] && Instant::now() < until {
            let before = now();
            // SAFETY: the buffers outlive the call. A send that is refused is what the test counts.
            unsafe {
                let to = address.as_ptr().cast();
                libc::sendto(socket.as_raw_fd(), b"x".as_ptr().cast(), 1, 0, to, length);
            }
            sent += 1;
            if now() == before {
                seen[usize::from(before == 4)] = true;
            }
            if sent >= 500 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// No denied send leaves, and each denial tells the address that it was about.
fn address_race_is_lost(lab: &mut Lab) -> Result<()> {
    let run = lab.attack(lab::PROFILE, flip_address)?;
    ensure!(run.attempt.is_ok() && run.ungranted().next().is_none(), "{}", run.describe());
    ensure!(run.denials >= 1, "no send was denied in 500");
    for record in &run.records {
        let Body::Network(body) = &record.body else { bail!("{record:?}") };
        ensure!(body.address[12..] == [10, 9, 0, 4], "a denial of another address: {record:?}");
    }
    Ok(())
}

/// A repository without hooks, and hooks that the agent made beside it.
fn made_repository() -> Attempt {
    ok("mkdir", fs::create_dir(at("open/dir/.git")))?;
    ok("mkdir", fs::create_dir(at("open/dir/made")))?;
    ok("write", fs::write(at("open/dir/made/post-checkout"), "x"))
}

fn exchange(one: &str, other: &str) -> Attempt {
    let (one, other) = (c(one), c(other));
    // SAFETY: two strings that end in NUL.
    call("renameat2", unsafe {
        let (one, other) = (one.as_ptr(), other.as_ptr());
        libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, one, libc::AT_FDCWD, other, libc::RENAME_EXCHANGE)
    })
    .map(drop)
}

/// Directories on the way to what is denied are made, and symlinks beside it.
fn ways_are_made(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        made_repository()?;
        ok("mkdir", fs::create_dir(at("open/dir/.git/hooks")))?;
        ok("symlink in a repository", symlink("made", at("open/dir/.git/current")))?;
        ok("move it", fs::rename(at("open/dir/.git/current"), at("open/dir/.git/former")))?;
        ok("mkdir", fs::create_dir_all(at("open/node_modules/.bin")))?;
        ok("symlink of a tool", symlink("../tool/cli.js", at("open/node_modules/.bin/.tool-1")))?;
        ok("move it", fs::rename(at("open/node_modules/.bin/.tool-1"), at("open/node_modules/.bin/tool")))?;
        ok("link it", fs::hard_link(at("open/node_modules/.bin/tool"), at("open/node_modules/.bin/same")))?;
        // Below a denial of `deep/**/key`, which says nothing of this name.
        ok("symlink under a floating denial", symlink("b", at("open/deep/a/c")))?;
        ok("move it", fs::rename(at("open/deep/a/c"), at("open/deep/a/b/d")))?;
        ok("move it out", fs::rename(at("open/deep/a/b/d"), at("open/d")))?;
        ok("and in", fs::rename(at("open/d"), at("open/deep/a/e")))?;
        ok("remove", fs::remove_dir(at("open/dir/.git/hooks")))
    })?;
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    Ok(Completion::Completed)
}

pub fn trials() -> Vec<Trial> {
    let address = checked_pair("S4_address_that_changes_in_memory_meanwhile", address_race_is_lost, |lab| {
        let run = lab.unenforced(flip_address)?;
        ensure!(run.ungranted().next().is_some(), "{}", run.describe());
        Ok(())
    });
    let others = [
        lab::test("attributes_of_granted_files_change", attributes_work),
        lab::test("attributes_of_granted_files_on_an_overlay_change", overlay_works),
        lab::test("granted_files_are_received", received_work),
        lab::test("symlinks_beside_what_is_denied_and_directories_on_the_way_are_made", ways_are_made),
        lab::test("a_name_that_is_no_text_is_told_byte_by_byte", told_byte_by_byte),
    ];
    trials_of_attributes().chain(trials_of_ways()).chain(address).chain(others).collect()
}

/// All changes of attributes that the attacks try, in `directory`.
fn attributes(directory: &str) -> Attempt {
    let file = format!("{directory}/plain");
    set_xattr(&file, XATTR, b"x")?;
    set_xattr(&file, ACL, &ACL_BYTES)?;
    remove_xattr(&file, ACL)?;
    remove_xattr(&file, XATTR)?;
    set_times(&file)?;
    let opened = open(&file)?;
    // SAFETY: null: the time of the call.
    call("futimens", unsafe { libc::futimens(opened.as_raw_fd(), std::ptr::null()) }.into())?;
    match set_flags(&opened) {
        Err(failure) if !failure.is_absence() => Err(failure),
        _ => Ok(()),
    }
}

fn works(lab: &mut Lab, body: impl FnOnce(&mut agent_monitor_tests::Stage) -> Attempt) -> Result<Completion> {
    plant()?;
    let run = lab.attack(PROFILE, body)?;
    if let Err(failure) = &run.attempt
        && failure.is_absence()
    {
        return Ok(Completion::ignored_with(format!("not in this kernel: {failure}")));
    }
    ensure!(run.attempt.is_ok() && run.denials == 0, "{}", run.describe());
    Ok(Completion::Completed)
}

fn attributes_work(lab: &mut Lab) -> Result<Completion> {
    works(lab, |stage| {
        stage.pause()?;
        attributes(&at("open"))
    })
}

/// The file system below is changed in the agent's name, at its first write by a copy.
fn overlay_works(lab: &mut Lab) -> Result<Completion> {
    works(lab, |stage| {
        for directory in ["closed/low", "closed/up", "closed/work", "open/over"] {
            ok("mkdir", fs::create_dir(at(directory)))?;
        }
        ok("write", fs::write(at("closed/low/plain"), "contents"))?;
        ok("write", fs::write(at("closed/low/other"), "contents"))?;
        own_namespace()?;
        let options = c(&format!(
            "lowerdir={},upperdir={},workdir={}",
            at("closed/low"),
            at("closed/up"),
            at("closed/work")
        ));
        // SAFETY: strings that end in NUL.
        unsafe {
            let (target, data) = (c(&at("open/over")), options.as_ptr().cast());
            let mounted =
                libc::mount(c"overlay".as_ptr(), target.as_ptr(), c"overlay".as_ptr(), 0, data).into();
            call("mount", mounted).map_err(|f| Failure::absent("overlay", f.errno))?;
        }
        stage.pause()?;
        attributes(&at("open/over"))?;
        ok("append", fs::OpenOptions::new().append(true).open(at("open/over/other")))?;
        ok("create", fs::write(at("open/over/new"), "x"))?;
        attributes(&at("open/over"))
    })
}

fn received_work(lab: &mut Lab) -> Result<Completion> {
    works(lab, |stage| {
        let (ours, theirs) = Socket::pair()?;
        let (reader, _writer) = std::io::pipe().map_err(|e| Failure::of("pipe", &e))?;
        ours.pass(open(&at("open/plain"))?.as_fd())?;
        ours.pass(reader.as_fd())?;
        // Names an object and opens nothing: judged where it is opened.
        ours.pass(name(&at("closed/file"))?.as_fd())?;
        stage.pause()?;
        for _ in 0..3 {
            theirs.take()?;
        }
        Ok(())
    })
}

fn told_byte_by_byte(lab: &mut Lab) -> Result<Completion> {
    plant()?;
    if !lab.monitor()?.works("lsm/file_open") {
        return Ok(Completion::ignored_with(lab.monitor()?.blind("lsm/file_open")?));
    }
    const NAME: &[u8] = b"/tmp/agent-monitor-files/closed/a\nb\xff\xfe\x1b[2J";
    fs::write(OsStr::from_bytes(NAME), "contents")?;
    let run = lab.attack(PROFILE, |stage| {
        stage.pause()?;
        ok("read", fs::read(OsStr::from_bytes(NAME)))
    })?;
    let [record] = run.records.as_slice() else { bail!("{}", run.describe()) };
    let Body::File { body, path } = &record.body else { bail!("{}", run.describe()) };
    ensure!(path == NAME && body.path_total as usize == NAME.len(), "{}", run.describe());
    Ok(Completion::Completed)
}
