//! The package managers that `hosts_from` knows: where each is installed, where it is configured, and which programs a
//! grant is for.
//!
//! No registry's name is here. A manager that no configuration tells of a registry has one of its own, which is written
//! in its own program: that is where it is looked for, by the words around it. What must stay true: every place is
//! absolute or in a home (`~/`), and none is in a workspace, which is the agent's to write.

use schemars::JsonSchema;
use serde::Deserialize;

use super::formats::{self, Named};

/// A package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// npm and what reads its configuration (pnpm, yarn 1): `npmrc`.
    Npm,
    /// pip: `pip.conf`.
    Pip,
    /// uv: `uv.toml`.
    Uv,
    /// cargo: `~/.cargo/config.toml`.
    Cargo,
    /// The go command: `GOPROXY` and `GOSUMDB`.
    Go,
    /// apt: `sources.list` and `sources.list.d`.
    Apt,
}

/// Files of one kind, and how they are read.
pub struct Configured {
    pub places: &'static [&'static str],
    pub read: fn(&str) -> Vec<Named>,
}

/// Where a manager's own registries are written in its program.
pub struct BuiltIn {
    pub places: &'static [&'static str],
    pub find: Find,
}

/// How they are found there.
pub enum Find {
    /// In a text.
    Text(fn(&str) -> Vec<String>),
    /// In a program: what stands around each of these bytes is shown to the function until it knows.
    Program { needle: &'static str, read: fn(&[u8], usize) -> Option<String> },
}

impl Manager {
    pub const ALL: [Self; 6] = [Self::Npm, Self::Pip, Self::Uv, Self::Cargo, Self::Go, Self::Apt];

    /// The word in profiles; also the name of its set under `programs`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pip => "pip",
            Self::Uv => "uv",
            Self::Cargo => "cargo",
            Self::Go => "go",
            Self::Apt => "apt",
        }
    }

    /// What shows that it is installed.
    #[must_use]
    pub const fn installed(self) -> &'static [&'static str] {
        match self {
            Self::Npm => &[
                "/usr/lib/node_modules/npm",
                "/usr/local/lib/node_modules/npm",
                "/usr/share/nodejs/npm",
                "/opt/node*/lib/node_modules/npm",
                "~/.nvm/versions/node/*/lib/node_modules/npm",
            ],
            Self::Pip => &[
                "/usr/lib/python3/dist-packages/pip",
                "/usr/lib/python3*/site-packages/pip",
                "/usr/local/lib/python3*/*-packages/pip",
                "~/.pyenv/versions/*/lib/python3*/site-packages/pip",
            ],
            Self::Uv => &["/usr/bin/uv", "/usr/local/bin/uv", "~/.local/bin/uv", "~/.cargo/bin/uv"],
            Self::Cargo => &["/usr/bin/cargo", "/usr/local/bin/cargo", "~/.rustup/toolchains/*/bin/cargo"],
            Self::Go => &["/usr/lib/go*/bin/go", "/usr/local/go/bin/go"],
            Self::Apt => &["/usr/bin/apt-get"],
        }
    }

    /// The programs that a grant is for where the profile has no set of the manager's name. A script is its interpreter,
    /// so pip is every script of Python.
    #[must_use]
    pub const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Npm => &["/usr/{,local/}bin/node", "~/.nvm/versions/node/*/bin/node"],
            Self::Pip => &["/usr/{,local/}bin/python3*", "~/.pyenv/versions/*/bin/python3*"],
            Self::Uv => &["/usr/{,local/}bin/uv", "~/.{local,cargo}/bin/uv"],
            Self::Cargo => &["/usr/{,local/}bin/cargo", "~/.rustup/toolchains/*/bin/cargo"],
            Self::Go => &["/usr/lib/go*/bin/go", "/usr/local/go/bin/go"],
            Self::Apt => &["/usr/lib/apt/methods/*"],
        }
    }

    /// Where it is configured.
    #[must_use]
    pub const fn configured(self) -> &'static [Configured] {
        match self {
            Self::Npm => &[Configured {
                places: &[
                    "/etc/npmrc",
                    "/usr/etc/npmrc",
                    "/usr/local/etc/npmrc",
                    "/usr/lib/node_modules/npm/npmrc",
                    "/usr/local/lib/node_modules/npm/npmrc",
                    "/usr/share/nodejs/npm/npmrc",
                    "~/.nvm/versions/node/*/etc/npmrc",
                    "~/.npmrc",
                ],
                read: formats::npmrc,
            }],
            Self::Pip => &[Configured {
                places: &[
                    "/etc/pip.conf",
                    "/etc/xdg/pip/pip.conf",
                    "~/.config/pip/pip.conf",
                    "~/.pip/pip.conf",
                ],
                read: formats::pip_conf,
            }],
            Self::Uv => &[Configured {
                places: &["/etc/uv/uv.toml", "/etc/xdg/uv/uv.toml", "~/.config/uv/uv.toml"],
                read: formats::uv_toml,
            }],
            Self::Cargo => &[Configured {
                places: &["~/.cargo/config.toml", "~/.cargo/config"],
                read: formats::cargo_toml,
            }],
            Self::Go => &[Configured {
                places: &["/usr/lib/go*/go.env", "/usr/local/go/go.env", "~/.config/go/env"],
                read: formats::go_env,
            }],
            Self::Apt => &[
                Configured {
                    places: &["/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list"],
                    read: formats::apt_list,
                },
                Configured { places: &["/etc/apt/sources.list.d/*.sources"], read: formats::apt_deb822 },
            ],
        }
    }

    /// What a variable of `/etc/environment` says to it.
    #[must_use]
    pub fn variable(self, name: &str, value: &str) -> Vec<Named> {
        match self {
            Self::Npm if name.eq_ignore_ascii_case("npm_config_registry") => vec![Named::instead(value)],
            Self::Pip if name == "PIP_INDEX_URL" => vec![Named::instead(value)],
            Self::Pip if name == "PIP_EXTRA_INDEX_URL" => Named::beside_each(value),
            Self::Uv if matches!(name, "UV_DEFAULT_INDEX" | "UV_INDEX_URL") => {
                vec![Named::instead(formats::without_name(value))]
            }
            Self::Uv if matches!(name, "UV_INDEX" | "UV_EXTRA_INDEX_URL") => Named::beside_each(value),
            Self::Cargo if name.starts_with("CARGO_REGISTRIES_") && name.ends_with("_INDEX") => {
                vec![Named::beside(value)]
            }
            Self::Go => formats::go_variable(name, value),
            _ => Vec::new(),
        }
    }

    /// Where its program says what it asks without being told. apt has nothing of the kind; uv's program holds several
    /// indexes and nothing that tells them apart.
    #[must_use]
    pub const fn built_in(self) -> &'static [BuiltIn] {
        match self {
            Self::Npm => &[BuiltIn {
                places: &[
                    "/usr/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js",
                    "/usr/local/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js",
                    "/opt/node*/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js",
                    "/usr/share/nodejs/@npmcli/config/lib/definitions/definitions.js",
                    "/usr/share/nodejs/npm/lib/utils/config/definitions.js",
                    "/usr/lib/node_modules/npm/lib/utils/config/definitions.js",
                    "~/.nvm/versions/node/*/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js",
                    "~/.nvm/versions/node/*/lib/node_modules/npm/lib/utils/config/definitions.js",
                ],
                find: Find::Text(formats::npm_definitions),
            }],
            Self::Pip => &[BuiltIn {
                places: &[
                    "/usr/lib/python3/dist-packages/pip/_internal/models/index.py",
                    "/usr/lib/python3*/site-packages/pip/_internal/models/index.py",
                    "/usr/local/lib/python3*/*-packages/pip/_internal/models/index.py",
                    "~/.pyenv/versions/*/lib/python3*/site-packages/pip/_internal/models/index.py",
                ],
                find: Find::Text(formats::pip_index),
            }],
            Self::Cargo => &[BuiltIn {
                places: &["/usr/bin/cargo", "/usr/local/bin/cargo", "~/.rustup/toolchains/*/bin/cargo"],
                find: Find::Program { needle: "sparse+https://", read: formats::cargo_program },
            }],
            Self::Go => &[BuiltIn {
                places: &["/usr/lib/go*/bin/go", "/usr/local/go/bin/go"],
                find: Find::Program { needle: ",direct", read: formats::go_program },
            }],
            Self::Uv | Self::Apt => &[],
        }
    }
}
