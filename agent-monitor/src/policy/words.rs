//! The single values of a profile: addresses, networks, ports, names, globs.
//!
//! One function per kind turns what was typed into its value, or into a
//! [`Problem`] that says what is wrong and what to type instead. The structure
//! check calls them by the `format` that the schema gives a value
//! ([`Word::of_format`]), so all bad values are found at once; the typed model
//! calls them again to read values that are known to be good.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::diagnostic::{Code, nearest, quoted};
use super::programs::ProgramRef;
use super::{capabilities, globs, lease, names, pins, syscalls};

/// The only version of the language so far.
pub const VERSION: i128 = 1;
/// The name is a metric label, a cgroup name and a part of every rule id.
pub const MAX_NAME_CHARS: usize = 63;

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    pub message: String,
    pub hint: String,
}

pub(super) fn problem<T>(
    code: Code,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Result<T, Problem> {
    Err(Problem { code, message: message.into(), hint: hint.into() })
}

/// The kinds of single value that are more than a type; named in the schema's
/// `format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Version,
    ProfileName,
    BaseName,
    Cidr,
    Address,
    Host,
    Ports,
    ExeGlob,
    PathGlob,
    CgroupGlob,
    Syscall,
    Capability,
    ProgramName,
    Program,
    UnixGlob,
    LiteralPath,
    Sha256,
    Lease,
}

impl Word {
    pub const ALL: [Self; 18] = [
        Self::Version,
        Self::ProfileName,
        Self::BaseName,
        Self::Cidr,
        Self::Address,
        Self::Host,
        Self::Ports,
        Self::ExeGlob,
        Self::PathGlob,
        Self::CgroupGlob,
        Self::Syscall,
        Self::Capability,
        Self::ProgramName,
        Self::Program,
        Self::UnixGlob,
        Self::LiteralPath,
        Self::Sha256,
        Self::Lease,
    ];

    #[must_use]
    pub const fn format(self) -> &'static str {
        match self {
            Self::Version => "profile-version",
            Self::ProfileName => "profile-name",
            Self::BaseName => "base-name",
            Self::Cidr => "cidr",
            Self::Address => "ip-address",
            Self::Host => "host-name",
            Self::Ports => "ports",
            Self::ExeGlob => "executable-glob",
            Self::PathGlob => "path-glob",
            Self::CgroupGlob => "cgroup-glob",
            Self::Syscall => "system-call",
            Self::Capability => "capability",
            Self::ProgramName => "program-name",
            Self::Program => "program",
            Self::UnixGlob => "unix-socket-glob",
            Self::LiteralPath => "literal-path",
            Self::Sha256 => "sha256",
            Self::Lease => "lease",
        }
    }

    /// What to type, in back quotes.
    #[must_use]
    pub const fn example(self) -> &'static str {
        match self {
            Self::Version => "`version: 1`",
            Self::ProfileName => "`my-agent`",
            Self::BaseName => "`base`",
            Self::Cidr => "`10.0.0.0/8`",
            Self::Address => "`10.1.2.3`",
            Self::Host => "`api.example.com` or `*.example.com`",
            Self::Ports => "`443` or `[443, 8000-8100]`",
            Self::ExeGlob => "`/usr/bin/codex`",
            Self::PathGlob => "`/usr/**`",
            Self::CgroupGlob => "`/system.slice/agent-*.service`",
            Self::Syscall => "`ptrace`",
            Self::Capability => "`net_bind_service`",
            Self::ProgramName => "`git`",
            Self::Program => "`git` or `/usr/bin/git`",
            Self::UnixGlob => "`/run/dbus/*`",
            Self::LiteralPath => "`/usr/bin/git`",
            Self::Sha256 => "the 64 digits that `sha256sum` prints",
            Self::Lease => "`2h`",
        }
    }

    #[must_use]
    pub fn of_format(format: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.format() == format)
    }

    /// Checks a text value.
    pub fn check_text(self, text: &str) -> Result<(), Problem> {
        match self {
            Self::Version => problem(
                Code::UnsupportedVersion,
                format!("unsupported version {}", quoted(text)),
                "write `version: 1`, without quotes",
            ),
            Self::ProfileName => profile_name(text).map(drop),
            Self::BaseName => base_name(text).map(drop),
            Self::Cidr => cidr(text).map(drop),
            Self::Address => address(text).map(drop),
            Self::Host => names::host(text).map(drop),
            Self::Ports => port_range(text).map(drop),
            Self::ExeGlob => globs::exe_glob(text).map(drop),
            Self::PathGlob => globs::path_glob(text).map(drop),
            Self::CgroupGlob => globs::cgroup_glob(text).map(drop),
            Self::Syscall => syscall(text).map(drop),
            Self::Capability => capability(text).map(drop),
            Self::ProgramName => program_name(text).map(drop),
            Self::Program => program(text).map(drop),
            Self::UnixGlob => globs::unix_glob(text).map(drop),
            Self::LiteralPath => pins::literal_path(text).map(drop),
            Self::Sha256 => pins::sha256(text).map(drop),
            Self::Lease => lease::lease(text).map(drop),
        }
    }

    /// Checks a number; `None` if this kind of value is never a number.
    #[must_use]
    pub fn check_number(self, number: i128) -> Option<Result<(), Problem>> {
        match self {
            Self::Version => Some(version(number)),
            Self::Ports => Some(port(number).map(drop)),
            _ => None,
        }
    }
}

fn version(number: i128) -> Result<(), Problem> {
    if number == VERSION {
        return Ok(());
    }
    problem(
        Code::UnsupportedVersion,
        format!("version {number} of the profile language is not supported"),
        "this agent-monitor reads `version: 1`",
    )
}

/// Reads the version once it is known to be a number.
pub fn version_text(text: &str) -> Result<(), Problem> {
    version(text.parse().unwrap_or(i128::MAX))
}

/// Reads a profile's name.
pub fn profile_name(text: &str) -> Result<String, Problem> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if starts_well && text.chars().all(allowed) && text.len() <= MAX_NAME_CHARS {
        return Ok(text.to_owned());
    }
    problem(
        Code::BadName,
        format!("{} can't be a profile's name", quoted(text)),
        format!(
            "use lower-case letters, digits, `-`, `_` and `.`, at most {MAX_NAME_CHARS}, beginning with a letter or digit"
        ),
    )
}

/// Reads the name of a set of programs.
pub fn program_name(text: &str) -> Result<String, Problem> {
    profile_name(text).map_err(|problem| Problem {
        message: format!("{} can't be the name of a set of programs", quoted(text)),
        ..problem
    })
}

/// Reads what `exe` and `except` hold: a name of `programs`, or a glob.
pub fn program(text: &str) -> Result<ProgramRef, Problem> {
    if text.contains(['/', '*', '{', '~', '$']) {
        return globs::exe_glob(text).map(ProgramRef::Glob);
    }
    profile_name(text).map(ProgramRef::Name).map_err(|_| Problem {
        code: Code::BadName,
        message: format!("{} is no name of a set of programs and no glob", quoted(text)),
        hint: "write a key of `programs`, such as `git`, or a path such as `/usr/bin/git`".to_owned(),
    })
}

/// Reads the name of a base under `extends`: a file's name without the rest.
pub fn base_name(text: &str) -> Result<String, Problem> {
    let file = text.rsplit('/').next().unwrap_or(text);
    let stem = file.strip_suffix(".yaml").or(file.strip_suffix(".yml")).unwrap_or(file);
    profile_name(text).and_then(|name| if stem == text { Ok(name) } else { profile_name("") }).map_err(|problem| {
        let hint = match profile_name(stem) {
            Ok(stem) => format!(
                "write `{stem}`: the file `{stem}.yaml` is looked up beside this one, then in the profile directories"
            ),
            Err(_) => problem.hint,
        };
        Problem { code: Code::BadName, message: format!("{} can't be a base's name", quoted(text)), hint }
    })
}

/// An IPv4 network for an IPv4-mapped one, else the network itself.
fn unmapped_net(net: Ipv6Net) -> IpNet {
    match (net.addr().to_ipv4_mapped(), net.prefix_len().checked_sub(96)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).map_or(net.into(), IpNet::from),
        _ => net.into(),
    }
}

/// Reads a network such as `10.0.0.0/8` or `2001:db8::/32`, without host bits.
pub fn cidr(text: &str) -> Result<IpNet, Problem> {
    let Some((address_text, prefix_text)) = text.split_once('/') else {
        return match text.parse::<IpAddr>() {
            Ok(address) => problem(
                Code::BadCidr,
                format!("{} is an address, not a network", quoted(text)),
                format!("write `address: {address}`, or `cidr: {}`", IpNet::from(address)),
            ),
            Err(_) => not_an_address(Code::BadCidr, "network", text),
        };
    };
    let Ok(address) = address_text.parse::<IpAddr>() else {
        return not_an_address(Code::BadCidr, "network", address_text);
    };
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix_text.parse::<u8>() {
        // `/+8` and `/08` parse as numbers.
        Ok(prefix) if prefix <= longest && prefix.to_string() == prefix_text => prefix,
        _ => {
            let hint = match prefix_text.parse::<Ipv4Addr>().map(|mask| u32::from(mask).leading_ones()) {
                Ok(ones) => format!("write the netmask as a length: `{address_text}/{ones}`"),
                Err(_) => format!("write a number from 0 to {longest} after the `/`"),
            };
            return problem(
                Code::BadCidr,
                format!("{} is no prefix length of an {} network", quoted(prefix_text), family(address)),
                hint,
            );
        }
    };
    let net = match IpNet::new(address, prefix) {
        Ok(net) => net,
        Err(error) => {
            return problem(Code::BadCidr, error.to_string(), "write a network such as `10.0.0.0/8`");
        }
    };
    if net.addr() != net.network() {
        return problem(
            Code::HostBits,
            format!("{} has bits set behind its prefix length", quoted(text)),
            format!("the network is `{}`; for the single address write `address: {address}`", net.trunc()),
        );
    }
    Ok(match net {
        IpNet::V4(_) => net,
        IpNet::V6(v6) => unmapped_net(v6),
    })
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Reads one address; an IPv4-mapped one is IPv4.
pub fn address(text: &str) -> Result<IpAddr, Problem> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => not_an_address(Code::BadAddress, "address", text),
    }
}

/// Finds out what was typed instead of an address.
fn not_an_address<T>(code: Code, wanted: &str, text: &str) -> Result<T, Problem> {
    let example = if wanted == "network" { "10.0.0.0/8" } else { "10.1.2.3" };
    let hint = if text.parse::<ipnet::IpNet>().is_ok() {
        format!("write `cidr: {text}`")
    } else if text.contains("://") {
        "write the address only; ports go under `ports`".to_owned()
    } else if let Some((address, zone)) = text.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        format!("remove `%{zone}`: a rule holds on every interface")
    } else if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        format!("write `address: {}` and `ports: [{}]`", socket.ip(), socket.port())
    } else if text.contains('*') {
        format!("write a range of addresses as a network, for example `cidr: {}`", "10.0.0.0/8")
    } else if text.bytes().any(|b| b.is_ascii_alphabetic()) && !text.contains(':') {
        format!("for a name write `host: {text}`; an address is written like `{example}`")
    } else if text.split('.').any(|part| part.len() > 1 && part.starts_with('0')) {
        "write the numbers without leading zeros".to_owned()
    } else {
        format!(
            "write it like `{example}` or `{}`",
            if wanted == "network" { "2001:db8::/32" } else { "2001:db8::1" }
        )
    };
    problem(code, format!("{} is not an IP {wanted}", quoted(text)), hint)
}

/// Reads one port.
pub fn port(number: i128) -> Result<u16, Problem> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) => problem(
            Code::BadPort,
            "port 0 does not exist",
            "ports go from 1 to 65535; leave `ports` out to mean every port, also one of the kernel's choice",
        ),
        Err(_) => problem(Code::BadPort, format!("{number} is not a port"), "ports go from 1 to 65535"),
    }
}

/// Reads a port or a range of ports, both ends included: `443`, `8000-8100`.
pub fn port_range(text: &str) -> Result<RangeInclusive<u16>, Problem> {
    let number = |part: &str| -> Result<u16, Problem> {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if digits && (part.len() == 1 || !part.starts_with('0')) {
            return port(part.parse().unwrap_or(i128::MAX));
        }
        problem(
            Code::BadPort,
            format!("{} is not a port", quoted(part)),
            "write ports as numbers or ranges, for example `[443, 8000-8100]`",
        )
    };
    let Some((first, last)) = text.split_once('-') else {
        return number(text).map(|port| port..=port);
    };
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    if first > last {
        return problem(
            Code::EmptyRange,
            format!("{} holds no port: it ends before it begins", quoted(text)),
            format!("write `{last}-{first}`"),
        );
    }
    Ok(first..=last)
}

/// Looks up a system call of this machine's architecture.
pub fn syscall(text: &str) -> Result<u32, Problem> {
    if let Some(number) = syscalls::number(text) {
        return Ok(number);
    }
    let hint = match nearest(text, syscalls::TABLE.iter().map(|&(name, _)| name)) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "write the kernel's name of the call, as `strace` prints it, for example `ptrace`".to_owned(),
    };
    problem(Code::UnknownSyscall, format!("there is no system call {}", quoted(text)), hint)
}

/// Reads a capability, or `any`, as the mask of what it grants.
pub fn capability(text: &str) -> Result<u64, Problem> {
    if let Some(mask) = capabilities::mask(text) {
        return Ok(mask);
    }
    let lower = text.to_lowercase();
    let plain = lower.strip_prefix("cap_").unwrap_or(&lower);
    let hint = match capabilities::mask(plain) {
        Some(_) => format!("write `{plain}`"),
        None => match nearest(plain, capabilities::NAMES) {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                "write a name from capabilities(7) without `CAP_`, for example `net_bind_service`, or `any`"
                    .to_owned()
            }
        },
    };
    problem(Code::UnknownCapability, format!("there is no capability {}", quoted(text)), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> Code {
        result.unwrap_err().code
    }

    #[test]
    fn networks_are_exact() {
        assert_eq!(cidr("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(cidr("::/0").unwrap().to_string(), "::/0");
        assert_eq!(cidr("::ffff:10.0.0.0/104").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(cidr("::ffff:0:0/95").unwrap_err().code, Code::HostBits);
        let host_bits = cidr("10.1.2.3/8").unwrap_err();
        assert_eq!(host_bits.code, Code::HostBits);
        assert!(host_bits.hint.contains("`10.0.0.0/8`"), "{}", host_bits.hint);
        assert!(host_bits.hint.contains("`address: 10.1.2.3`"), "{}", host_bits.hint);
        for text in
            ["10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/", "/8", "", "10.0.0/8", "example.org/8"]
        {
            assert_eq!(code(cidr(text)), Code::BadCidr, "{text}");
        }
        assert!(cidr("10.0.0.0/255.255.0.0").unwrap_err().hint.contains("10.0.0.0/16"));
        assert!(cidr("10.0.0.1").unwrap_err().hint.contains("address: 10.0.0.1"));
    }

    #[test]
    fn addresses_say_what_to_write_instead() {
        assert_eq!(address("::ffff:10.0.0.1").unwrap(), IpAddr::from([10, 0, 0, 1]));
        for (typed, hint) in [
            ("api.example.org", "write `host: api.example.org`"),
            ("10.0.0.1:443", "`ports: [443]`"),
            ("[::1]:443", "`address: ::1`"),
            ("https://10.0.0.1/", "the address only"),
            ("10.0.0.0/8", "`cidr: 10.0.0.0/8`"),
            ("fe80::1%eth0", "`%eth0`"),
            ("10.0.0.01", "leading zeros"),
            ("10.0.*.*", "cidr"),
            ("10.0.0", "10.1.2.3"),
        ] {
            let problem = address(typed).unwrap_err();
            assert_eq!(problem.code, Code::BadAddress);
            assert!(problem.hint.contains(hint), "{typed}: {}", problem.hint);
        }
    }

    #[test]
    fn port_ranges_hold_at_least_one_port() {
        assert_eq!(port_range("443").unwrap(), 443..=443);
        assert_eq!(port_range("8000-8100").unwrap(), 8000..=8100);
        assert_eq!(port_range("1 - 65535").unwrap(), 1..=65535);
        let reversed = port_range("9-1").unwrap_err();
        assert_eq!((reversed.code, reversed.hint.as_str()), (Code::EmptyRange, "write `1-9`"));
        for text in [
            "0",
            "0-5",
            "65536",
            "1-65536",
            "0443",
            "",
            "-",
            "-5",
            "5-",
            "a-b",
            "0x50",
            "1..5",
            "99999999999999999999999999999999999999999999",
        ] {
            assert_eq!(code(port_range(text)), Code::BadPort, "{text}");
        }
        assert_eq!(code(port(-1)), Code::BadPort);
    }

    #[test]
    fn system_calls_are_looked_up_with_suggestions() {
        assert_eq!(syscall("ptrace"), Ok(101));
        assert!(syscall("kexec_laod").unwrap_err().hint.contains("`kexec_load`"));
        assert_eq!(code(syscall("")), Code::UnknownSyscall);
    }

    #[test]
    fn capabilities_are_looked_up_with_suggestions() {
        assert_eq!(capability("net_bind_service"), Ok(1 << 10));
        assert_eq!(capability("any"), Ok(u64::MAX));
        for (typed, hint) in [
            ("CAP_NET_ADMIN", "write `net_admin`"),
            ("net_bind_servce", "did you mean `net_bind_service`?"),
            ("cap_sys_amdin", "did you mean `sys_admin`?"),
            ("everything", "capabilities(7)"),
        ] {
            let problem = capability(typed).unwrap_err();
            assert_eq!(problem.code, Code::UnknownCapability);
            assert!(problem.hint.contains(hint), "{typed}: {}", problem.hint);
        }
    }

    #[test]
    fn bases_are_named_without_their_path() {
        assert_eq!(base_name("base"), Ok("base".to_owned()));
        assert_eq!(base_name("v1.2"), Ok("v1.2".to_owned()));
        for typed in ["base.yaml", "../base", "./base.yml", "/etc/x/base.yaml"] {
            let problem = base_name(typed).unwrap_err();
            assert!(problem.hint.starts_with("write `base`"), "{typed}: {}", problem.hint);
        }
        assert!(base_name("My Base").unwrap_err().hint.contains("lower-case"));
    }

    #[test]
    fn names_are_fit_for_labels_and_paths() {
        for good in ["base", "coding-agent", "a", "0x_1.2"] {
            assert_eq!(profile_name(good), Ok(good.to_owned()), "{good}");
        }
        for bad in ["", "-a", ".a", "Base", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert_eq!(code(profile_name(bad)), Code::BadName, "{bad}");
        }
    }
}
