//! What an internet socket is bound and connected to, read through a typed `struct sock *`.
//!
//! For LSM programs and iterators; cgroup programs have it in their context.

use agent_monitor_common::layout::ABSENT;
use agent_monitor_common::request::{AF_INET, AF_INET6, Address};
use core::ffi::c_void;

use crate::kernel::{offset, typed};

/// Both ends of an AF_INET or AF_INET6 socket; a side that is not set is zero.
pub struct Ends {
    pub local: Address,
    pub local_port: u16,
    pub remote: Address,
    pub remote_port: u16,
    pub ip_protocol: u16,
    pub family: u16,
}

/// The ends of `sk`; `None`: a socket of another family.
///
/// # Safety
/// `sk` is a typed socket pointer that is not null.
#[inline(always)]
pub unsafe fn ends(sk: *const c_void) -> Option<Ends> {
    // SAFETY: the caller's promise.
    unsafe {
        let common = offset!(sk_common);
        let family: u16 = typed(sk, common + offset!(skc_family));
        let (local, remote) = match family as u32 {
            AF_INET => (
                Address::v4(typed(sk, common + offset!(skc_rcv_saddr))),
                Address::v4(typed(sk, common + offset!(skc_daddr))),
            ),
            AF_INET6 if offset!(skc_v6_daddr) != ABSENT as usize => {
                (words(sk, common + offset!(skc_v6_rcv_saddr)), words(sk, common + offset!(skc_v6_daddr)))
            }
            _ => return None,
        };
        Some(Ends {
            local,
            local_port: typed(sk, common + offset!(skc_num)),
            remote,
            remote_port: u16::from_be(typed(sk, common + offset!(skc_dport))),
            ip_protocol: typed(sk, offset!(sk_protocol)),
            family,
        })
    }
}

/// # Safety
/// `sk` is a typed socket pointer and `at` the offset of an IPv6 address in it.
#[inline(always)]
unsafe fn words(sk: *const c_void, at: usize) -> Address {
    // SAFETY: the caller's promise.
    unsafe { Address([typed(sk, at), typed(sk, at + 4), typed(sk, at + 8), typed(sk, at + 12)]) }
}
