//! Single values, and what holds them: a value with its place, a list that may be one item.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use crate::policy::globs;
use crate::policy::lease::{self, Lease};
use crate::policy::names::{self, HostPattern};
use crate::policy::pins;
use crate::policy::programs::ProgramRef;
use crate::policy::reader::SPANNED;
use crate::policy::source::Span;
use crate::policy::words::{self, Problem, Word};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Parts<T> {
            type Value = Spanned<T>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a value with its place")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
                let missing = || serde::de::Error::custom("only a profile tree knows places");
                let start = parts.next_element()?.ok_or_else(missing)?;
                let end = parts.next_element()?.ok_or_else(missing)?;
                let value = parts.next_element()?.ok_or_else(missing)?;
                Ok(Spanned { value, span: Span { start, end } })
            }
        }

        deserializer.deserialize_newtype_struct(SPANNED, Parts(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A list that may be written without brackets if it has one item. The reader
/// hands a single value over as a list of one.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [item, { "type": "array", "items": item, "minItems": 1 }] })
    }
}

/// Values of [`super::words`]: read by its functions; in the schema, what an
/// editor can check by itself plus the `format` that has our own check do the
/// rest.
macro_rules! word_types {
    ($($(#[$doc:meta])* $name:ident($value:ty) = $word:expr, $read:expr => $schema:tt)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug)]
            pub struct $name(pub $value);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    deserializer.deserialize_any(WordVisitor($read)).map($name)
                }
            }

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn inline_schema() -> bool {
                    true
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    let mut schema = json_schema!($schema);
                    schema.insert("format".to_owned(), $word.format().into());
                    schema
                }
            }
        )+
    };
}

/// Reads a word from text; a number is read as if it had been text.
struct WordVisitor<T>(fn(&str) -> Result<T, Problem>);

impl<T> Visitor<'_> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("text or a number")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(|problem| E::custom(problem.message))
    }
}

word_types! {
    Version(()) = Word::Version, words::version_text => { "type": "integer", "const": words::VERSION as i64 }
    Name(String) = Word::ProfileName, words::profile_name => {
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9._-]*$",
        "maxLength": words::MAX_NAME_CHARS,
    }
    BaseName(String) = Word::BaseName, words::base_name => {
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9._-]*$",
        "maxLength": words::MAX_NAME_CHARS,
    }
    Cidr(IpNet) = Word::Cidr, words::cidr => {
        "type": "string",
        "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$",
        "examples": ["10.0.0.0/8", "2001:db8::/32"],
    }
    Address(IpAddr) = Word::Address, words::address => {
        "type": "string",
        "pattern": "^[0-9a-fA-F:.]+$",
        "examples": ["10.1.2.3", "2001:db8::1"],
    }
    Host(HostPattern) = Word::Host, names::host => {
        "type": "string",
        "maxLength": 255,
        "examples": ["api.example.com", "*.example.com"],
    }
    Ports(RangeInclusive<u16>) = Word::Ports, words::port_range => {
        "type": ["integer", "string"],
        "minimum": 1,
        "maximum": 65535,
        "pattern": "^[1-9][0-9]{0,4}( *- *[1-9][0-9]{0,4})?$",
        "examples": [443, "8000-8100"],
    }
    ExeGlob(String) = Word::ExeGlob, globs::exe_glob => {
        "type": "string",
        "pattern": "^(~?/|\\*\\*/)",
        "examples": ["/usr/bin/codex", "~/.local/share/claude/versions/*"],
    }
    WorkspaceGlob(String) = Word::ExeGlob, globs::exe_glob => {
        "type": "string",
        "pattern": "^(~?/|\\*\\*/|\\{)",
        "examples": ["~/src/*"],
    }
    PathGlob(String) = Word::PathGlob, globs::path_glob => {
        "type": "string",
        "pattern": "^(~?/|\\*\\*/|\\{|\\$\\{)",
        "examples": ["/usr/**", "~/.ssh/**"],
    }
    CgroupGlob(String) = Word::CgroupGlob, globs::cgroup_glob => {
        "type": "string",
        "pattern": "^/",
        "examples": ["/system.slice/agent-*.service"],
    }
    UnixGlob(String) = Word::UnixGlob, globs::unix_glob => {
        "type": "string",
        "pattern": "^(@|~?/|\\*\\*/|\\{|\\$\\{)",
        "examples": ["/run/systemd/journal/*", "@/tmp/.X11-unix/*"],
    }
    /// The mask of what it grants.
    Capability(u64) = Word::Capability, words::capability => {
        "type": "string",
        "pattern": "^[a-z_]+$",
        "examples": ["net_bind_service", "any"],
    }
    Program(ProgramRef) = Word::Program, words::program => {
        "type": "string",
        "pattern": "^(~?/|\\*\\*/|\\{|\\$\\{|[a-z0-9][a-z0-9._-]*$)",
        "examples": ["git", "/usr/bin/git"],
    }
    LiteralPath(String) = Word::LiteralPath, pins::literal_path => {
        "type": "string",
        "pattern": "^/",
        "examples": ["/usr/bin/git"],
    }
    Sha256([u8; 32]) = Word::Sha256, pins::sha256 => {
        "type": "string",
        "pattern": "^[0-9a-fA-F]{64}$",
        "examples": ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    }
    LeaseWord(Lease) = Word::Lease, lease::lease => {
        "type": "string",
        "examples": ["2h", "2030-01-31T18:00:00Z"],
    }
    /// The call's number.
    Syscall(u32) = Word::Syscall, words::syscall => {
        "type": "string",
        "pattern": "^[a-z0-9_]+$",
        "examples": ["ptrace", "kexec_load"],
    }
}
