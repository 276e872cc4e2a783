//! Listed system calls: counted, reported, and killed where the profile says so.
//!
//! Attached only while a live agent's profile lists any. It never denies: arguments and even the outcome can change
//! after it. A kill is a kill, not a denial.

use agent_monitor_common::counters::{Domain, Effect, Mode, Ring, Site};
use agent_monitor_common::event::{Hook, Kind, SyscallBody};
use agent_monitor_common::image::{has_syscall, header};
use agent_monitor_common::layout::ABSENT;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_send_signal};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use core::ffi::c_void;

use crate::emit::{self, Outcome, Record};
use crate::kernel::{offset, typed};
use crate::maps::SYSCALL_COUNT;
use crate::subject::{current_tgid, has_bit, label_of, policy};
use crate::{atomic, fail};

const SIGKILL: u32 = 9;
/// `TS_COMPAT` of `thread_info.status`: the call came through the 32-bit table (arch/x86/include/asm/thread_info.h).
const TS_COMPAT: u32 = 2;
/// x32 calls carry this bit (`__X32_SYSCALL_BIT`).
const X32_BIT: u64 = 0x4000_0000;
/// x32 has numbers of its own for 36 calls, `ptrace` and `kexec_load` among them; the others are the 64-bit ones.
const X32_OWN: u64 = X32_BIT + 512;
const X32_OWN_COUNT: u64 = 36;

/// `raw_tp/sys_enter(struct pt_regs *regs, long id)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn syscall_enter(ctx: RawTracePointContext) -> i32 {
    let tgid = current_tgid();
    if !has_bit(tgid) {
        return 0;
    }
    let Ok(label) = label_of(tgid) else {
        fail::count(Site::LabelMissing);
        return 0;
    };
    let Some(policy) = policy(&label) else {
        fail::count(Site::ImageMissing);
        return 0;
    };
    let id: u64 = ctx.arg(1);
    let compat = is_compat() || id.wrapping_sub(X32_OWN) < X32_OWN_COUNT;
    let nr = (id & !X32_BIT) as u32;
    // The 32-bit table and the numbers that only x32 has are other ones. A profile that lists calls is about what they do, so for an agent whose
    // profile kills, the whole table is off: every call through it counts as listed.
    let listed = compat || has_syscall(&policy.table, header::SYSCALL_WATCH, nr);
    if !listed {
        return 0;
    }
    let kill = (compat && kills_any(&policy.table))
        || (!compat && has_syscall(&policy.table, header::SYSCALL_KILL, nr));
    let enforce = matches!(policy.mode(), Mode::Enforce);
    count(label.agent, nr | if compat { 1 << 31 } else { 0 });
    let mut killed = 0;
    if kill && enforce {
        // SAFETY: a helper without pointers. From 5.3; it signals the whole process.
        if unsafe { bpf_send_signal(SIGKILL) } == 0 {
            killed = 1;
        } else {
            fail::count(Site::SendSignal);
        }
    }
    let effect = if kill { Effect::Kill } else { Effect::Allow };
    emit::decision(Domain::Syscall, effect, policy.mode());
    let outcome = Outcome { effect, mode: policy.mode(), generation: policy.generation, errno: 0 };
    let header =
        emit::header(Kind::Syscall, Hook::SysEnter, size_of::<Record<SyscallBody>>(), &label, outcome);
    let body = SyscallBody { nr, killed, compat: compat as u32, pad: 0 };
    // A watched call is what the profile's author asked to see: it goes where nothing is sampled.
    emit::record(Ring::Verdicts, label.agent, &Record { header, body });
    if kill {
        emit::killed(label.agent);
    }
    0
}

#[inline(always)]
fn kills_any(table: &crate::subject::Table) -> bool {
    use agent_monitor_common::automaton::Words;
    let mut any = 0;
    let mut i = 0;
    while i < agent_monitor_common::image::SYSCALL_WORDS {
        any |= table.word((header::SYSCALL_KILL + i) as u64);
        i += 1;
    }
    any != 0
}

#[inline(always)]
fn is_compat() -> bool {
    let (info, status) = (offset!(task_thread_info), offset!(thread_info_status));
    if info == ABSENT as usize || status == ABSENT as usize {
        return false;
    }
    // SAFETY: the current task, typed, and fields of it.
    unsafe {
        let task: *const c_void = bpf_get_current_task_btf().cast();
        typed::<u32>(task, info + status) & TS_COMPAT != 0
    }
}

#[inline(always)]
fn count(agent: u32, nr: u32) {
    let key = [agent, nr];
    if let Some(cell) = SYSCALL_COUNT.get_ptr_mut(key) {
        // SAFETY: a preallocated element; all writers use atomics.
        unsafe { atomic::add(cell, 1) };
    } else if SYSCALL_COUNT.insert(key, 1, 1 /* BPF_NOEXIST */).is_err() {
        match SYSCALL_COUNT.get_ptr_mut(key) {
            // SAFETY: as above; another CPU made it first.
            Some(cell) => {
                unsafe { atomic::add(cell, 1) };
            }
            None => fail::count(Site::SyscallCount),
        }
    }
}
