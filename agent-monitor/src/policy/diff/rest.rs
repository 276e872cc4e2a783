//! Where two profiles differ about what is no path and no address: sockets, privileges, system calls, pinned programs,
//! and what a profile is about at all.

use std::collections::BTreeMap;

use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::SocketKind;

use super::{Change, Found, Sides};
use crate::policy::judge::{Effect, Judge, Request};
use crate::policy::{ClaimKind, Mode, ResolvedProfile, capabilities};

/// Finds every difference about sockets, privileges and system calls for programs of these classes.
pub fn compare(sides: &Sides<'_>, found: &mut Found) {
    let sockets = SocketKind::ALL.iter().map(|kind| Request::Socket(*kind));
    let capabilities = (0..64).map(Request::Capability);
    let privileges = Privilege::ALL.iter().filter(|kind| !matches!(kind, Privilege::Capability));
    let privileges = privileges.flat_map(|&privilege| {
        let aimed = matches!(privilege, Privilege::Ptrace | Privilege::Signal);
        let own = aimed.then_some(Request::Privilege { privilege, own: true });
        own.into_iter().chain([Request::Privilege { privilege, own: false }])
    });
    let calls = |judge: &Judge| judge.profile().syscalls.iter().map(|rule| rule.nr).collect::<Vec<_>>();
    let mut calls: Vec<u32> = calls(sides.old).into_iter().chain(calls(sides.new)).collect();
    calls.sort_unstable();
    calls.dedup();
    for request in
        sockets.chain(capabilities).chain(privileges).chain(calls.into_iter().map(Request::Syscall))
    {
        // Of a capability without a name there is none yet.
        if matches!(request, Request::Capability(number) if capabilities::name(number).is_none() && number != 63)
        {
            continue;
        }
        let allowed =
            |judge: &Judge, class| judge.ask(class, &request).map(|answer| answer.effect == Effect::Allow);
        if let (Ok(before), Ok(now)) =
            (allowed(sides.old, sides.old_class), allowed(sides.new, sides.new_class))
            && before != now
        {
            found.request(sides, request.clone(), now);
        }
    }
}

/// What differs for the profiles as a whole.
pub fn whole(old: &Judge, new: &Judge) -> Vec<Change> {
    let asks = (old.grants_names(), new.grants_names());
    let (old, new) = (old.profile(), new.profile());
    let mut changes = Vec::new();
    let mut change = |wider: bool, what: String| changes.push(Change { wider, what });
    let rank = |mode: Mode| u8::from(mode == Mode::Enforce);
    if old.mode != new.mode {
        let wider = rank(new.mode) < rank(old.mode);
        change(wider, format!("mode: {} to {}", old.mode, new.mode));
    }
    if old.network.denied != new.network.denied {
        change(false, format!("network.denied: {} to {}", old.network.denied, new.network.denied));
    }
    match asks {
        (true, false) => {
            change(true, "names: questions go to the servers that are granted, not to the monitor".to_owned())
        }
        (false, true) => change(
            false,
            "names: questions go to the monitor, and only granted names have addresses".to_owned(),
        ),
        _ => {}
    }
    let claims = |profile: &ResolvedProfile| -> BTreeMap<String, ()> {
        let text = |claim: &ClaimKind| match claim {
            ClaimKind::Exe(glob) => format!("exe {glob}"),
            ClaimKind::Cgroup(glob) => format!("cgroup {glob}"),
        };
        profile.claims.iter().map(|claim| (text(&claim.what), ())).collect()
    };
    let (before, now) = (claims(old), claims(new));
    // Who is governed no more may do everything.
    for claim in before.keys().filter(|claim| !now.contains_key(*claim)) {
        change(true, format!("agents: {claim} is claimed no more"));
    }
    for claim in now.keys().filter(|claim| !before.contains_key(*claim)) {
        change(false, format!("agents: {claim} is claimed"));
    }
    let pins = |profile: &ResolvedProfile| -> BTreeMap<String, [u8; 32]> {
        let pins = profile.exec.iter().flat_map(|exec| &exec.pins);
        pins.map(|pin| (pin.path.clone(), pin.sha256)).collect()
    };
    let (before, now) = (pins(old), pins(new));
    for (path, digest) in &before {
        match now.get(path) {
            None => {
                change(true, format!("exec.pinned: {path} may have any content, where it may be executed"))
            }
            Some(other) if other != digest => {
                change(true, format!("exec.pinned: {path} has another content"))
            }
            Some(_) => {}
        }
    }
    for path in now.keys().filter(|path| !before.contains_key(*path)) {
        change(false, format!("exec.pinned: {path} has one content only"));
    }
    changes
}
