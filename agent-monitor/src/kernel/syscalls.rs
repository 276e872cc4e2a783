//! The few `bpf(2)` calls that aya has no form for: large map values by pointer, inner maps by descriptor, what a
//! pinned link attaches and where.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;

/// `union bpf_attr` of the map element commands (linux/bpf.h).
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(command: libc::c_long, map: BorrowedFd<'_>, key: Option<&u32>, value: u64) -> io::Result<()> {
    let key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    let attr = ElementAttr { map_fd: map.as_raw_fd() as u32, pad: 0, key, value, flags: 0 };
    // SAFETY: the attribute outlives the call; the callers pass a value as long as the map's values (or keys).
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<ElementAttr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `InvalidData` where a map's values are not as long as `value`: the kernel would read or write past its end.
fn same_size<T>(map: BorrowedFd<'_>, value: &[T]) -> io::Result<()> {
    let (theirs, ours) = (map_info(map)?.value_size as usize, size_of_val(value));
    if theirs == ours {
        return Ok(());
    }
    let text = format!("the map's values have {theirs} bytes, and {ours} are meant");
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Writes element `key` of an array map whose values are `value.len()` words.
pub fn write_words(map: BorrowedFd<'_>, key: u32, value: &[u64]) -> io::Result<()> {
    same_size(map, value)?;
    element(BPF_MAP_UPDATE_ELEM, map, Some(&key), value.as_ptr() as u64)
}

/// Reads element `key` of an array map whose values are `value.len()` words.
pub fn read_words(map: BorrowedFd<'_>, key: u32, value: &mut [u64]) -> io::Result<()> {
    same_size(map, value)?;
    element(BPF_MAP_LOOKUP_ELEM, map, Some(&key), value.as_mut_ptr() as u64)
}

/// Reads element `key` of a hash map that `info` tells of into the front of `value`; false: there is none.
pub fn read_value(map: BorrowedFd<'_>, key: u32, info: &MapInfo, value: &mut [u8]) -> io::Result<bool> {
    assert!(value.len() >= info.value_size as usize, "the kernel would write past the end");
    match element(BPF_MAP_LOOKUP_ELEM, map, Some(&key), value.as_mut_ptr() as u64) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done.map(|()| true),
    }
}

/// Writes element `key` of a hash map whose values are `value.len()` bytes.
#[cfg(test)]
pub fn write_value(map: BorrowedFd<'_>, key: u32, value: &[u8]) -> io::Result<()> {
    same_size(map, value)?;
    element(BPF_MAP_UPDATE_ELEM, map, Some(&key), value.as_ptr() as u64)
}

/// The key of four bytes that follows `key`; of none, or of one that is gone: the first.
pub fn next_key(map: BorrowedFd<'_>, key: Option<&u32>) -> io::Result<Option<u32>> {
    let mut next = 0_u32;
    match element(BPF_MAP_GET_NEXT_KEY, map, key, &raw mut next as u64) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(|()| Some(next)),
    }
}

/// `union bpf_attr` of `BPF_MAP_CREATE`, as far as array maps need it (linux/bpf.h).
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// A one-element array map whose value is `value`.
pub fn create_words(name: &[u8; 16], value: &[u64]) -> io::Result<OwnedFd> {
    let attr = CreateAttr {
        map_type: 2, // BPF_MAP_TYPE_ARRAY
        key_size: 4,
        value_size: size_of_val(value) as u32,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: *name,
    };
    // SAFETY: the attribute outlives the call; a descriptor that is returned is ours.
    let map = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<CreateAttr>());
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    write_words(map.as_fd(), 0, value)?;
    Ok(map)
}

/// Hangs `inner` into element `key` of a map of maps.
pub fn write_map(outer: BorrowedFd<'_>, key: u32, inner: &OwnedFd) -> io::Result<()> {
    let fd = inner.as_raw_fd() as u32;
    element(BPF_MAP_UPDATE_ELEM, outer, Some(&key), std::ptr::from_ref(&fd) as u64)
}

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// `union bpf_attr` of the pin commands (linux/bpf.h).
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn terminated(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Pins a map, program or link in a BPF file system.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = terminated(path)?;
    let attr = PinAttr { path: path.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the attribute and the text that it points to outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &raw const attr, size_of::<PinAttr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens what is pinned at `path`.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = terminated(path)?;
    let attr = PinAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: as above; a descriptor that is returned is ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of::<PinAttr>());
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

/// What `struct bpf_link_info` says, as far as it is asked for (linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkInfo {
    kind: u32,
    id: u32,
    /// The program that it attaches.
    pub program: u32,
    pad: u32,
    /// Of cgroup links: the cgroup; 0: the link was detached or its cgroup is gone.
    pub cgroup: u64,
    rest: [u64; 6],
}

/// What a link attaches, and where.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    object_info(link)
}

/// What `struct bpf_map_info` says, as far as it is asked for (linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MapInfo {
    kind: u32,
    id: u32,
    /// In bytes.
    pub key_size: u32,
    /// In bytes.
    pub value_size: u32,
    pub max_entries: u32,
    flags: u32,
}

/// How a map is made.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    object_info(map)
}

/// A struct of integers that the kernel fills the front of.
trait Info: Copy + Default {}
impl Info for LinkInfo {}
impl Info for MapInfo {}

fn object_info<T: Info>(object: BorrowedFd<'_>) -> io::Result<T> {
    #[repr(C)]
    struct InfoAttr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = T::default();
    let attr =
        InfoAttr { fd: object.as_raw_fd() as u32, length: size_of::<T>() as u32, info: &raw mut info as u64 };
    // SAFETY: the kernel writes at most `length` bytes of integers to `info`, which outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attr, size_of::<InfoAttr>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

/// A map or program by its number.
fn by_id(command: libc::c_long, id: u32) -> io::Result<OwnedFd> {
    let attr = [id, 0, 0];
    // SAFETY: the attribute (id, next id, flags) outlives the call; a descriptor that is returned is ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of_val(&attr));
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

/// Whether something holds the program of this number still. A link holds its program until it is detached.
pub fn program_lives(id: u32) -> bool {
    !by_id(BPF_PROG_GET_FD_BY_ID, id).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Reads the one element of the array map that hangs in element `key` of a map of maps.
pub fn read_inner(outer: BorrowedFd<'_>, key: u32, value: &mut [u64]) -> io::Result<()> {
    let mut id = 0_u32;
    element(BPF_MAP_LOOKUP_ELEM, outer, Some(&key), &raw mut id as u64)?;
    let inner = by_id(BPF_MAP_GET_FD_BY_ID, id)?;
    read_words(inner.as_fd(), 0, value)
}

/// An empty hash map with keys of four bytes.
pub fn create_hash(name: &[u8; 16], value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let attr = CreateAttr {
        map_type: 1, // BPF_MAP_TYPE_HASH
        key_size: 4,
        value_size,
        max_entries,
        map_flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: *name,
    };
    // SAFETY: as in `create_words`.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<CreateAttr>());
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}
