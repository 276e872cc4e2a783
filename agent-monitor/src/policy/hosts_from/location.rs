//! A registry's URL, reduced to what a rule can say: a host and a port.
//!
//! The text comes from a configuration file, which may hold credentials: no message repeats it. What must stay true: a
//! host that leaves here would be taken under `host:` too, and is one name, never a pattern; an address that leaves here
//! is one of the network.

use std::net::IpAddr;

use url::{Host, Url};

use crate::policy::names::{self, HostPattern};

/// Longest text that is looked at.
const MAX_URL: usize = 2048;

/// Where a registry is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub host: Place,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Name(HostPattern),
    Address(IpAddr),
}

/// Why a URL gives no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a registry's URL that can't be read")]
    Unreadable,
    #[error("a registry's URL with a variable in it, whose value is the agent's own")]
    Variable,
    #[error("a registry that is not reached by http or https")]
    Scheme,
    #[error("a registry's host that is no name under `host`")]
    Name,
    #[error("a registry on this host or its links: loopback, link-local, multicast or no address at all")]
    Local,
}

/// Reads the URL of a registry. One that says no port has that of its scheme.
pub fn location(text: &str) -> Result<Location, Refused> {
    let text = text.trim();
    let text = text.strip_prefix("sparse+").unwrap_or(text);
    // Readers of URLs disagree about these: what one takes for a path is a host to another.
    let odd = |c: char| c == '\\' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > MAX_URL || text.chars().any(odd) {
        return Err(Refused::Unreadable);
    }
    if text.contains("${") || text.contains("$(") {
        return Err(Refused::Variable);
    }
    let url = Url::parse(text).map_err(|_| Refused::Unreadable)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refused::Scheme);
    }
    // `https:/x` and `https:x` are `https://x` to browsers only.
    let begins = url.scheme().len()..;
    if !text.get(begins).is_some_and(|rest| rest.starts_with("://") && !rest.starts_with(":///")) {
        return Err(Refused::Unreadable);
    }
    let host = match url.host().ok_or(Refused::Unreadable)? {
        Host::Domain(name) => Place::Name(name_of(name)?),
        Host::Ipv4(address) => Place::Address(of_the_network(address.into())?),
        Host::Ipv6(address) => Place::Address(of_the_network(IpAddr::from(address).to_canonical())?),
    };
    let port = url.port_or_known_default().filter(|&port| port != 0).ok_or(Refused::Unreadable)?;
    Ok(Location { host, port })
}

fn name_of(name: &str) -> Result<HostPattern, Refused> {
    // Under `host` it would be every name below.
    if name.contains('*') {
        return Err(Refused::Name);
    }
    let name = names::host(name).map_err(|_| Refused::Name)?;
    let shown = name.to_string();
    // The resolver gives no loopback address for a name, whatever grants it.
    if shown == "localhost" || shown.ends_with(".localhost") {
        return Err(Refused::Local);
    }
    Ok(name)
}

/// What listens on the host itself is not a registry that many use, but may be anything: that a person grants.
fn of_the_network(address: IpAddr) -> Result<IpAddr, Refused> {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        // fe80::/10
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    if local || address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Err(Refused::Local);
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, Refused> {
        location(text).map(|Location { host, port }| match host {
            Place::Name(name) => format!("{name} {port}"),
            Place::Address(address) => format!("{address} {port}"),
        })
    }

    #[test]
    fn a_url_is_its_host_and_port() {
        for (text, read) in [
            ("https://packages.example/", "packages.example 443"),
            ("http://packages.example/npm/", "packages.example 80"),
            ("HTTPS://Packages.Example:8443/a/b?c#d", "packages.example 8443"),
            ("sparse+https://index.example/", "index.example 443"),
            ("https://user:secret@packages.example/", "packages.example 443"),
            ("https://packages.example@mirror.example/", "mirror.example 443"),
            ("https://packages.example./", "packages.example 443"),
            ("https://bücher.example/", "xn--bcher-kva.example 443"),
            ("https://192.0.2.7:8081/", "192.0.2.7 8081"),
            ("https://0xc0000207/", "192.0.2.7 443"),
            ("https://[2001:db8::7]/", "2001:db8::7 443"),
            ("https://[::ffff:192.0.2.7]/", "192.0.2.7 443"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(read), "{text}");
        }
    }

    #[test]
    fn what_grants_nothing_says_why() {
        let long = format!("https://packages.example/{}", "a".repeat(MAX_URL));
        for (text, why) in [
            ("", Refused::Unreadable),
            ("packages.example", Refused::Unreadable),
            ("https://", Refused::Unreadable),
            ("https:packages.example", Refused::Unreadable),
            ("https:///packages.example", Refused::Unreadable),
            ("https://packages.example\\@mirror.example/", Refused::Unreadable),
            ("https://pack ages.example/", Refused::Unreadable),
            ("https://packages.example/\u{1b}[2J", Refused::Unreadable),
            ("https://packages.example:0/", Refused::Unreadable),
            ("https://packages.example:99999/", Refused::Unreadable),
            (&long, Refused::Unreadable),
            ("https://${MIRROR}/", Refused::Variable),
            ("ftp://packages.example/", Refused::Scheme),
            ("file:///srv/packages", Refused::Scheme),
            ("ssh://git@packages.example/index", Refused::Scheme),
            ("https://*.example/", Refused::Name),
            ("https://*/", Refused::Name),
            ("https://a..example/", Refused::Name),
            ("https://localhost:4873/", Refused::Local),
            ("https://npm.localhost/", Refused::Local),
            ("https://127.0.0.1/", Refused::Local),
            ("https://2130706433/", Refused::Local),
            ("https://0.0.0.0/", Refused::Local),
            ("https://169.254.169.254/", Refused::Local),
            ("https://224.0.0.1/", Refused::Local),
            ("https://[::1]/", Refused::Local),
            ("https://[::ffff:127.0.0.1]/", Refused::Local),
            ("https://[fe80::1]/", Refused::Local),
        ] {
            assert_eq!(shown(text), Err(why), "{text}");
        }
        assert!(!Refused::Unreadable.to_string().contains("secret"));
    }
}
