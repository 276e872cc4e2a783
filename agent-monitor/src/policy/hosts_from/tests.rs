//! Hosts made of files in a scratch directory, and the grants that come of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::policy::judge::{Effect, Judge, Request};
use crate::policy::{Checked, Loaded, load};

/// What npm's program says of itself.
const DEFINITIONS: &str =
    "usr/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js";

struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A host with one user and npm.
    fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        scratch.file("home/user/.profile", "");
        scratch.file(
            DEFINITIONS,
            "registry: new Definition('registry', {\n  default: 'https://own.example/',\n",
        );
        scratch
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join("host").join(path)
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        // Whatever the mask of who runs the tests.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        self
    }

    fn load(&self, rules: &str) -> Loaded {
        let file = self.0.path().join("p.yaml");
        fs::write(&file, format!("version: 1\nname: p\nmode: enforce\n{rules}")).unwrap();
        let host = Host::below(&self.at("")).unwrap();
        match load::check_profile_on(&host, &file, &[]) {
            Ok(Checked::Profile(loaded)) => *loaded,
            Ok(Checked::Base(_)) => panic!("a base"),
            Err(errors) => panic!("{}", errors.render(false)),
        }
    }

    /// The hosts and ports that a profile grants, and the warnings about them.
    fn granted(&self, rules: &str) -> (Vec<String>, Vec<String>) {
        let Loaded { profile, warnings } = self.load(rules);
        let mut hosts = Vec::new();
        for rule in &profile.network.allow {
            let names = rule.hosts.iter().map(ToString::to_string);
            let all = names.chain(rule.nets.iter().map(ToString::to_string));
            hosts.extend(all.map(|host| format!("{host}:{}", rule.ports[0].start())));
        }
        let ours = warnings.into_iter().filter(|warning| warning.code == Code::HostsFrom);
        (hosts, ours.map(|warning| warning.message).collect())
    }
}

/// A profile that grants the user's work, and says where npm may reach.
const NPM: &str = "network: { hosts_from: npm }\nfiles: { read: [\"/**\"], write: [\"~/work/**\"] }\n";

#[test]
fn what_npm_says_of_itself_counts_where_nothing_is_configured() {
    let scratch = Scratch::new();
    assert_eq!(scratch.granted(NPM), (vec!["own.example:443".to_owned()], vec![]));
    scratch.file(
        "etc/npmrc",
        "registry=https://mirror.example:8443/npm/\n@team:registry=http://team.example/\n",
    );
    let both = ["team.example:80", "mirror.example:8443"];
    assert_eq!(scratch.granted(NPM).0, both, "the mirror takes the place of npm's own");
    scratch.file("etc/npmrc", "@team:registry=http://team.example/\n");
    assert_eq!(scratch.granted(NPM).0, ["team.example:80", "own.example:443"], "a scope's does not");
}

#[test]
fn the_grant_is_for_the_managers_programs_and_is_attributed_to_the_entry() {
    let scratch = Scratch::new();
    let judge = Judge::new(scratch.load(NPM).profile).unwrap();
    let ask = |exe: &str| {
        let request =
            Request::connect("own.example:443", agent_monitor_common::request::Protocol::Tcp).unwrap();
        judge.ask(judge.class_of(Some(exe.as_bytes())), &request).unwrap()
    };
    let npm = ask("/usr/bin/node");
    let (rule, source) = npm.rule.unwrap();
    assert_eq!((npm.effect, rule.as_str()), (Effect::Allow, "p:network.hosts_from[0].npm:443"));
    assert_eq!((source.line, source.column), (4, 24), "of `npm` in the file");
    assert_eq!(ask("/usr/bin/curl").effect, Effect::Deny);
    // A set of the profile's own of that name is what npm is there.
    let own = scratch.load(&format!("{NPM}programs: {{ npm: [/opt/node] }}\n")).profile;
    assert_eq!(own.programs["npm"], ["/opt/node"]);
}

#[test]
fn a_file_that_the_agent_may_write_is_left_out_and_named() {
    let scratch = Scratch::new();
    scratch.file("home/user/.npmrc", "registry=https://evil.example/\n");
    assert_eq!(scratch.granted(NPM).0, ["evil.example:443"], "it counts where nobody but the user writes it");
    let writable = "network: { hosts_from: npm }\nfiles: { read: [\"/**\"], write: [\"~/**\"] }\n";
    let (hosts, warnings) = scratch.granted(writable);
    assert_eq!(hosts, ["own.example:443"]);
    assert!(
        warnings[0].contains("`/home/user/.npmrc` is left out: an agent of this profile may write it"),
        "{warnings:?}"
    );
    // A denial counts, but not one that leaves out a program.
    let denied = |rule: &str| {
        format!(
            "network: {{ hosts_from: npm }}\nfiles:\n  read: [\"/**\"]\n  write: [\"~/**\"]\n  deny: [{rule}]\n"
        )
    };
    assert_eq!(scratch.granted(&denied("\"~/.npmrc\"")).0, ["evil.example:443"]);
    let but_npm = "{ path: \"~/.npmrc\", except: /usr/bin/node }";
    assert_eq!(scratch.granted(&denied(but_npm)).0, ["own.example:443"]);
    let reading = "{ path: \"~/.npmrc\", access: read }";
    assert_eq!(scratch.granted(&denied(reading)).0, ["own.example:443"]);
}

#[test]
fn a_grant_to_one_program_is_a_grant() {
    let scratch = Scratch::new();
    scratch.file("home/user/.npmrc", "registry=https://evil.example/\n");
    let rules = "network: { hosts_from: npm }\nfiles: { read: [\"/**\"], write: [{ path: \"~/.npmrc\", exe: /usr/bin/npx }] }\n";
    assert_eq!(scratch.granted(rules).0, ["own.example:443"]);
}

#[test]
fn a_directory_that_can_be_replaced_is_as_good_as_the_file() {
    let scratch = Scratch::new();
    scratch.file("usr/lib/python3/dist-packages/pip/_internal/models/index.py", "");
    scratch.file("home/user/.config/pip/pip.conf", "[global]\nindex-url = https://evil.example/simple\n");
    let rules = |deny: &str| {
        format!(
            "network: {{ hosts_from: pip }}\nfiles: {{ read: [\"/**\"], write: [\"~/.config\"], deny: [{deny}] }}\n"
        )
    };
    let (hosts, warnings) = scratch.granted(&rules(""));
    assert_eq!(hosts, [""; 0]);
    assert!(warnings[0].contains("or a directory above it"), "{warnings:?}");
    // What is denied below it keeps the directory where it is.
    assert_eq!(scratch.granted(&rules("\"~/.config/keys/**\"")).0, ["evil.example:443"]);
}

#[test]
fn a_link_is_judged_by_where_it_leads() {
    let scratch = Scratch::new();
    scratch.file("home/user/work/npmrc", "registry=https://evil.example/\n");
    symlink("work/npmrc", scratch.at("home/user/.npmrc")).unwrap();
    let (hosts, warnings) = scratch.granted(NPM);
    assert_eq!(hosts, ["own.example:443"]);
    assert!(warnings[0].contains("`/home/user/work/npmrc` is left out"), "{warnings:?}");
}

#[test]
fn a_program_that_the_agent_may_write_says_nothing() {
    let scratch = Scratch::new();
    let rules =
        "network: { hosts_from: npm }\nfiles: { read: [\"/**\"], write: [\"/usr/lib/node_modules/**\"] }\n";
    let (hosts, warnings) = scratch.granted(rules);
    assert_eq!(hosts, [""; 0]);
    assert!(warnings[0].contains("definitions.js` is left out"), "{warnings:?}");
    assert!(warnings[1].contains("it grants nothing"), "{warnings:?}");
}

#[test]
fn without_files_only_the_system_counts() {
    let scratch = Scratch::new();
    scratch.file("home/user/.npmrc", "registry=https://user.example/\n");
    scratch.file("etc/npmrc", "registry=https://system.example/\n");
    let (hosts, warnings) = scratch.granted("network: { hosts_from: npm }\nunix: {}\n");
    assert_eq!(hosts, ["system.example:443"]);
    assert!(warnings[0].contains("runs as root"), "{warnings:?}");
    assert!(warnings[1].contains("`/home/user/.npmrc` is left out"), "{warnings:?}");
}

#[test]
fn a_manager_that_is_not_there_grants_nothing() {
    let scratch = Scratch::new();
    fs::remove_dir_all(scratch.at("usr")).unwrap();
    scratch.file("etc/npmrc", "registry=https://mirror.example/\n");
    let (hosts, warnings) = scratch.granted(NPM);
    assert_eq!((hosts.len(), warnings.len()), (0, 1));
    assert!(warnings[0].contains("npm is not installed"), "{warnings:?}");
}

#[test]
fn hostile_urls_grant_nothing_and_show_no_password() {
    let scratch = Scratch::new();
    let urls = [
        "https://*.example/",
        "https://me:hunter2@127.0.0.1/",
        "https://${EVIL}/",
        "git://a.example/",
        "\u{1b}[2J",
    ];
    let text: String = urls.iter().enumerate().map(|(n, url)| format!("@s{n}:registry={url}\n")).collect();
    scratch.file("etc/npmrc", &format!("{text}registry=https://mirror.example/\n"));
    let (hosts, warnings) = scratch.granted(NPM);
    assert_eq!((hosts, warnings.len()), (vec!["mirror.example:443".to_owned()], urls.len()));
    assert!(!warnings.concat().contains("hunter2") && !warnings.concat().contains('\u{1b}'));
    let many: String = (0..500).map(|n| format!("@s{n}:registry=https://h{n}.example/\n")).collect();
    scratch.file("etc/npmrc", &many).file("home/user/.npmrc", &many.replace(".example", ".test"));
    assert_eq!(scratch.granted(NPM).0.len(), MAX_HOSTS);
    let refused: String = (0..500).map(|n| format!("@s{n}:registry=ftp://h{n}.example/\n")).collect();
    scratch.file("etc/npmrc", &refused).file("home/user/.npmrc", "");
    assert_eq!(scratch.granted(NPM).1.len(), 1, "one kind of mistake in one file");
    scratch.file("usr/bin/apt-get", "");
    for n in 0..40 {
        scratch.file(&format!("etc/apt/sources.list.d/{n}.list"), "deb ftp://a.example/ x\n");
    }
    assert_eq!(scratch.granted(&NPM.replace("npm", "apt")).1.len(), MAX_WARNINGS);
    scratch.file("etc/npmrc", &"#\n".repeat(1024 * 1024));
    assert!(scratch.granted(NPM).1[0].contains("too long"));
}

#[test]
fn cargo_is_asked_for_its_index_and_the_index_for_its_crates() {
    let scratch = Scratch::new();
    scratch.file("usr/bin/cargo", "\u{7f}ELF…sparse+https://index.example/crates…");
    let cached = "home/user/.cargo/registry/index/index.example-1949cf8c6b5b557f/config.json";
    scratch.file(cached, "{\"dl\": \"https://files.example/{crate}/download\"}");
    scratch.file(&cached.replace("index.example", "other.example"), "{\"dl\": \"https://no.example/\"}");
    let rules = |write: &str| {
        format!("network: {{ hosts_from: cargo }}\nfiles: {{ read: [\"/**\"], write: [\"{write}\"] }}\n")
    };
    assert_eq!(scratch.granted(&rules("~/work/**")).0, ["files.example:443", "index.example:443"]);
    let (hosts, warnings) = scratch.granted(&rules("~/.cargo/registry/**"));
    assert_eq!(hosts, ["index.example:443"]);
    assert!(warnings[0].contains("crates come from `files.example`"), "{warnings:?}");
    scratch.file("home/user/.cargo/config.toml", "[source.crates-io]\nreplace-with = \"m\"\n[source.m]\nregistry = \"sparse+https://mirror.example/\"\n");
    assert_eq!(scratch.granted(&rules("~/work/**")).0, ["mirror.example:443"]);
}

#[test]
fn every_other_manager_is_asked_in_its_own_way() {
    let scratch = Scratch::new();
    let pip = "usr/lib/python3/dist-packages/pip/_internal/models/index.py";
    scratch
        .file(pip, "PyPI = PackageIndex(\"https://own.example/\", file_storage_domain=\"files.example\")\n");
    scratch.file("usr/lib/go-1.19/bin/go", "…https://proxy.example,direct…");
    scratch
        .file("usr/local/bin/uv", "")
        .file("etc/uv/uv.toml", "index-url = \"https://uv.example/simple\"\n");
    scratch.file("usr/bin/apt-get", "");
    scratch.file("etc/apt/sources.list.d/a.sources", "Types: deb\nURIs: http://192.0.2.7/debian\n");
    scratch.file("etc/apt/sources.list.d/a.sources.disabled", "URIs: http://no.example/\n");
    scratch.file("etc/environment", "export GOSUMDB='sums.example'\n");
    for (manager, hosts) in [
        ("pip", &["files.example:443", "own.example:443"][..]),
        ("go", &["proxy.example:443", "sums.example:443"]),
        ("uv", &["uv.example:443"]),
        ("apt", &["192.0.2.7/32:80"]),
    ] {
        let rules = NPM.replace("npm", manager);
        assert_eq!(
            scratch.granted(&rules),
            (hosts.iter().map(|&h| h.to_owned()).collect(), vec![]),
            "{manager}"
        );
    }
    scratch.file("etc/environment", "GOPROXY=https://mirror.example,direct\n");
    assert_eq!(scratch.granted(&NPM.replace("npm", "go")).0, ["mirror.example:443"]);
}

#[test]
fn names_that_come_of_files_close_the_other_resolvers_too() {
    let scratch = Scratch::new();
    let denied = |rules: &str| scratch.load(rules).profile.unix.unwrap().deny.len();
    assert!(denied(&format!("{NPM}unix: {{}}\n")) > denied("network: {}\nunix: {}\n"));
    let warnings = scratch.load(NPM).warnings;
    assert!(warnings.iter().any(|warning| warning.code == Code::NamesBesideSockets));
}

#[test]
fn a_base_names_managers_too_and_one_that_both_name_counts_once() {
    let scratch = Scratch::new();
    let base = scratch.0.path().join("b.yaml");
    fs::write(base, "version: 1\nname: b\nabstract: true\nnetwork: { hosts_from: [npm, apt] }\n").unwrap();
    let rules = format!("extends: [b]\n{NPM}");
    let profile = scratch.load(&rules).profile;
    let ids: Vec<&str> = profile.network.allow.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids, ["p:network.hosts_from[0].npm:443"]);
    assert!(scratch.granted(&rules).1.iter().any(|warning| warning.contains("apt is not installed")));
}

/// What npm and go say themselves, where they are installed: reading their programs must come to the same.
#[test]
fn the_programs_of_this_host_say_what_their_files_say() {
    let home = tempfile::tempdir().unwrap();
    let ask = |program: &str, words: &[&str]| {
        let output = std::process::Command::new(program)
            .args(words)
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin:/usr/local/bin"), ("GOFLAGS", "-mod=mod")])
            .env("HOME", home.path())
            .current_dir(home.path())
            .output();
        let said = output.ok().filter(|output| output.status.success())?.stdout;
        location::location(String::from_utf8(said).ok()?.trim().split(',').next()?).ok()
    };
    let said = [
        (Manager::Npm, ask("npm", &["config", "get", "registry", "--globalconfig", "/dev/null"])),
        (Manager::Go, ask("go", &["env", "GOPROXY"])),
    ];
    for (manager, said) in said {
        let Some(said) = said else { continue };
        let root = PathBuf::from("/");
        let host = Host::below(&root).unwrap();
        let found = manager.built_in().iter().flat_map(|built_in| {
            let paths = built_in.places.iter().flat_map(|pattern| host.find(pattern));
            let texts = paths.filter_map(|path| match built_in.find {
                Find::Text(read) => Some(read(&host.open(&path).ok()??.text().ok()?)),
                Find::Program { needle, read } => {
                    Some(host.open(&path).ok()??.search(needle, read).ok()?.into_iter().collect())
                }
            });
            texts.flatten().collect::<Vec<_>>()
        });
        let found: Vec<Location> = found.filter_map(|url| location::location(&url).ok()).collect();
        assert!(found.is_empty() || found.contains(&said), "{manager:?} says {said:?}, its files {found:?}");
    }
}

#[test]
fn no_place_is_one_that_a_profile_could_not_name() {
    for manager in Manager::ALL {
        let programs = manager.programs().iter();
        programs.for_each(|glob| assert!(super::super::globs::exe_glob(glob).is_ok(), "{glob}"));
        let places = manager.installed().iter().chain(manager.configured().iter().flat_map(|c| c.places));
        let places = places.chain(manager.built_in().iter().flat_map(|b| b.places));
        for place in places {
            assert!(place.starts_with("~/") || Path::new(place).is_absolute(), "{place}");
        }
    }
}
