//! What a sound profile or base says, in short: how many rules of each kind, and what the kernel gets.
//!
//! Called by `check`, which prints it as a text or as a part of its report.

use std::path::Path;

use agent_monitor_common::image::header;
use serde::Serialize;

use crate::policy::compile::Image;
use crate::policy::diagnostic::printable;
use crate::policy::{
    Base, ExecPolicy, FilesPolicy, NetworkPolicy, PrivilegesPolicy, ResolvedProfile, SyscallRule, UnixPolicy,
    capabilities,
};

/// What a sound file says, in short.
#[derive(Debug, Serialize)]
pub struct Summary {
    name: String,
    /// Nothing for a base.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    /// The files it was read from, itself first.
    files: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    rules: Rules,
    /// Nothing for a base.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Compiled>,
}

/// What the kernel gets of a profile.
#[derive(Debug, Serialize)]
struct Compiled {
    kibibytes: usize,
    /// Combinations of sets of programs that are told apart.
    classes: u64,
}

impl From<&Image> for Compiled {
    fn from(image: &Image) -> Self {
        let classes = image.words.get(header::CLASS_COUNT).copied().unwrap_or(0);
        Self { kibibytes: size_of_val(image.words.as_slice()).div_ceil(1024), classes }
    }
}

#[derive(Debug, Serialize)]
struct Rules {
    claims: usize,
    network_allow: usize,
    network_deny: usize,
    network_listen: usize,
    sockets: Vec<&'static str>,
    /// `None`: the section is not written, and nothing of it is judged.
    files: Option<FileRules>,
    exec: Option<PairOfLists>,
    unix: Option<PairOfLists>,
    privileges: Option<PrivilegeRules>,
    /// Denials with `audit: true`.
    tried_out: usize,
    syscalls_watched: usize,
    syscalls_killed: usize,
}

#[derive(Debug, Serialize)]
struct FileRules {
    read: usize,
    write: usize,
    deny: usize,
}

#[derive(Debug, Serialize)]
struct PairOfLists {
    allow: usize,
    deny: usize,
}

/// What is granted.
#[derive(Debug, Serialize)]
struct PrivilegeRules {
    capabilities: Vec<&'static str>,
    ptrace: &'static str,
    signals: &'static str,
    /// Keys that are `true`.
    granted: Vec<&'static str>,
}

impl From<&PrivilegesPolicy> for PrivilegeRules {
    fn from(policy: &PrivilegesPolicy) -> Self {
        let keys = [
            ("setuid", policy.setuid.value),
            ("user_namespaces", policy.user_namespaces.value),
            ("mounts", policy.mounts.value),
            ("modules", policy.modules.value),
            ("bpf", policy.bpf.value),
            ("perf", policy.perf.value),
            ("io_uring", policy.io_uring.value),
        ];
        Self {
            capabilities: capabilities::names(policy.capabilities),
            ptrace: policy.ptrace.value.as_str(),
            signals: policy.signals.value.as_str(),
            granted: keys.into_iter().filter(|(_, granted)| *granted).map(|(key, _)| key).collect(),
        }
    }
}

impl From<&FilesPolicy> for FileRules {
    fn from(policy: &FilesPolicy) -> Self {
        Self { read: policy.read.len(), write: policy.write.len(), deny: policy.deny.len() }
    }
}

impl From<&ExecPolicy> for PairOfLists {
    fn from(policy: &ExecPolicy) -> Self {
        Self { allow: policy.allow.len(), deny: policy.deny.len() }
    }
}

impl From<&UnixPolicy> for PairOfLists {
    fn from(policy: &UnixPolicy) -> Self {
        Self { allow: policy.allow.len(), deny: policy.deny.len() }
    }
}

impl Rules {
    /// Of the sections that every file has.
    fn of(claims: usize, network: &NetworkPolicy, syscalls: &[SyscallRule]) -> Self {
        let killed = syscalls.iter().filter(|rule| rule.kill).count();
        Self {
            claims,
            network_allow: network.allow.len(),
            network_deny: network.deny.len(),
            network_listen: network.listen.len(),
            sockets: network.sockets.iter().map(|kind| kind.as_str()).collect(),
            files: None,
            exec: None,
            unix: None,
            privileges: None,
            tried_out: network.audited.len(),
            syscalls_watched: syscalls.len() - killed,
            syscalls_killed: killed,
        }
    }
}

impl Summary {
    pub fn of_profile(profile: &ResolvedProfile, image: &Image) -> Self {
        let rules = Rules::of(profile.claims.len(), &profile.network, &profile.syscalls);
        Self {
            name: profile.name.clone(),
            mode: Some(profile.mode.as_str()),
            files: profile.files.iter().map(|file| file.display().to_string()).collect(),
            description: profile.description.clone(),
            rules: Rules {
                files: profile.filesystem.as_ref().map(Into::into),
                exec: profile.exec.as_ref().map(Into::into),
                unix: profile.unix.as_ref().map(Into::into),
                privileges: profile.privileges.as_ref().map(Into::into),
                tried_out: rules.tried_out + profile.audited.len(),
                ..rules
            },
            image: Some(image.into()),
        }
    }

    pub fn of_base(base: &Base) -> Self {
        let rules = Rules::of(base.claims, &base.network, &base.syscalls);
        Self {
            name: base.name.clone(),
            mode: None,
            files: base.files.iter().map(|file| file.display().to_string()).collect(),
            description: base.description.clone(),
            rules: Rules {
                files: base.filesystem.as_ref().map(Into::into),
                exec: base.exec.as_ref().map(Into::into),
                unix: base.unix.as_ref().map(Into::into),
                privileges: base.privileges.as_ref().map(Into::into),
                tried_out: rules.tried_out + base.audited.len(),
                ..rules
            },
            image: None,
        }
    }

    /// The lines of the text.
    pub fn describe(&self, file: &Path) -> String {
        let rules = &self.rules;
        let kind = match self.mode {
            Some(mode) => format!("profile {}, mode {mode}", self.name),
            None => format!("base {}", self.name),
        };
        let sockets = match rules.sockets.as_slice() {
            [] => String::new(),
            kinds => format!("; sockets {}", kinds.join(", ")),
        };
        let files = rules.files.as_ref().map_or(String::new(), |files| {
            format!("; files {} read, {} write, {} deny", files.read, files.write, files.deny)
        });
        let exec = rules
            .exec
            .as_ref()
            .map_or(String::new(), |exec| format!("; exec {} allow, {} deny", exec.allow, exec.deny));
        let unix = rules
            .unix
            .as_ref()
            .map_or(String::new(), |unix| format!("; unix {} allow, {} deny", unix.allow, unix.deny));
        let tried_out = match rules.tried_out {
            0 => String::new(),
            denials => format!("; {denials} denials tried out"),
        };
        let privileges = rules.privileges.as_ref().map_or(String::new(), |granted| {
            let capabilities = match granted.capabilities.as_slice() {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            let others: String = granted.granted.iter().map(|key| format!(", {key}")).collect();
            format!(
                "; privileges: capabilities {capabilities}, ptrace {}, signals {}{others}",
                granted.ptrace, granted.signals
            )
        });
        let image = self.image.as_ref().map_or(String::new(), |image| {
            let (plural, classes) = (if image.classes == 1 { "" } else { "es" }, image.classes);
            format!("\n  {} KiB in the kernel, {classes} class{plural} of programs", image.kibibytes)
        });
        let bases = match self.files.as_slice() {
            [] | [_] => String::new(),
            [_, bases @ ..] => format!("\n  extends {}", printable(&bases.join(", "))),
        };
        format!(
            "{}: OK, {kind}{bases}\n  {} agent claims; network {} allow, {} deny, {} listen{sockets}{files}{exec}{unix}{tried_out}{privileges}; system calls {} watched, {} killed{image}\n",
            printable(&file.to_string_lossy()),
            rules.claims,
            rules.network_allow,
            rules.network_deny,
            rules.network_listen,
            rules.syscalls_watched,
            rules.syscalls_killed,
        )
    }
}
