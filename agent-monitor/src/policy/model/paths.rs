//! The sections about paths: `files`, `exec`, `unix`.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess, Visitor};

use super::{LeaseWord, LiteralPath, OneOrMany, PathGlob, Program, Sha256, Spanned, UnixGlob};

/// The files of an agent, by the path that the kernel resolves: links and other
/// mounts of an object lead to the same verdict. A directory may be listed where
/// its own path or something in it (`/usr/**`) may be read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesSection {
    /// Files that may be opened for reading.
    #[serde(default)]
    #[schemars(extend("examples" = [["/usr/**", "/etc/ssl/**"], [{"path": "~/.npmrc", "exe": "npm"}]]))]
    pub read: Vec<Spanned<PathItem<GrantedPath>>>,
    /// Files that may be opened for writing, created, removed, renamed, linked,
    /// truncated or given another mode or owner. It does not include reading.
    #[serde(default)]
    #[schemars(extend("examples" = [["~/src/**", "/tmp/**"]]))]
    pub write: Vec<Spanned<PathItem<GrantedPath>>>,
    /// Files that never exist for the agent, whatever is granted: not read, not
    /// written, not executed; and no directory above them is moved.
    #[serde(default)]
    #[schemars(extend("examples" = [["~/.ssh/**", "**/.env*"], [{"path": "~/.npmrc", "except": "npm"}]]))]
    pub deny: Vec<Spanned<PathItem<DeniedFile>>>,
}

/// The programs of an agent: executables, their interpreters, and every file
/// that is mapped as code (shared libraries).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecSection {
    /// What may be executed.
    #[serde(default)]
    #[schemars(extend("examples" = [["/usr/**", "~/src/**"]]))]
    pub allow: Vec<Spanned<PathItem<GrantedPath>>>,
    /// What is never executed, whatever is allowed.
    #[serde(default)]
    #[schemars(extend("examples" = [["/usr/bin/nc*"]]))]
    pub deny: Vec<Spanned<PathItem<DeniedProgram>>>,
    /// Programs that may be executed with one content only, whatever is
    /// allowed; nor may the agent change them. The kernel hashes the file that
    /// is about to run where its IMA does so with SHA-256; else the daemon does
    /// whenever the file changes.
    #[serde(default)]
    #[schemars(extend("examples" = [[{"path": "/usr/bin/git", "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]]))]
    pub pinned: Vec<Spanned<PinnedProgram>>,
}

/// A rule about paths that grants.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantedPath {
    /// The paths that the rule is about, as a glob.
    #[schemars(required, extend("examples" = ["~/.npmrc"]))]
    pub path: Option<Spanned<PathGlob>>,
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

/// A rule about files that denies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeniedFile {
    /// The paths that the rule is about, as a glob.
    #[schemars(required, extend("examples" = ["~/.npmrc"]))]
    pub path: Option<Spanned<PathGlob>>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// Programs for which the rule does not hold, by names of `programs` or by globs.
    #[serde(default)]
    #[schemars(extend("examples" = ["npm"]))]
    pub except: OneOrMany<Spanned<Program>>,
    /// What is denied; reading, writing and executing if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["write", ["write", "execute"]]))]
    pub access: OneOrMany<AccessWord>,
    /// `true`: tries the denial out. What it matches goes on where it is granted, and is told as what would be
    /// denied (`would-deny`).
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub audit: bool,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// A rule about programs that denies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeniedProgram {
    /// The paths that the rule is about, as a glob.
    #[schemars(required, extend("examples" = ["/usr/bin/nc*"]))]
    pub path: Option<Spanned<PathGlob>>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// Programs for which the rule does not hold, by names of `programs` or by globs.
    #[serde(default)]
    #[schemars(extend("examples" = ["npm"]))]
    pub except: OneOrMany<Spanned<Program>>,
    /// `true`: tries the denial out. What it matches goes on where it is granted, and is told as what would be
    /// denied (`would-deny`).
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub audit: bool,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["our model proxy"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// A rule about Unix sockets that grants.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantedSocket {
    /// The sockets that the rule is about, as a glob: paths, or abstract names behind
    /// an `@`.
    #[schemars(required, extend("examples" = ["/run/systemd/journal/*", "@/tmp/.X11-unix/*"]))]
    pub path: Option<Spanned<UnixGlob>>,
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
    #[schemars(extend("examples" = ["git asks the key agent"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// A rule about Unix sockets that denies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeniedSocket {
    /// The sockets that the rule is about, as a glob: paths, or abstract names behind
    /// an `@`.
    #[schemars(required, extend("examples" = ["**/docker.sock", "@**"]))]
    pub path: Option<Spanned<UnixGlob>>,
    /// The programs that the rule is about, by names of `programs` or by globs; every
    /// program if left out.
    #[serde(default)]
    #[schemars(extend("examples" = ["git", ["npm", "/usr/bin/node"]]))]
    pub exe: OneOrMany<Spanned<Program>>,
    /// Programs for which the rule does not hold, by names of `programs` or by globs.
    #[serde(default)]
    #[schemars(extend("examples" = ["docker"]))]
    pub except: OneOrMany<Spanned<Program>>,
    /// `true`: tries the denial out. What it matches goes on where it is granted, and is told as what would be
    /// denied (`would-deny`).
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub audit: bool,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["who talks to the engine is root"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}

/// What can be done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessWord {
    /// Opened for reading, or listed.
    Read,
    /// Opened for writing, created, removed, renamed, linked, truncated or given another mode or owner.
    Write,
    /// Run, or mapped as code.
    Execute,
}

/// A glob, or a rule that says more about it.
#[derive(Debug)]
pub enum PathItem<M, G = PathGlob> {
    Glob(G),
    Rule(M),
}

impl<'de, M: Deserialize<'de>, G: Deserialize<'de>> Deserialize<'de> for PathItem<M, G> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<M, G>(PhantomData<(M, G)>);

        impl<'de, M: Deserialize<'de>, G: Deserialize<'de>> Visitor<'de> for Either<M, G> {
            type Value = PathItem<M, G>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a glob or a rule")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                G::deserialize(text.into_deserializer()).map(PathItem::Glob)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                M::deserialize(MapAccessDeserializer::new(map)).map(PathItem::Rule)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<M: JsonSchema, G: JsonSchema> JsonSchema for PathItem<M, G> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("PathItem_{}", M::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (glob, rule) = (generator.subschema_for::<G>(), generator.subschema_for::<M>());
        json_schema!({ "anyOf": [glob, rule] })
    }
}

/// The Unix sockets of an agent, by the path at which a socket is bound, wherever
/// the agent looks it up, or by its abstract name. Sockets that the agent's own
/// processes made, and pairs of sockets without a name, need no grant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnixSection {
    /// Sockets that may be connected or sent to: paths, and abstract names behind
    /// an `@`.
    #[serde(default)]
    #[schemars(extend("examples" = [["/run/systemd/journal/*", "@/tmp/.X11-unix/*"], [{"path": "${tmp}/ssh-*/agent.*", "exe": "git"}]]))]
    pub allow: Vec<Spanned<PathItem<GrantedSocket, UnixGlob>>>,
    /// Sockets that never exist for the agent, whatever is allowed. What
    /// `files.deny` denies is denied here too.
    #[serde(default)]
    #[schemars(extend("examples" = [["**/docker.sock", "/run/dbus/**"], [{"path": "**/docker.sock", "except": "docker"}]]))]
    pub deny: Vec<Spanned<PathItem<DeniedSocket, UnixGlob>>>,
}

/// A program and the content that it must have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PinnedProgram {
    /// The program's whole path, as the kernel resolves it.
    #[schemars(required, extend("examples" = ["/usr/bin/git"]))]
    pub path: Option<Spanned<LiteralPath>>,
    /// The SHA-256 of its content, as `sha256sum` prints it.
    #[schemars(required, extend("examples" = ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]))]
    pub sha256: Option<Spanned<Sha256>>,
    /// Why the rule is there; shown where the rule is named.
    #[schemars(extend("examples" = ["git 2.39.5 of Debian 12"]))]
    #[expect(dead_code, reason = "part of the language, for people who read the file")]
    pub comment: Option<String>,
}
