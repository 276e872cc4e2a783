//! Which program a process runs: the class that its profile's rules (`exe:`, `except:`) give it.
//!
//! Called by the exec hook for every exec of a labelled process, and by the iterators for what lives already. A program
//! is its file, by the path that the file has in the mount namespace in which the agent was labelled. Whatever can't be
//! told is [`UNKNOWN_CLASS`]: no grant that asks for a program holds, every denial does.
//!
//! A cell of a label is written after the program was looked at, and the process may exec meanwhile. So each exec counts
//! first ([`Label::execs`]), and a cell holds the count for which it was found.

use agent_monitor_common::automaton::accept;
use agent_monitor_common::counters::Site;
use agent_monitor_common::image::{PLAIN_CLASS, UNKNOWN_CLASS, field, header};
use agent_monitor_common::label::{Label, class_cell, program_identity};
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use crate::automaton;
use crate::kernel::{offset, read, typed};
use crate::path::{self, Place, Scratch};
use crate::subject::{Table, standing};

/// The identity of an open file as a program.
///
/// # Safety
/// `file` is a typed `struct file *` that is not null.
#[inline(always)]
pub unsafe fn identity(file: *const c_void) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        let inode: *const c_void = typed(file, offset!(file_inode));
        // VERIFIER: "math between trusted_ptr_ pointer and register": a pointer that was loaded typed is no number.
        let address = read::<u64>((file as u64).wrapping_add(offset!(file_inode) as u64)).unwrap_or(0);
        program_identity(address, typed(inode, offset!(inode_ino)))
    }
}

/// Walks the path of an open file. `Err`: it has none.
///
/// # Safety
/// `s` is the current task's scratch; `file` as in [`identity`].
#[inline(always)]
pub unsafe fn walk(s: *mut Scratch, file: *const c_void) -> Result<(), Site> {
    // SAFETY: the caller's promise.
    unsafe {
        let mnt: u64 = typed(file, offset!(file_path) + offset!(path_mnt));
        let dentry: u64 = typed(file, offset!(file_path) + offset!(path_dentry));
        match path::place(mnt)? {
            Place::Internal => Err(Site::PathWalk),
            Place::Mounted => path::walk(s, mnt, dentry),
        }
    }
}

/// The mount namespace of the walked path, as the kernel's address; 0: not known.
///
/// # Safety
/// `s` is the current task's scratch, with a walked path.
#[inline(always)]
pub unsafe fn mounts(s: *mut Scratch) -> u64 {
    // SAFETY: the caller's promise.
    let top = unsafe { path::top_mount(s) };
    read::<u64>(top.wrapping_add(offset!(mount_ns) as u64)).unwrap_or(0)
}

/// The class of the walked program by an image, for a process that was labelled in `namespace`.
///
/// # Safety
/// As [`mounts`].
#[inline(always)]
pub unsafe fn class_of_walked(s: *mut Scratch, table: Table, namespace: u64) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        if namespace == 0 || mounts(s) != namespace {
            return UNKNOWN_CLASS;
        }
        let state = automaton::run(table, field(&table, header::START_EXE) as u32, s);
        accept(&table, state).wrapping_add(PLAIN_CLASS)
    }
}

/// Notes in the label of the current process, which just executed, what it runs now.
///
/// # Safety
/// `label` is the current process' element of the label map; `s` its scratch, with the program's path walked if `walked`.
#[inline(always)]
pub unsafe fn executed(label: *mut Label, s: *mut Scratch, walked: bool, identity: u64) {
    // SAFETY: the caller's promise. Whole words: an iterator may read and write this label at the same time.
    unsafe {
        let execs = read_volatile(&raw const (*label).execs).wrapping_add(1);
        // From here both cells are untrue.
        write_volatile(&raw mut (*label).execs, execs);
        write_volatile(&raw mut (*label).program, identity);
        if !walked {
            return;
        }
        let Some(standing) = standing((*label).profile) else { return };
        let (Some(table), generation) = (standing.table(), standing.generation) else { return };
        let class = class_of_walked(s, table, (*label).mounts);
        set_cell(label, class, generation, execs);
    }
}

/// Writes the cell of a generation.
///
/// # Safety
/// `label` is an element of the label map.
#[inline(always)]
pub unsafe fn set_cell(label: *mut Label, class: u32, generation: u32, execs: u32) {
    let cell = class_cell(class, generation, execs);
    // SAFETY: the caller's promise.
    unsafe {
        if generation & 1 == 0 {
            write_volatile(&raw mut (*label).classes[0], cell);
        } else {
            write_volatile(&raw mut (*label).classes[1], cell);
        }
    }
}

/// The file of the program that `task` runs; null: none (a kernel thread, an exiting process).
///
/// # Safety
/// `task` is a typed task pointer.
#[inline(always)]
pub unsafe fn of_task(task: *const c_void) -> *const c_void {
    // SAFETY: the caller's promise; the verifier turns a fault into zero.
    unsafe {
        let mm: *const c_void = typed(task, offset!(task_mm));
        if mm.is_null() { core::ptr::null() } else { typed(mm, offset!(mm_exe_file)) }
    }
}
