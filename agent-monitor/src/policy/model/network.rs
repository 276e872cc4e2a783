//! The section `network`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Address, Cidr, Host, LeaseWord, OneOrMany, Ports, Program, Spanned};
use crate::policy::hosts_from::Manager;
use crate::policy::sockets::SocketKind;

/// The network of an agent. Only what is listed exists; TCP, UDP and Unix
/// sockets can be made, other kinds only if `sockets` grants them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSection {
    /// What a denied call returns to the agent; `unreachable` if left out.
    #[schemars(extend("examples" = ["refused"]))]
    pub denied: Option<Spanned<DeniedWord>>,
    /// Peers that the agent may send to or connect to.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"cidr": "10.20.0.0/16", "ports": [5432, "8000-8100"]}]]))]
    pub allow: Vec<Spanned<PeerRule>>,
    /// Package managers of the host whose registries the agent may reach, each by the
    /// manager's own programs alone (the set of its name under `programs`). When the
    /// profile is loaded, the registries are read from the managers' configuration,
    /// mirrors included, as far as agents of the profile can't write it; where none is
    /// configured, the manager's own counts.
    #[serde(default)]
    #[schemars(extend("examples" = [["npm", "pip"]]))]
    pub hosts_from: OneOrMany<Spanned<Manager>>,
    /// Peers that never exist for the agent, whatever is allowed.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"cidr": "169.254.0.0/16", "protocol": "any"}]]))]
    pub deny: Vec<Spanned<PeerRule>>,
    /// Local addresses that the agent may bind and listen on.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"ports": ["3000-3999"]}]]))]
    pub listen: Vec<Spanned<ListenRule>>,
    /// Kinds of socket that exist for the agent beyond TCP, UDP and Unix sockets.
    #[serde(default)]
    #[schemars(extend("examples" = [["netlink"]]))]
    pub sockets: Vec<SocketKind>,
}

/// What a denied network call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeniedWord {
    /// `ENETUNREACH`: the path does not exist.
    Unreachable,
    /// `ECONNREFUSED`: nobody listens there.
    Refused,
    /// `EACCES`: a filter said no.
    Denied,
    /// `EPERM`: a privilege is missing.
    NotPermitted,
}

/// A rule about network peers: any of the addresses, networks and names, on any
/// of the ports, by any of the protocols.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["cidr"]}, {"required": ["address"]}, {"required": ["host"]}]))]
pub struct PeerRule {
    /// One network or a list of them. `0.0.0.0/0` is every IPv4 address, `::/0`
    /// every IPv6 address.
    #[serde(default)]
    #[schemars(extend("examples" = ["10.0.0.0/8", ["10.0.0.0/8", "2001:db8::/32"]]))]
    pub cidr: OneOrMany<Cidr>,
    /// One address or a list of them.
    #[serde(default)]
    #[schemars(extend("examples" = ["10.1.2.3", ["10.1.2.3", "2001:db8::1"]]))]
    pub address: OneOrMany<Spanned<Address>>,
    /// Under `allow` only: one name or a list of them. The agent can look such a name
    /// up, and reach the addresses that answer to it while the answer holds; every
    /// other name does not exist for it. `*.example.com` is every name below
    /// `example.com`, of one label or more, and not `example.com` itself.
    #[serde(default)]
    #[schemars(extend("examples" = ["api.example.com", ["example.com", "*.example.com"]]))]
    pub host: OneOrMany<Spanned<Host>>,
    /// With `host` and `tcp` only. `require`: what a connection sends first must be the
    /// hello of a TLS client, whole in one packet and one record, that says a name
    /// (server name indication) which rules grant at this port and which the agent has looked
    /// up; else it is dropped. So what lives at the same address under another name
    /// is not reached. Without it nobody looks. A rule without it that grants the same
    /// wins.
    #[schemars(extend("examples" = ["require"]))]
    pub sni: Option<Spanned<SniWord>>,
    /// Ports and ranges of ports; every port if left out.
    #[schemars(extend("examples" = [[443, "8000-8100"]]))]
    pub ports: Option<Spanned<OneOrMany<Ports>>>,
    /// The transport protocols; `tcp` alone if left out.
    #[serde(default)]
    #[schemars(extend("examples" = [["tcp", "udp"]]))]
    pub protocol: OneOrMany<ProtocolWord>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// Under `deny` only: programs for which the rule does not hold, by names of
    /// `programs` or by globs.
    #[serde(default)]
    #[schemars(extend("examples" = ["model-client"]))]
    pub except: OneOrMany<Spanned<Program>>,
    /// Under `allow` only: how long the grant holds after the last change of this file (`2h`, `90m`, `7d`), or until when
    /// (`2030-01-31T18:00:00Z`). It ends by itself, in the kernel; for good if left out.
    #[schemars(extend("examples" = ["2h", "2030-01-31T18:00:00Z"]))]
    pub expires: Option<Spanned<LeaseWord>>,
    /// Under `deny` only. `true`: tries the denial out. What it matches goes on where it is granted by address, and
    /// is told as what would be denied (`would-deny`). Of what a name grants it says nothing.
    #[schemars(extend("examples" = [true]))]
    pub audit: Option<Spanned<bool>>,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// What is asked of the name that a TLS client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SniWord {
    /// It is there, and granted.
    Require,
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolWord {
    Tcp,
    Udp,
    /// ICMP and ICMPv6, which have no ports. The agent also needs a socket kind
    /// that can send it: `ping` or `raw`.
    Icmp,
    /// Every protocol, also those that no other word names. With `ports` it
    /// means protocols that have ports.
    Any,
}

/// A rule about the local addresses that an agent may listen on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenRule {
    /// One local address or a list of them; loopback (127.0.0.0/8 and ::1) if
    /// left out. `0.0.0.0` is any IPv4 address, `::` any address of both
    /// families.
    #[serde(default)]
    #[schemars(extend("examples" = ["127.0.0.1", ["0.0.0.0"]]))]
    pub address: OneOrMany<Address>,
    /// Ports and ranges of ports; every port if left out, also one of the
    /// kernel's choice.
    #[schemars(extend("examples" = [[443, "8000-8100"]]))]
    pub ports: Option<OneOrMany<Ports>>,
    /// The transport protocols; `tcp` alone if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["udp"]))]
    pub protocol: OneOrMany<ListenProtocolWord>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// How long the grant holds after the last change of this file (`2h`, `90m`, `7d`), or until when
    /// (`2030-01-31T18:00:00Z`). It ends by itself, in the kernel; for good if left out.
    #[schemars(extend("examples" = ["2h", "2030-01-31T18:00:00Z"]))]
    pub expires: Option<Spanned<LeaseWord>>,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// Transport protocols that can be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenProtocolWord {
    Tcp,
    Udp,
    /// Every protocol, also those that no other word names.
    Any,
}
