//! What others do: an LPM trie and a list of ports. Built only for the benchmark.
//!
//! It looks at the longest prefix alone, so unlike `decide()` it can't say that a deny wins over a nested allow.

use agent_monitor_common::request::PROBE_BATCH;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LpmTrie};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;

use super::probe::{FAILED, next};
use crate::maps::PROBE;
use crate::path::below;

/// Ports of one prefix: up to eight ranges.
#[repr(C)]
pub struct Ports {
    used: u32,
    /// From, to, protocol code, answer.
    ranges: [[u16; 4]; 8],
}

#[btf_map]
static LPM_PORTS: Array<Ports, 16384> = Array::new();
#[btf_map]
static LPM: LpmTrie<[u8; 16], u32, 16384> = LpmTrie::new();

/// Judges the next request by the trie and stores the answer.
#[classifier]
pub fn probe_lpm(_ctx: TcContext) -> i32 {
    // SAFETY: see `next`.
    unsafe {
        let Some((_, _, at, request, _)) = next() else { return FAILED };
        let mut answer = 0_u32;
        if let Some(group) = LPM.get(&Key::new(128, request.address.bytes()))
            && let Some(ports) = LPM_PORTS.get(*group)
        {
            let mut i = 0;
            while i < 8 {
                if i as u32 >= ports.used {
                    break;
                }
                let [from, to, protocol, value] = ports.ranges[i];
                if request.port >= from && request.port <= to && protocol == request.protocol.code() as u16 {
                    answer = value as u32;
                    break;
                }
                i += 1;
            }
        }
        let Some(probe) = PROBE.get_ptr_mut(0) else { return FAILED };
        *(&raw mut (*probe).answers).cast::<u32>().add(below::<PROBE_BATCH>(at)) = answer;
        answer as i32
    }
}
