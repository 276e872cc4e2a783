//! What another tool on the host can do by raw `bpf(2)`: attach a tiny cgroup program of its own, list those that are
//! attached, read and write a map.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const LINK_DETACH: i32 = 34;

/// `bpf_prog_type` and `bpf_attach_type` of a cgroup hook.
#[derive(Clone, Copy)]
pub struct CgroupHook {
    pub program: u32,
    pub attach: u32,
}

pub const CONNECT4: CgroupHook = CgroupHook { program: 18, attach: 10 };
pub const SENDMSG4: CgroupHook = CgroupHook { program: 18, attach: 14 };
pub const EGRESS: CgroupHook = CgroupHook { program: 8, attach: 1 };
pub const SOCK_CREATE: CgroupHook = CgroupHook { program: 9, attach: 2 };

/// Flags of `BPF_PROG_ATTACH`.
pub const ALLOW_OVERRIDE: u32 = 1;
pub const ALLOW_MULTI: u32 = 2;

/// A program that was attached; detached on drop.
pub struct Attached {
    program: OwnedFd,
    cgroup: File,
    hook: CgroupHook,
}

/// 64-bit words of `union bpf_attr` that these calls use.
type Attributes = [u64; 16];

fn bpf(command: i32, attributes: &mut Attributes) -> io::Result<i64> {
    // SAFETY: the kernel reads `attributes` up to its size; pointers in it outlive the call (callers).
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const MOV_R1_0: u64 = 0xb7 | 1 << 8;
const CALL_SET_RETVAL: u64 = 0x85 | 187 << 32;
const MOV_R0_0: u64 = 0xb7;
const MOV_R0_1: u64 = 0xb7 | 1 << 32;
const EXIT: u64 = 0x95;

/// Instructions: `r1 = 0; call bpf_set_retval; r0 = 1; exit` where the hook has that helper, else `r0 = 1; exit`.
fn allow_all(hook: CgroupHook, clear_errno: bool) -> Vec<u64> {
    if clear_errno && hook.program != EGRESS.program {
        return vec![MOV_R1_0, CALL_SET_RETVAL, MOV_R0_1, EXIT];
    }
    vec![MOV_R0_1, EXIT]
}

/// Attaches to `cgroup` a program that allows everything and, with `clear_errno`, takes an earlier denial back.
pub fn attach_allow_all(
    cgroup: &Cgroup,
    hook: CgroupHook,
    flags: u32,
    clear_errno: bool,
) -> Result<Attached> {
    attach(cgroup, hook, flags, &allow_all(hook, clear_errno))
}

/// Attaches to `cgroup` a program that denies everything: a monitor that has nothing but this.
pub fn attach_deny_all(cgroup: &Cgroup, hook: CgroupHook, flags: u32) -> Result<Attached> {
    attach(cgroup, hook, flags, &[MOV_R0_0, EXIT])
}

fn attach(cgroup: &Cgroup, hook: CgroupHook, flags: u32, instructions: &[u64]) -> Result<Attached> {
    let license = CString::new("GPL")?;
    let mut load: Attributes = [0; 16];
    load[0] = u64::from(hook.program) | (instructions.len() as u64) << 32;
    load[1] = instructions.as_ptr().addr() as u64;
    load[2] = license.as_ptr().addr() as u64;
    load[8] = u64::from(hook.attach) << 32; // expected_attach_type at byte 68
    let fd = bpf(PROG_LOAD, &mut load).context("load a program of another loader")?;
    // SAFETY: a new descriptor of ours.
    let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let cgroup = File::open(cgroup.path())?;
    let mut attach = target(&cgroup, &program, hook);
    attach[1] |= u64::from(flags) << 32;
    bpf(PROG_ATTACH, &mut attach).context("attach a program of another loader")?;
    Ok(Attached { program, cgroup, hook })
}

/// `target_fd`, `attach_bpf_fd`, `attach_type` (then `attach_flags`).
fn target(cgroup: &File, program: &OwnedFd, hook: CgroupHook) -> Attributes {
    let mut attributes = [0; 16];
    attributes[0] = cgroup.as_raw_fd() as u64 | (program.as_raw_fd() as u64) << 32;
    attributes[1] = u64::from(hook.attach);
    attributes
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut detach = target(&self.cgroup, &self.program, self.hook);
        // A failure leaves the program until its cgroup goes, which is the test's own and removed next.
        let _ = bpf(PROG_DETACH, &mut detach);
    }
}

/// Ids of the programs that are attached to `cgroup` itself.
pub fn attached(cgroup: &Cgroup, hook: CgroupHook) -> Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64];
    let cgroup = File::open(cgroup.path())?;
    let mut query: Attributes = [0; 16];
    query[0] = cgroup.as_raw_fd() as u64 | u64::from(hook.attach) << 32;
    query[2] = ids.as_mut_ptr().addr() as u64;
    query[3] = ids.len() as u64;
    bpf(PROG_QUERY, &mut query).context("list a cgroup's programs")?;
    ids.truncate(query[3] as u32 as usize);
    Ok(ids)
}

/// Makes a map of this `enum bpf_map_type` with keys of four bytes and values of `length`.
pub fn create_map(kind: u32, length: u32, entries: u32) -> Result<OwnedFd> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = u64::from(kind) | 4 << 32; // map_type, key_size
    attributes[1] = u64::from(length) | u64::from(entries) << 32; // value_size, max_entries
    let fd = bpf(MAP_CREATE, &mut attributes).context("create a map")?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Writes one element; a preallocated map that is full answers `E2BIG`.
pub fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attributes = [0; 16];
    attributes[0] = map.as_raw_fd() as u64;
    attributes[1] = key.as_ptr().addr() as u64;
    attributes[2] = value.as_ptr().addr() as u64;
    bpf(MAP_UPDATE, &mut attributes).map(drop)
}

/// Reads one element; `value` has the size of the map's values.
pub fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attributes = [0; 16];
    attributes[0] = map.as_raw_fd() as u64;
    attributes[1] = key.as_ptr().addr() as u64;
    attributes[2] = value.as_mut_ptr().addr() as u64;
    bpf(MAP_LOOKUP, &mut attributes).map(drop)
}

/// Takes one element out.
pub fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attributes = [0; 16];
    attributes[0] = map.as_raw_fd() as u64;
    attributes[1] = key.as_ptr().addr() as u64;
    bpf(MAP_DELETE, &mut attributes).map(drop)
}

/// Pins a map in a BPF file system.
pub fn pin(map: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes: Attributes = [0; 16];
    attributes[0] = text.as_ptr().addr() as u64;
    attributes[1] = map.as_raw_fd() as u64;
    bpf(OBJ_PIN, &mut attributes).with_context(|| format!("pin at {}", path.display())).map(drop)
}

/// Opens what is pinned at `path`.
pub fn open_pin(path: &Path) -> Result<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes: Attributes = [0; 16];
    attributes[0] = text.as_ptr().addr() as u64;
    let fd = bpf(OBJ_GET, &mut attributes).with_context(|| format!("open the pin {}", path.display()))?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The id of a program.
pub fn program_id(program: BorrowedFd<'_>) -> Result<u32> {
    // `struct bpf_prog_info`: type, then id.
    let mut info = [0_u32; 2];
    let mut attributes: Attributes = [0; 16];
    attributes[0] = program.as_raw_fd() as u64 | (size_of_val(&info) as u64) << 32;
    attributes[1] = info.as_mut_ptr().addr() as u64;
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes).context("ask about a program")?;
    Ok(info[1])
}

/// A program by its id; `ENOENT`: it is gone.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = u64::from(id);
    let fd = bpf(PROG_GET_FD_BY_ID, &mut attributes)?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes a link's program off; the kernel offers it for cgroup links and a few others.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = link.as_raw_fd() as u64;
    bpf(LINK_DETACH, &mut attributes).map(drop)
}
