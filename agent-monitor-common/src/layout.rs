//! The kernel fields that the programs read, as one table.
//!
//! rustc cannot emit CO-RE relocations. The macro makes of the table (a) the struct of offsets that the loader writes
//! into `.rodata` (frozen, so the verifier sees constants) and (b) the list that the loader resolves against the
//! running kernel's BTF, descending into anonymous structs and unions. Adding a field is one line. Of a kernel function
//! (`"name()"`) it is the number of the argument that has one of the names; of `"struct bits"`, the offset in bits.

/// Offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// One field to resolve.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name in [`Layout`].
    pub name: &'static str,
    /// The kernel's struct, `name bits` for an offset in bits; `name()`: a function of the kernel.
    pub of: &'static str,
    /// Names that the field has had, newest first.
    pub names: &'static [&'static str],
    /// Without it no program is loaded.
    pub required: bool,
}

macro_rules! layout {
    ($($(#[$meta:meta])* $name:ident = $of:literal : $($alt:literal)|+ $need:ident;)*) => {
        /// Offsets of kernel fields, in bytes but where they say otherwise; numbers of arguments.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Layout { $($(#[$meta])* pub $name: u32,)* }

        impl Layout {
            /// Nothing resolved.
            pub const ABSENT: Layout = Layout { $($name: ABSENT,)* };
            /// What to resolve, in the order of the struct's words.
            pub const FIELDS: &'static [Field] = &[
                $(Field { name: stringify!($name), of: $of, names: &[$($alt),+], required: layout!(@ $need) },)*
            ];
            /// Sets the `index`th field of [`Layout::FIELDS`].
            pub fn set(&mut self, index: usize, offset: u32) {
                let mut i = 0;
                $(if i == index { self.$name = offset; } i += 1;)*
                let _ = i;
            }
        }
        // SAFETY: repr(C), `u32` fields only.
        unsafe impl crate::wire::Wire for Layout {}
    };
    (@ required) => { true };
    (@ optional) => { false };
}

layout! {
    task_tgid = "task_struct": "tgid" required;
    task_pid = "task_struct": "pid" required;
    task_signal = "task_struct": "signal" required;
    task_parent = "task_struct": "real_parent" required;
    task_mm = "task_struct": "mm" required;
    task_cred = "task_struct": "cred" required;
    task_real_cred = "task_struct": "real_cred" required;
    task_nsproxy = "task_struct": "nsproxy" required;
    nsproxy_mnt = "nsproxy": "mnt_ns" required;
    /// Counts the changes of a namespace's mounts.
    mnt_namespace_event = "mnt_namespace": "event" optional;
    /// One bit, by its number: set from the beginning of an exec to its end, well or not.
    task_in_execve = "task_struct bits": "in_execve" optional;
    task_exit_code = "task_struct": "exit_code" required;
    /// x86: `thread_info.status` holds `TS_COMPAT`.
    task_thread_info = "task_struct": "thread_info" optional;
    thread_info_status = "thread_info": "status" optional;
    signal_live = "signal_struct": "live" required;
    mm_arg_start = "mm_struct": "arg_start" required;
    mm_arg_end = "mm_struct": "arg_end" required;
    mm_exe_file = "mm_struct": "exe_file" required;
    bprm_file = "linux_binprm": "file" required;
    bprm_cred = "linux_binprm": "cred" required;
    cred_uid = "cred": "uid" required;
    cred_suid = "cred": "suid" required;
    cred_euid = "cred": "euid" required;
    cred_fsuid = "cred": "fsuid" required;
    cred_gid = "cred": "gid" required;
    cred_sgid = "cred": "sgid" required;
    cred_egid = "cred": "egid" required;
    cred_fsgid = "cred": "fsgid" required;
    cred_permitted = "cred": "cap_permitted" required;
    userns_level = "user_namespace": "level" required;
    file_path = "file": "f_path" required;
    file_inode = "file": "f_inode" required;
    vma_file = "vm_area_struct": "vm_file" required;
    file_flags = "file": "f_flags" required;
    file_mode = "file": "f_mode" required;
    inode_ino = "inode": "i_ino" required;
    inode_sb = "inode": "i_sb" required;
    inode_generation = "inode": "i_generation" required;
    inode_size = "inode": "i_size" required;
    /// Seconds; before 6.11 the beginning of a `struct timespec64`.
    inode_mtime = "inode": "i_mtime_sec" | "__i_mtime" | "i_mtime" required;
    inode_mtime_nsec = "inode": "i_mtime_nsec" optional;
    inode_ctime = "inode": "i_ctime_sec" | "__i_ctime" | "i_ctime" required;
    inode_ctime_nsec = "inode": "i_ctime_nsec" optional;
    sb_dev = "super_block": "s_dev" required;
    inode_mode = "inode": "i_mode" required;
    /// 0 before 6.9, then 1 (behind the mount's id map).
    inode_setattr_dentry = "bpf_lsm_inode_setattr()": "dentry" optional;
    iattr_valid = "iattr": "ia_valid" required;
    dentry_inode = "dentry": "d_inode" required;
    path_mnt = "path": "mnt" required;
    path_dentry = "path": "dentry" required;
    dentry_sb = "dentry": "d_sb" required;
    dentry_parent = "dentry": "d_parent" required;
    dentry_name = "dentry": "d_name" required;
    /// Where a short name lies in its entry.
    dentry_short_name = "dentry": "d_shortname" | "d_iname" required;
    qstr_len = "qstr": "len" required;
    qstr_name = "qstr": "name" required;
    qstr_hash = "qstr": "hash" required;
    mount_parent = "mount": "mnt_parent" required;
    mount_mountpoint = "mount": "mnt_mountpoint" required;
    mount_mnt = "mount": "mnt" required;
    mount_ns = "mount": "mnt_ns" required;
    mount_id = "mount": "mnt_id" required;
    vfsmount_root = "vfsmount": "mnt_root" required;
    vfsmount_sb = "vfsmount": "mnt_sb" required;
    socket_sk = "socket": "sk" required;
    sk_common = "sock": "__sk_common" required;
    sk_protocol = "sock": "sk_protocol" required;
    /// The cgroup whose programs the kernel runs for a socket: that of the task that made it.
    sk_cgroup_data = "sock": "sk_cgrp_data" required;
    sock_cgroup = "sock_cgroup_data": "cgroup" required;
    cgroup_level = "cgroup": "level" required;
    cgroup_ancestors = "cgroup": "ancestors" required;
    cgroup_node = "cgroup": "kn" required;
    kernfs_id = "kernfs_node": "id" required;
    msg_name = "msghdr": "msg_name" required;
    msg_name_length = "msghdr": "msg_namelen" required;
    skc_family = "sock_common": "skc_family" required;
    skc_daddr = "sock_common": "skc_daddr" required;
    skc_rcv_saddr = "sock_common": "skc_rcv_saddr" required;
    skc_dport = "sock_common": "skc_dport" required;
    skc_num = "sock_common": "skc_num" required;
    unix_path = "unix_sock": "path" optional;
    unix_address = "unix_sock": "addr" optional;
    unix_address_length = "unix_address": "len" optional;
    unix_address_name = "unix_address": "name" optional;
    skc_v6_daddr = "sock_common": "skc_v6_daddr" optional;
    skc_v6_rcv_saddr = "sock_common": "skc_v6_rcv_saddr" optional;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;

    #[test]
    fn words_and_fields_are_in_one_order() {
        let mut layout = Layout::ABSENT;
        for i in 0..Layout::FIELDS.len() {
            layout.set(i, i as u32);
        }
        assert_eq!(size_of::<Layout>(), 4 * Layout::FIELDS.len());
        for (i, word) in layout.as_bytes().chunks(4).enumerate() {
            assert_eq!(word, (i as u32).to_ne_bytes(), "{}", Layout::FIELDS[i].name);
        }
    }
}
