//! The masks of an image grant what a profile's `privileges` list, and nothing else.

use std::path::Path;
use std::sync::Arc;

use agent_monitor_common::event::Reason;
use agent_monitor_common::image::{Class, HAS_PRIVILEGES, Settings, field, header};
use agent_monitor_common::privilege::{Privilege, capability_granted, granted, target_granted};

use crate::policy::compile::{self, Image, sample};
use crate::policy::{Granted, PrivilegesPolicy, ResolvedProfile, Source, Targets, attribute, capabilities};

fn source(line: u32) -> Source {
    Source { file: Arc::from(Path::new("t.yaml")), line, column: 1 }
}

fn profile(policy: PrivilegesPolicy) -> ResolvedProfile {
    let mut profile = sample::network_profile(3, 1);
    profile.name = "t".to_owned();
    profile.privileges = Some(policy);
    profile
}

fn image(policy: PrivilegesPolicy) -> Image {
    compile::profile(&profile(policy)).unwrap()
}

/// Privileges that have no condition.
const PLAIN: [Privilege; 7] = [
    Privilege::Setuid,
    Privilege::UserNamespace,
    Privilege::Mount,
    Privilege::Module,
    Privilege::Bpf,
    Privilege::Perf,
    Privilege::IoUring,
];

fn grant(policy: &mut PrivilegesPolicy, privilege: Privilege) {
    let yes = Granted { value: true, source: Some(source(9)) };
    match privilege {
        Privilege::Setuid => policy.setuid = yes,
        Privilege::UserNamespace => policy.user_namespaces = yes,
        Privilege::Mount => policy.mounts = yes,
        Privilege::Module => policy.modules = yes,
        Privilege::Bpf => policy.bpf = yes,
        Privilege::Perf => policy.perf = yes,
        Privilege::IoUring => policy.io_uring = yes,
        other => panic!("{other:?} is no plain privilege"),
    }
}

#[test]
fn each_key_grants_its_own_privilege_only() {
    for one in PLAIN {
        let mut policy = PrivilegesPolicy::nothing(source(1));
        grant(&mut policy, one);
        let image = image(policy);
        for other in PLAIN {
            assert_eq!(granted(&image, Class::PLAIN, other), other == one, "{one:?}: {other:?}");
        }
    }
}

#[test]
fn without_the_section_nothing_is_judged() {
    let flags = |profile: &ResolvedProfile| {
        let image = compile::profile(profile).unwrap();
        Settings::from_word(field(&image, header::SETTINGS)).flags & HAS_PRIVILEGES
    };
    let mut with = profile(PrivilegesPolicy::nothing(source(1)));
    assert_eq!(flags(&with), HAS_PRIVILEGES);
    with.privileges = None;
    assert_eq!(flags(&with), 0);
}

#[test]
fn capabilities_are_granted_by_number() {
    let chown = capabilities::mask("chown").unwrap();
    let image = image(PrivilegesPolicy { capabilities: chown, ..PrivilegesPolicy::nothing(source(1)) });
    assert!((0..64).all(|number| capability_granted(&image, Class::PLAIN, number, false) == (number == 0)));
}

#[test]
fn what_a_grant_can_not_be_used_without_comes_with_it() {
    let number = |name| (0..64).find(|n| capabilities::name(*n) == Some(name)).unwrap();
    let mut policy = PrivilegesPolicy::nothing(source(1));
    grant(&mut policy, Privilege::Setuid);
    let setuid = image(policy.clone());
    assert!(capability_granted(&setuid, Class::PLAIN, number("setuid"), false));
    assert!(capability_granted(&setuid, Class::PLAIN, number("setgid"), false));
    assert!(!capability_granted(&setuid, Class::PLAIN, number("setpcap"), false));
    let modes = capabilities::mask("dac_override").unwrap();
    let modes = image(PrivilegesPolicy { capabilities: modes, ..PrivilegesPolicy::nothing(source(1)) });
    assert!(capability_granted(&modes, Class::PLAIN, number("dac_read_search"), false));
    let reads = capabilities::mask("dac_read_search").unwrap();
    let reads = image(PrivilegesPolicy { capabilities: reads, ..PrivilegesPolicy::nothing(source(1)) });
    assert!(!capability_granted(&reads, Class::PLAIN, number("dac_override"), false));
}

#[test]
fn targets_are_the_agent_s_own_unless_said_otherwise() {
    let judged = |targets| {
        let image = image(PrivilegesPolicy {
            ptrace: Granted::left_out(targets),
            ..PrivilegesPolicy::nothing(source(1))
        });
        (
            target_granted(&image, Class::PLAIN, Privilege::Ptrace, true),
            target_granted(&image, Class::PLAIN, Privilege::Ptrace, false),
        )
    };
    assert_eq!(judged(Targets::None), (false, false));
    assert_eq!(judged(Targets::Own), (true, false));
    assert_eq!(judged(Targets::Any), (true, true));
    let own = image(PrivilegesPolicy::nothing(source(1)));
    assert!(
        target_granted(&own, Class::PLAIN, Privilege::Signal, true)
            && !target_granted(&own, Class::PLAIN, Privilege::Signal, false)
    );
}

#[test]
fn the_key_behind_a_denial_is_named() {
    let mut policy = PrivilegesPolicy::nothing(source(4));
    policy.bpf = Granted { value: false, source: Some(source(7)) };
    let profile = profile(policy);
    let by = |privilege| {
        let (id, source) = attribute::privilege(&profile, privilege).unwrap();
        (id, source.line)
    };
    assert_eq!(by(Privilege::Bpf), ("t:privileges.bpf".to_owned(), 7));
    assert_eq!(by(Privilege::Ptrace), ("t:privileges.ptrace".to_owned(), 4));
    assert_eq!(by(Privilege::Capability), ("t:privileges.capabilities".to_owned(), 4));
    assert_eq!(Reason::Outside.name(), "outside-agent");
}
