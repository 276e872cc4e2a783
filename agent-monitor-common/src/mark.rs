//! Marks: objects that a profile's rules deny, by what they are and not by name.
//!
//! A rule speaks of paths. An object that has a second name since before the agent was (a hard link, a bind mount, a
//! snapshot) is found under that name all the same: when an image is put in force, the daemon looks for what its rules
//! deny and marks it. A mark holds for one generation of one profile, so an older image's marks are nobody's.

use crate::wire_struct;

/// Marks at one time, of all profiles.
pub const MAX_MARKS: usize = 65_536;

wire_struct! {
    /// Whose object is denied what. The object is told by file system, inode number and inode generation, which together
    /// are not used again where the file system keeps generations.
    pub struct MarkKey: 32 {
        /// `i_ino`.
        pub inode: u64,
        /// `s_dev` of its file system, as the kernel keeps it.
        pub device: u32,
        /// `i_generation`.
        pub version: u32,
        /// Generation of the profile's image.
        pub generation: u32,
        /// Profile slot.
        pub profile: u32,
        /// Class of the program.
        pub class: u32,
        /// Zero.
        pub pad: u32,
    }
}

wire_struct! {
    /// What is denied.
    pub struct Mark: 8 {
        /// [`crate::path::Rights`] on the object itself.
        pub denied: u32,
        /// Of a directory: rights on whatever lies in it.
        pub inside: u32,
    }
}

wire_struct! {
    /// When an object was changed last, as far as its file system tells, and its size.
    pub struct Stamp: 32 {
        /// Seconds since 1970 of `mtime`.
        pub modified: u64,
        /// Seconds since 1970 of `ctime`.
        pub changed: u64,
        /// Nanoseconds of `mtime`.
        pub modified_nanos: u32,
        /// Nanoseconds of `ctime`.
        pub changed_nanos: u32,
        /// Bytes.
        pub size: u64,
    }
}

wire_struct! {
    /// One line of the object iterator: what an open descriptor is.
    pub struct ObjectLine: 56 {
        /// `i_ino`.
        pub inode: u64,
        /// `s_dev`.
        pub device: u32,
        /// `i_generation`.
        pub version: u32,
        /// The descriptor.
        pub fd: u32,
        /// Zero.
        pub pad: u32,
        pub stamp: Stamp,
    }
}
