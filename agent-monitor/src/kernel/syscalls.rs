//! The few `bpf(2)` calls that aya has no form for: large map values by pointer, inner maps by descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

/// `union bpf_attr` of the map element commands (linux/bpf.h).
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(command: libc::c_long, map: BorrowedFd<'_>, key: &u32, value: u64) -> io::Result<()> {
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value,
        flags: 0,
    };
    // SAFETY: the attribute outlives the call; the callers pass a value as long as the map's values.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<ElementAttr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes element `key` of an array map whose values are `value.len()` words.
pub fn write_words(map: BorrowedFd<'_>, key: u32, value: &[u64]) -> io::Result<()> {
    element(BPF_MAP_UPDATE_ELEM, map, &key, value.as_ptr() as u64)
}

/// Reads element `key` of an array map whose values are `value.len()` words.
pub fn read_words(map: BorrowedFd<'_>, key: u32, value: &mut [u64]) -> io::Result<()> {
    element(BPF_MAP_LOOKUP_ELEM, map, &key, value.as_mut_ptr() as u64)
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
    element(BPF_MAP_UPDATE_ELEM, outer, &key, std::ptr::from_ref(&fd) as u64)
}
