//! What a profile means once it is loaded: values, bases, directories.

#![expect(clippy::unwrap_used, reason = "what these tests prepare either works or fails the test")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use agent_monitor::policy::compile;
use agent_monitor::policy::diagnostic::Code;
use agent_monitor::policy::{
    Checked, ClaimKind, Denied, Loaded, Mode, PathRule, ProgramRef, Protocol, ProtocolSet, SocketKind,
    Targets, check_profile, load_directory, load_profile,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// Files in a directory of their own.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let files_of = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            files_of.write(name, text.as_bytes());
        }
        files_of
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, name: &str) -> Loaded {
        load_profile(&self.path(name), &[]).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn codes(&self, name: &str) -> Vec<Code> {
        match load_profile(&self.path(name), &[]) {
            Ok(loaded) => panic!("no errors in {:?}", loaded.profile),
            Err(errors) => errors.0.iter().map(|error| error.code).collect(),
        }
    }
}

fn one(text: &str) -> Loaded {
    Files::new(&[("p.yaml", text)]).load("p.yaml")
}

const BASE: &str = "version: 1
name: base
abstract: true
network:
  denied: refused
  deny: [{ cidr: 169.254.0.0/16, protocol: any }]
  sockets: [netlink]
syscalls: { kill: [kexec_load], watch: [bpf, ptrace] }
";

#[test]
fn defaults_grant_as_little_as_possible() {
    let profile = one("version: 1
name: p
mode: audit
network:
  allow: [{ address: 10.1.2.3 }]
  listen: [{ ports: [3000] }]
")
    .profile;
    assert_eq!((profile.mode, profile.network.denied), (Mode::Audit, Denied::Unreachable));
    let allow = &profile.network.allow[0];
    assert_eq!(allow.protocols, ProtocolSet::of(Protocol::Tcp));
    assert_eq!(allow.ports, [0..=u16::MAX]);
    assert_eq!(allow.nets, ["10.1.2.3/32".parse().unwrap()]);
    assert_eq!((allow.id.as_str(), allow.source.line, allow.source.column), ("p:network.allow[0]", 5, 11));
    let listen = &profile.network.listen[0];
    assert_eq!(listen.nets, ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert!(profile.network.sockets.is_empty() && profile.claims.is_empty() && profile.syscalls.is_empty());
    assert_eq!(profile.network.source.line, 4);
}

#[test]
fn a_rule_reads_one_value_or_a_list_of_them() {
    let profile = one("version: 1
name: p
mode: learn
network:
  denied: not-permitted
  allow:
    - { cidr: [10.0.0.0/8, \"2001:db8::/32\"], address: \"::ffff:192.0.2.1\", ports: [8001-8100, 443, 8000, 444-450], protocol: [udp, tcp] }
    - { cidr: \"::/0\", protocol: any, comment: every IPv6 address }
  listen:
    - { address: 0.0.0.0, ports: 8080, protocol: udp }
    - { address: [\"::\", 192.0.2.1] }
  sockets: [ping, raw]
")
    .profile;
    let [first, second] = profile.network.allow.as_slice() else { panic!("{:?}", profile.network.allow) };
    let nets: Vec<String> = first.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]);
    assert_eq!(first.ports, [443..=450, 8000..=8100]);
    assert_eq!(first.protocols, ProtocolSet::of(Protocol::Tcp).with(Protocol::Udp));
    assert_eq!(second.protocols, ProtocolSet::ANY);
    let listen: Vec<Vec<String>> = profile
        .network
        .listen
        .iter()
        .map(|rule| rule.nets.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(listen, [vec!["0.0.0.0/0"], vec!["0.0.0.0/0", "::/0", "192.0.2.1/32"]]);
    assert_eq!(profile.network.denied.errno(), libc::EPERM);
    assert_eq!(profile.network.sockets.iter().collect::<Vec<_>>(), [SocketKind::Ping, SocketKind::Raw]);
}

#[test]
fn bases_add_up_and_the_nearest_single_value_counts() {
    let files = Files::new(&[
        ("base.yaml", BASE),
        (
            "mid.yaml",
            "version: 1\nname: mid\nextends: base\nmode: audit\nagents: [{ exe: /usr/bin/a }]\nnetwork: { allow: [{ cidr: 10.0.0.0/8 }] }\n",
        ),
        (
            "top.yaml",
            "version: 1\nname: top\nextends: [mid, base]\nmode: enforce\nagents: [{ cgroup: /c }, { exe: [/usr/bin/a, /usr/bin/b] }]\nnetwork: { denied: denied, sockets: [vsock], deny: [{ cidr: 10.0.0.0/8, ports: [22] }] }\nsyscalls: { kill: [ptrace], watch: [kexec_load] }\n",
        ),
    ]);
    let Loaded { profile, warnings } = files.load("top.yaml");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((profile.mode, profile.network.denied), (Mode::Enforce, Denied::Denied));
    let ids = |rules: &[agent_monitor::policy::NetRule]| -> Vec<String> {
        rules.iter().map(|rule| rule.id.clone()).collect()
    };
    assert_eq!(ids(&profile.network.allow), ["mid:network.allow[0]"]);
    // Reached by two ways, the base counts once.
    assert_eq!(ids(&profile.network.deny), ["top:network.deny[0]", "base:network.deny[0]"]);
    assert_eq!(profile.network.sockets.iter().collect::<Vec<_>>(), [SocketKind::Netlink, SocketKind::Vsock]);
    let claims: Vec<(&str, &ClaimKind)> =
        profile.claims.iter().map(|claim| (claim.id.as_str(), &claim.what)).collect();
    assert_eq!(
        claims,
        [
            ("top:agents[0].cgroup[0]", &ClaimKind::Cgroup("/c".to_owned())),
            ("top:agents[1].exe[0]", &ClaimKind::Exe("/usr/bin/a".to_owned())),
            ("top:agents[1].exe[1]", &ClaimKind::Exe("/usr/bin/b".to_owned())),
        ]
    );
    let calls: Vec<(&str, bool)> =
        profile.syscalls.iter().map(|rule| (rule.name.as_str(), rule.kill)).collect();
    assert_eq!(calls, [("ptrace", true), ("kexec_load", true), ("bpf", false)], "kill wins, by number");
    let names: Vec<&str> =
        profile.files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["top.yaml", "mid.yaml", "base.yaml"]);
    assert_eq!(files.load("mid.yaml").profile.network.denied, Denied::Refused);
}

#[test]
fn unix_sockets_of_bases_add_up() {
    let files = Files::new(&[
        ("base.yaml", "version: 1\nname: base\nabstract: true\nunix: { allow: ['@a'], deny: ['/run/x'] }\n"),
        ("p.yaml", "version: 1\nname: p\nmode: audit\nextends: [base]\nunix:\n  allow: ['/run/y']\n"),
        ("q.yaml", "version: 1\nname: q\nmode: audit\n"),
    ]);
    let unix = files.load("p.yaml").profile.unix.unwrap();
    let globs = |rules: &[PathRule]| rules.iter().map(|rule| rule.glob.clone()).collect::<Vec<_>>();
    assert_eq!(
        (globs(&unix.allow), globs(&unix.deny)),
        (vec!["/run/y".into(), "@a".into()], vec!["/run/x".into()])
    );
    assert_eq!((unix.allow[0].id.as_str(), unix.source.line), ("p:unix.allow[0]", 5));
    assert_eq!(files.load("q.yaml").profile.unix, None);
}

#[test]
fn capabilities_add_up_and_the_nearest_privilege_counts() {
    let files = Files::new(&[
        (
            "base.yaml",
            "version: 1\nname: base\nabstract: true\n\
             privileges: { capabilities: [chown, dac_override], bpf: true, ptrace: none, setuid: true }\n",
        ),
        (
            "p.yaml",
            "version: 1\nname: p\nmode: audit\nextends: [base]\n\
             privileges:\n  capabilities: net_bind_service\n  bpf: false\n  signals: any\n",
        ),
        ("none.yaml", "version: 1\nname: none\nmode: audit\n"),
        ("other.yaml", "version: 1\nname: other\nabstract: true\nprivileges: { ptrace: any }\n"),
        ("both.yaml", "version: 1\nname: both\nmode: audit\nextends: [base, other]\n"),
    ]);
    let policy = files.load("p.yaml").profile.privileges.unwrap();
    assert_eq!(policy.capabilities, 1 << 0 | 1 << 1 | 1 << 10);
    assert!(!policy.bpf.value && policy.setuid.value && !policy.mounts.value);
    assert_eq!((policy.ptrace.value, policy.signals.value), (Targets::None, Targets::Any));
    assert_eq!(policy.bpf.source.unwrap().line, 7);
    assert_eq!(policy.source.line, 5);
    assert_eq!(policy.mounts.source, None);
    assert_eq!(files.load("none.yaml").profile.privileges, None);
    assert_eq!(files.codes("both.yaml"), [Code::ConflictingBases]);
}

#[test]
fn rules_about_unix_sockets_may_be_for_programs() {
    let files = Files::new(&[(
        "p.yaml",
        "version: 1
name: p
mode: enforce
workspace: /srv/work
programs: { git: /usr/bin/git, docker: /usr/bin/docker }
unix:
  allow: [{ path: '${tmp}/ssh-*/agent.*', exe: [git, /usr/bin/ssh], comment: keys }, /run/plain, '@abstract']
  deny: [{ path: '**/docker.sock', except: docker }, { path: '${workspace}/*', exe: git }]
",
    )]);
    let profile = files.load("p.yaml").profile;
    let unix = profile.unix.as_ref().unwrap();
    let (name, glob) =
        (|text: &str| ProgramRef::Name(text.into()), |text: &str| ProgramRef::Glob(text.into()));
    let globs: Vec<&str> = unix.allow.iter().chain(&unix.deny).map(|rule| rule.glob.as_str()).collect();
    assert_eq!(
        globs,
        ["{/tmp,/var/tmp}/ssh-*/agent.*", "/run/plain", "@abstract", "**/docker.sock", "{/srv/work}/*"]
    );
    assert_eq!(unix.allow[0].programs.exe, [name("git"), glob("/usr/bin/ssh")]);
    assert!(unix.allow[1].programs.is_any() && unix.allow[2].programs.is_any());
    assert_eq!(unix.deny[0].programs.except, [name("docker")]);
    assert_eq!(unix.deny[1].programs.exe, [name("git")]);
    // Unknown, in no set, docker, git, ssh.
    assert_eq!(compile::memberships(&profile).unwrap().len(), 5);
    assert!(compile::profile(&profile).is_ok());
}

#[test]
fn sets_of_programs_add_up_and_a_workspace_takes_the_place_of_the_bases() {
    let files = Files::new(&[
        (
            "base.yaml",
            "version: 1
name: base
abstract: true
workspace: /srv/work
programs: { git: [/usr/bin/git], node: /usr/bin/node }
files: { read: ['${workspace}/**'], deny: [{ path: ~/.npmrc, except: node, access: [read, write] }] }
",
        ),
        ("other.yaml", "version: 1\nname: other\nabstract: true\nworkspace: [/opt/work]\n"),
        ("both.yaml", "version: 1\nname: both\nmode: audit\nextends: [other, base]\n"),
        (
            "p.yaml",
            "version: 1
name: p
extends: [base, other]
mode: enforce
workspace: ['~/src/*']
programs: { git: ['/usr/lib/git-core/**', /usr/bin/git] }
network:
  allow:
    - { cidr: 192.0.2.0/24, exe: [git, /opt/tool] }
files: { write: ['${workspace}/**', '${tmp}/x'] }
",
        ),
    ]);
    let profile = files.load("p.yaml").profile;
    assert_eq!(profile.programs["git"], ["/usr/bin/git", "/usr/lib/git-core/**"]);
    assert_eq!(profile.programs["node"], ["/usr/bin/node"]);
    let (name, glob) =
        (|text: &str| ProgramRef::Name(text.into()), |text: &str| ProgramRef::Glob(text.into()));
    assert_eq!(profile.network.allow[0].programs.exe, [name("git"), glob("/opt/tool")]);
    let filesystem = profile.filesystem.as_ref().unwrap();
    assert_eq!(filesystem.read[0].glob, "{~/src/*}/**");
    assert_eq!(filesystem.write[0].glob, "{~/src/*}/**");
    assert_eq!(filesystem.write[1].glob, "{/tmp,/var/tmp}/x");
    let deny = &filesystem.deny[0];
    assert_eq!((deny.programs.except.as_slice(), deny.access), (&[name("node")][..], Some(3)));
    // Unknown, in no set, git, node, the tool: none of them overlap.
    assert_eq!(compile::memberships(&profile).unwrap().len(), 5);
    assert!(compile::profile(&profile).is_ok());
    let both = files.load("both.yaml").profile;
    assert_eq!(both.filesystem.unwrap().read[0].glob, "{/opt/work,/srv/work}/**");
}

#[test]
fn a_base_is_found_beside_the_profile_before_the_search_path() {
    let near = "version: 1\nname: near\nabstract: true\nmode: audit\n";
    let far = "version: 1\nname: far\nabstract: true\nmode: enforce\n";
    let top = "version: 1\nname: top\nextends: [base]\n";
    let files = Files::new(&[("a/top.yaml", top), ("b/base.yml", far), ("c/base.yaml", near)]);
    let search = [files.path("nowhere"), files.path("b"), files.path("c")];
    let profile =
        |search: &[PathBuf]| load_profile(&files.path("a/top.yaml"), search).map(|l| l.profile.mode);
    assert_eq!(profile(&search).unwrap(), Mode::Enforce);
    files.write("a/base.yaml", near.as_bytes());
    assert_eq!(profile(&search).unwrap(), Mode::Audit);
    std::fs::remove_file(files.path("a/base.yaml")).unwrap();
    assert_eq!(profile(&[]).unwrap_err().0[0].code, Code::UnknownBase);
}

#[test]
fn a_base_is_checked_but_not_loaded() {
    let files = Files::new(&[("base.yaml", BASE)]);
    assert!(
        matches!(check_profile(&files.path("base.yaml"), &[]), Ok(Checked::Base(base)) if base.name == "base")
    );
    assert_eq!(files.codes("base.yaml"), [Code::Abstract]);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let files = Files::new(&[]);
    assert_eq!(files.codes("none.yaml"), [Code::Unreadable]);
    assert_eq!(files.codes(""), [Code::Unreadable], "a directory");
    files.write("big.yaml", &vec![b' '; 5 << 20]);
    let errors = load_profile(&files.path("big.yaml"), &[]).unwrap_err();
    assert_eq!(errors.0[0].code, Code::TooLarge);
    assert!(errors.to_string().contains("big.yaml"), "{errors}");
}

#[test]
fn a_chain_of_many_bases_is_refused() {
    let files = Files::new(&[]);
    for index in 0..40 {
        let text = format!("version: 1\nname: p{index}\nmode: audit\nextends: [p{}]\n", index + 1);
        files.write(&format!("p{index}.yaml"), text.as_bytes());
    }
    assert_eq!(files.codes("p0.yaml"), [Code::TooManyBases]);
}

/// However many mistakes there are, and whatever was said before them, a faulty
/// file is never taken for a sound one.
#[test]
fn a_flood_of_mistakes_is_cut_short_and_still_fails() {
    let head = |name: &str| format!("version: 1\nname: {name}\nmode: audit\nnetwork:\n  allow:\n");
    let remark = "    - { address: 0.0.0.0, ports: [1], protocol: udp }\n";
    let mistake = "    - { cidr: 10.0.0.1/8 }\n";
    let noisy = format!("{}{}", head("noisy"), remark.repeat(1200));
    let files = Files::new(&[
        ("noisy.yaml", &noisy),
        ("faulty.yaml", &format!("{}{}", head("faulty"), mistake.repeat(1200))),
        ("late.yaml", &format!("{}{mistake}extends: [noisy]\n", head("late"))),
        (
            "later.yaml",
            &format!("{}    - {{ cidr: 192.0.2.0/24 }}\nextends: [noisy, faulty]\n", head("later")),
        ),
    ]);
    let loaded = files.load("noisy.yaml");
    assert_eq!(loaded.profile.network.allow.len(), 1200);
    assert_eq!(loaded.warnings.len(), 1001);
    assert_eq!(files.codes("late.yaml"), [Code::HostBits]);
    for name in ["faulty.yaml", "later.yaml"] {
        let codes = files.codes(name);
        assert_eq!(
            (codes.len(), codes[0], codes[1000]),
            (1001, Code::HostBits, Code::TooManyMistakes),
            "{name}"
        );
    }
}

/// A value behind an alias is reported where it is written, once.
#[test]
fn aliases_can_be_used_and_are_reported_once() {
    let loaded = one(
        "version: 1\nname: p\nmode: audit\nnetwork:\n  allow:\n    - { cidr: 10.0.0.0/8, ports: &web [80, 443] }\n    - { cidr: 192.0.2.0/24, ports: *web }\n",
    );
    assert_eq!(loaded.profile.network.allow[1].ports, [80..=80, 443..=443]);
    let files = Files::new(&[(
        "p.yaml",
        "version: 1\nname: p\nmode: audit\nnetwork:\n  allow:\n    - { cidr: 10.0.0.0/8, ports: &web [0] }\n    - { cidr: 192.0.2.0/24, ports: *web }\n",
    )]);
    assert_eq!(files.codes("p.yaml"), [Code::BadPort]);
}

#[test]
fn one_bad_profile_does_not_keep_the_others_from_loading() {
    let files = Files::new(&[
        ("base.yaml", BASE),
        ("good.yaml", "version: 1\nname: good\nmode: audit\nextends: [base]\n"),
        ("bad.yaml", "version: 1\nname: bad\nmode: perhaps\n"),
        (".hidden.yaml", "not: [a profile"),
        ("notes.txt", "not a profile"),
        ("same.yaml", "version: 1\nname: good\nmode: enforce\n"),
    ]);
    let directory = load_directory(files.0.path(), &[]).unwrap();
    let names: Vec<&str> = directory.profiles.iter().map(|loaded| loaded.profile.name.as_str()).collect();
    assert_eq!(names, ["good"]);
    assert_eq!(directory.bases.len(), 1);
    let failed: Vec<(&str, Code)> = directory
        .failed
        .iter()
        .map(|failed| (failed.file.file_name().unwrap().to_str().unwrap(), failed.errors.0[0].code))
        .collect();
    assert_eq!(failed, [("bad.yaml", Code::UnknownValue), ("same.yaml", Code::DuplicateName)]);
    let missing = load_directory(&files.path("missing"), &[]).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
}

#[test]
fn the_profile_that_extends_another_keeps_the_common_claims() {
    let files = Files::new(&[
        ("a.yaml", "version: 1\nname: a\nmode: audit\nagents: [{ exe: [/usr/bin/x, /usr/bin/y] }]\n"),
        ("b.yaml", "version: 1\nname: b\nextends: [a]\n"),
        ("c.yaml", "version: 1\nname: c\nmode: audit\nagents: [{ exe: /usr/bin/y }]\n"),
    ]);
    let directory = load_directory(files.0.path(), &[]).unwrap();
    let claims: Vec<(&str, usize, usize)> = directory
        .profiles
        .iter()
        .map(|loaded| (loaded.profile.name.as_str(), loaded.profile.claims.len(), loaded.warnings.len()))
        .collect();
    assert_eq!(claims, [("a", 0, 2), ("b", 2, 0)]);
    let [failed] = directory.failed.as_slice() else { panic!("{:?}", directory.failed) };
    assert!(failed.file.ends_with("c.yaml"));
    assert_eq!(failed.errors.0[0].code, Code::ClaimedTwice);
    assert_eq!(failed.errors.0[0].place().unwrap().line, 4);
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// Every shipped profile that governs, by itself: those of single agents claim what `coding-agent` claims.
fn shipped_profiles() -> Vec<Loaded> {
    let files = std::fs::read_dir(shipped()).unwrap().map(|entry| entry.unwrap().path());
    let profiles: Vec<Loaded> = files
        .filter(|file| file.is_file() && !file.ends_with("base.yaml") && !file.ends_with("workbench.yaml"))
        .map(|file| load_profile(&file, &[]).unwrap())
        .collect();
    assert_eq!(profiles.len(), 10);
    profiles
}

#[test]
fn shipped_profiles_load_without_a_remark() {
    for loaded in shipped_profiles() {
        let name = loaded.profile.name.as_str();
        assert_eq!(loaded.profile.file.file_stem().unwrap(), name);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(loaded.profile.mode, Mode::Enforce);
        for metadata in ["169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200"] {
            let address: IpAddr = metadata.parse().unwrap();
            let denied = loaded.profile.network.deny.iter().any(|rule| {
                rule.protocols == ProtocolSet::ANY
                    && rule.ports == [0..=u16::MAX]
                    && rule.nets.iter().any(|net| net.contains(&address))
            });
            assert!(denied, "{name} allows {metadata}");
        }
        assert!(loaded.profile.network.sockets.contains(SocketKind::Netlink));
    }
}

#[test]
fn shipped_claims_fit_into_the_kernel() {
    let homes = ["/root", "/home/someone"].map(PathBuf::from);
    for loaded in shipped_profiles() {
        let globs = loaded.profile.claims.iter().filter_map(|claim| match &claim.what {
            ClaimKind::Exe(glob) => Some(glob),
            ClaimKind::Cgroup(_) => None,
        });
        let claims: Vec<_> =
            globs.flat_map(|glob| compile::expand_home(glob, &homes)).map(|glob| (0, glob)).collect();
        let compiled = compile::claims(&claims).unwrap();
        assert!(compiled.overlaps.is_empty(), "{:?}", compiled.overlaps);
    }
}

/// A host that takes single agents' profiles takes them in the place of the one for all.
#[test]
fn single_agents_profiles_are_used_together_and_not_beside_the_one_for_all() {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(shipped()).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            std::fs::copy(&file, directory.path().join(file.file_name().unwrap())).unwrap();
        }
    }
    let beside = load_directory(directory.path(), &[]).unwrap();
    assert!(beside.failed.iter().all(|failed| failed.errors.0[0].code == Code::ClaimedTwice));
    assert!(!beside.failed.is_empty());
    std::fs::remove_file(directory.path().join("coding-agent.yaml")).unwrap();
    let alone = load_directory(directory.path(), &[]).unwrap();
    assert!(alone.failed.is_empty(), "{:?}", alone.failed);
    assert_eq!((alone.profiles.len(), alone.bases.len()), (9, 2));
}

/// Pieces that profiles are made of, and pieces that break them.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "version: 1\n",
            "name: p\n",
            "mode: audit\n",
            "network:\n",
            "  allow:\n",
            "  deny:\n",
            "  listen:\n",
            "    - { cidr: 10.0.0.0/8, ports: [443, 8000-8100], protocol: any }\n",
            "    - address: \"::1\"\n",
            "      ports: [0]\n",
            "agents:\n",
            "  - exe: /usr/bin/x\n",
            "extends: [base]\n",
            "syscalls:\n",
            "  kill: [kexec_load]\n",
            "&a ",
            "*a",
            "<<: ",
            "- ",
            "? ",
            ": ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "\"",
            "'",
            "|\n",
            ">\n",
            "!!str ",
            "!x ",
            "---\n",
            "...\n",
            "%YAML 1.2\n",
            "# x\n",
            "\t",
            "\r\n",
            "\u{feff}",
            "\u{85}",
            "\u{2028}",
            "ü",
            "\u{1b}[31m",
            "0x10",
            "1e400",
            "-.inf",
            "~",
            "99999999999999999999999999999999999999999",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,8}",
        any::<char>().prop_map(String::from),
    ]
}

/// Loads `bytes` and prints whatever comes of it; a panic fails the test.
fn survives(bytes: &[u8]) {
    let files = Files::new(&[("base.yaml", BASE)]);
    let path = files.write("p.yaml", bytes);
    match check_profile(&path, &[]) {
        Ok(Checked::Profile(loaded)) => assert!(loaded.warnings.iter().all(|warning| !warning.is_error())),
        Ok(Checked::Base(_)) => {}
        Err(errors) => {
            assert!(errors.0.iter().any(agent_monitor::policy::Diagnostic::is_error));
            let text = errors.to_string();
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_loader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&bytes);
    }

    #[test]
    fn no_pieces_of_yaml_make_the_loader_panic(pieces in prop::collection::vec(piece(), 0..40)) {
        survives(pieces.concat().as_bytes());
    }

    /// Whatever ranges are typed, the resolved ones hold the same ports.
    #[test]
    fn port_ranges_are_joined_without_changing_what_they_hold(
        typed in prop::collection::vec((1_u16.., 1_u16..), 1..6),
        probe in 1_u16..,
    ) {
        let ranges: Vec<(u16, u16)> = typed.iter().map(|&(a, b)| (a.min(b), a.max(b))).collect();
        let list: Vec<String> = ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        let text = format!(
            "version: 1\nname: p\nmode: audit\nnetwork: {{ allow: [{{ cidr: 10.0.0.0/8, ports: [{}] }}] }}\n",
            list.join(", ")
        );
        let profile = one(&text).profile;
        let ports = &profile.network.allow[0].ports;
        for probe in ranges.iter().flat_map(|&(a, b)| [a, b, a.saturating_sub(1), b.saturating_add(1)]).chain([probe]) {
            prop_assert_eq!(
                ports.iter().any(|range| range.contains(&probe)),
                ranges.iter().any(|&(a, b)| a <= probe && probe <= b)
            );
        }
        prop_assert!(ports.windows(2).all(|pair| u32::from(*pair[0].end()) + 1 < u32::from(*pair[1].start())));
    }
}

proptest! {
    // A shipped profile is long.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_to_a_shipped_profile_makes_the_loader_panic(
        at in any::<prop::sample::Index>(),
        removed in 0_usize..40,
        inserted in piece(),
    ) {
        let text = std::fs::read(shipped().join("coding-agent.yaml")).unwrap();
        let start = at.index(text.len());
        let end = (start + removed).min(text.len());
        let mut changed = text[..start].to_vec();
        changed.extend_from_slice(inserted.as_bytes());
        changed.extend_from_slice(&text[end..]);
        survives(&changed);
    }
}

#[test]
fn names_are_read_in_one_form_and_others_do_not_look_them_up() {
    use agent_monitor_common::image::Class;
    use agent_monitor_common::path::{Right, decide_path};

    let text = "version: 1
name: p
mode: enforce
network:
  allow: [{ host: [API.Example.com., '*.example.net'], ports: [443] }]
unix: { allow: ['/run/**'] }
";
    let named = one(text).profile;
    let hosts: Vec<String> = named.network.allow[0].hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["api.example.com", "*.example.net"]);
    assert!(named.network.allow[0].nets.is_empty());
    let connects = |profile, path: &str| {
        let image = compile::profile(profile).unwrap();
        decide_path(&image, Class::PLAIN, path.as_bytes(), Right::Connect as u32).allowed()
    };
    let plain = one(&text.replace("host: [API.Example.com., '*.example.net']", "cidr: 10.0.0.0/8")).profile;
    for socket in [
        "/run/systemd/resolve/io.systemd.Resolve",
        "/run/nscd/socket",
        "/var/run/nscd/socket",
        "/run/avahi-daemon/socket",
    ] {
        assert!(!connects(&named, socket), "{socket}");
        // The twin: without names they are what the profile says of them.
        assert_eq!(connects(&plain, socket), socket.starts_with("/run/"), "{socket}");
    }
    assert!(connects(&named, "/run/other.sock"));
}
