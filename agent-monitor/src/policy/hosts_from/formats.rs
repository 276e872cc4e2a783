//! What package managers' own files say about registries, and nothing else of them.
//!
//! Pure: text in, URLs out, as they are written. What must stay true: any text ends in at most [`MAX_NAMED`] URLs; a
//! line that can't be read names nothing.

use std::sync::LazyLock;

use regex_automata::meta::Regex;
use toml::Table;

/// Most registries that one file may name; behind it the file is not read.
pub const MAX_NAMED: usize = 64;

/// A registry that a file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// As it is written; may hold a password.
    pub url: String,
    /// The manager then does not ask what it would ask without being told.
    pub instead: bool,
}

impl Named {
    pub fn instead(url: &str) -> Self {
        Self { url: url.trim().to_owned(), instead: true }
    }

    pub fn beside(url: &str) -> Self {
        Self { url: url.trim().to_owned(), instead: false }
    }

    /// Several with white space between them.
    pub fn beside_each(urls: &str) -> Vec<Self> {
        urls.split_whitespace().map(|url| Self::beside(without_name(url))).take(MAX_NAMED).collect()
    }
}

/// uv takes `name=url` as well.
pub fn without_name(index: &str) -> &str {
    match index.split_once('=') {
        Some((name, url)) if !name.contains([':', '/']) => url,
        _ => index,
    }
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inside = |quote| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

/// `registry=…` and `@scope:registry=…`. Sections are not npm's; what stands in one is not read.
pub fn npmrc(text: &str) -> Vec<Named> {
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    let settings = lines.filter(|line| !line.starts_with(['#', ';'])).filter_map(|line| line.split_once('='));
    let mut own = None;
    let mut named: Vec<Named> = Vec::new();
    for (key, value) in settings {
        let (key, value) = (unquoted(key), unquoted(value));
        if key == "registry" {
            // The last one counts.
            own = Some(Named::instead(value));
        } else if key.starts_with('@') && key.ends_with(":registry") && named.len() < MAX_NAMED {
            named.push(Named::beside(value));
        }
    }
    named.extend(own);
    named
}

/// `index-url` and `extra-index-url` of any section: which one counts depends on the command.
pub fn pip_conf(text: &str) -> Vec<Named> {
    let mut named = Vec::new();
    let mut key = String::new();
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';', '[']) {
            if bare.starts_with('[') {
                key.clear();
            }
            continue;
        }
        let goes_on = line.starts_with([' ', '\t']) && !key.is_empty();
        let value = if goes_on {
            bare
        } else {
            let Some(at) = bare.find(['=', ':']) else { continue };
            key = bare[..at].trim().to_ascii_lowercase().replace('_', "-");
            bare[at + 1..].trim()
        };
        let urls = value.split_whitespace();
        match key.as_str() {
            "index-url" => named.extend(urls.map(Named::instead)),
            "extra-index-url" => named.extend(urls.map(Named::beside)),
            _ => {}
        }
        if named.len() >= MAX_NAMED {
            break;
        }
    }
    named.truncate(MAX_NAMED);
    named
}

/// Every text of an array, or the one that stands alone.
fn texts(value: Option<&toml::Value>) -> impl Iterator<Item = &str> {
    let (alone, list) = match value {
        Some(toml::Value::Array(list)) => (None, list.as_slice()),
        other => (other, &[][..]),
    };
    alone.into_iter().chain(list).filter_map(toml::Value::as_str)
}

/// `index-url`, `extra-index-url` and `[[index]]`, also below `[pip]`.
pub fn uv_toml(text: &str) -> Vec<Named> {
    let Ok(all) = text.parse::<Table>() else { return Vec::new() };
    let mut named = Vec::new();
    for table in std::iter::once(&all).chain(all.get("pip").and_then(toml::Value::as_table)) {
        named.extend(texts(table.get("index-url")).map(Named::instead));
        named.extend(texts(table.get("extra-index-url")).map(Named::beside));
        for index in table.get("index").and_then(toml::Value::as_array).into_iter().flatten() {
            let instead = index.get("default").and_then(toml::Value::as_bool) == Some(true);
            let url = index.get("url").and_then(toml::Value::as_str);
            named.extend(url.map(|url| Named { instead, ..Named::beside(url) }));
        }
    }
    named.truncate(MAX_NAMED);
    named
}

/// The source that cargo asks for what names no other.
const CARGO_OWN: &str = "crates-io";

/// `registries.*.index`, and what takes the place of the source that cargo has of itself.
pub fn cargo_toml(text: &str) -> Vec<Named> {
    let Ok(all) = text.parse::<Table>() else { return Vec::new() };
    let table = |key: &str| all.get(key).and_then(toml::Value::as_table);
    let text = |of: &toml::Value, key: &str| of.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let mut named: Vec<Named> = table("registries")
        .into_iter()
        .flatten()
        .filter_map(|(_, registry)| Some(Named::beside(&text(registry, "index")?)))
        .take(MAX_NAMED)
        .collect();
    let sources = table("source");
    let mut source = CARGO_OWN.to_owned();
    // A replacement may be replaced; a circle ends at the bound.
    for _ in 0..8 {
        let found = sources.and_then(|sources| sources.get(&source));
        if let Some(next) = found.and_then(|found| text(found, "replace-with")) {
            source = next;
            continue;
        }
        let registry = found.and_then(|found| text(found, "registry"));
        let elsewhere = table("registries").and_then(|all| text(all.get(&source)?, "index"));
        match registry.or(elsewhere) {
            Some(url) => named.push(Named::instead(&url)),
            // A directory, or a source that is not described: nothing is asked.
            None if source != CARGO_OWN => named.push(Named::instead("")),
            None => {}
        }
        break;
    }
    named
}

/// `NAME=value` lines, as `go env -w` writes them.
pub fn go_env(text: &str) -> Vec<Named> {
    variables(text).flat_map(|(name, value)| go_variable(name, value)).take(MAX_NAMED).collect()
}

/// `GOPROXY` is a list with `direct` and `off` in it; `GOSUMDB` a name with or without its key, and perhaps a URL.
pub fn go_variable(name: &str, value: &str) -> Vec<Named> {
    match name {
        "GOPROXY" => {
            let listed = value.split([',', '|']).map(str::trim).filter(|word| !word.is_empty());
            // `direct` asks where the source is, which is no registry; but the list takes the default's place.
            let proxies = listed.map(|word| Named::instead(if word.contains("://") { word } else { "" }));
            proxies.take(MAX_NAMED).collect()
        }
        "GOSUMDB" => {
            let mut words = value.split_whitespace();
            let (Some(name), url) = (words.next(), words.next()) else { return Vec::new() };
            let name = name.split('+').next().unwrap_or_default();
            match url {
                Some(url) => vec![Named::beside(url)],
                None if name == "off" || name.is_empty() => Vec::new(),
                None => vec![Named::beside(&format!("https://{name}/"))],
            }
        }
        _ => Vec::new(),
    }
}

/// The variables of a file such as `/etc/environment`.
pub fn variables(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| line.strip_prefix("export ").unwrap_or(line));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim(), unquoted(value)))
}

/// One line for each archive: `deb [options] URL suite …`.
pub fn apt_list(text: &str) -> Vec<Named> {
    let archive = |line: &str| {
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix("-src").unwrap_or(rest);
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1.trim_start(),
            None => rest,
        };
        rest.split_whitespace().next().and_then(of_the_network).map(Named::instead)
    };
    text.lines().filter_map(archive).take(MAX_NAMED).collect()
}

/// Paragraphs of fields; `URIs` may go on in the lines behind.
pub fn apt_deb822(text: &str) -> Vec<Named> {
    let mut named: Vec<Named> = Vec::new();
    for paragraph in text.split("\n\n") {
        let mut field = "";
        let mut found = Vec::new();
        let mut enabled = true;
        for line in paragraph.lines().filter(|line| !line.starts_with('#')) {
            let value = if line.starts_with([' ', '\t']) {
                line
            } else {
                let Some((name, value)) = line.split_once(':') else { continue };
                field = name.trim();
                value
            };
            if field.eq_ignore_ascii_case("URIs") {
                found.extend(value.split_whitespace().filter_map(of_the_network).map(Named::instead));
            } else if field.eq_ignore_ascii_case("Enabled") {
                enabled = !value.trim().eq_ignore_ascii_case("no");
            }
        }
        if enabled {
            named.extend(found);
        }
    }
    named.truncate(MAX_NAMED);
    named
}

/// Discs and directories are no registries of a network, and nothing to warn of.
fn of_the_network(url: &str) -> Option<&str> {
    (!["cdrom:", "file:", "copy:"].iter().any(|local| url.starts_with(local))).then_some(url)
}

/// What one group of an expression matches.
fn captured(expression: &Regex, text: &str, groups: &[usize]) -> Vec<String> {
    let mut found = expression.create_captures();
    expression.captures(text, &mut found);
    let spans = groups.iter().filter_map(|&group| found.get_group(group));
    spans.map(|span| text[span].to_owned()).collect()
}

fn expression(text: &str) -> Regex {
    Regex::new(text).expect("an expression of this file")
}

/// npm's own table of settings.
pub fn npm_definitions(text: &str) -> Vec<String> {
    static DEFAULT: LazyLock<Regex> = LazyLock::new(|| {
        expression(r#"(?:define|Definition)\('registry', \{\s*default: ['"`]([^'"`\s]+)['"`]"#)
    });
    captured(&DEFAULT, text, &[1])
}

/// pip's own table of indexes, with the host of the files that an index lists.
pub fn pip_index(text: &str) -> Vec<String> {
    static INDEX: LazyLock<Regex> = LazyLock::new(|| {
        expression(
            r#"(?m)^PyPI = PackageIndex\(\s*['"]([^'"\s]+)['"],\s*file_storage_domain=['"]([^'"\s]+)['"]"#,
        )
    });
    match captured(&INDEX, text, &[1, 2]).as_slice() {
        [index, files] => vec![index.clone(), format!("https://{files}/")],
        _ => Vec::new(),
    }
}

/// `sparse+https://HOST/` in cargo's program. Texts lie there one behind the other: only the slash ends the host.
pub fn cargo_program(around: &[u8], at: usize) -> Option<String> {
    let host = &around[at + "sparse+https://".len()..];
    let end = host.iter().position(|&byte| !is_host_byte(byte))?;
    (end > 0 && host[end] == b'/').then(|| format!("https://{}/", String::from_utf8_lossy(&host[..end])))
}

/// `https://HOST,direct` in the go command.
pub fn go_program(around: &[u8], at: usize) -> Option<String> {
    let begin = around[..at].iter().rposition(|&byte| !is_host_byte(byte))? + 1;
    (begin < at && around[..begin].ends_with(b"https://"))
        .then(|| format!("https://{}/", String::from_utf8_lossy(&around[begin..at])))
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-')
}

/// Where an index of cargo says that crates are downloaded from.
pub fn cargo_downloads(text: &str) -> Option<String> {
    let all: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(all.get("dl")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(named: Vec<Named>) -> Vec<String> {
        named
            .into_iter()
            .map(|Named { url, instead }| format!("{}{url}", if instead { "=" } else { "+" }))
            .collect()
    }

    #[test]
    fn npm_counts_its_last_registry_and_those_of_scopes() {
        let text = "; registry=https://no.example/\nregistry = \"https://one.example/\"\nregistry=https://two.example/\n\
                    @team:registry=https://team.example/\n//two.example/:_authToken=secret\n[x]\nregistry=https://no.example/\n";
        assert_eq!(shown(npmrc(text)), ["+https://team.example/", "=https://two.example/"]);
    }

    #[test]
    fn pip_has_lists_over_several_lines() {
        let text = "[global]\ntimeout = 60\nindex_url: https://one.example/simple\n# no\n[install]\nextra-index-url =\n    https://two.example/\n    https://three.example/\ntrusted-host = four.example\n";
        let read = ["=https://one.example/simple", "+https://two.example/", "+https://three.example/"];
        assert_eq!(shown(pip_conf(text)), read);
        assert_eq!(shown(pip_conf("  https://one.example/\nindex-url")), Vec::<String>::new());
    }

    #[test]
    fn uv_tells_its_default_from_others() {
        let text = "index-url = \"https://one.example/\"\n[[index]]\nurl = \"https://two.example/\"\n[[index]]\nname = \"x\"\nurl = \"https://three.example/\"\ndefault = true\n[pip]\nextra-index-url = [\"https://four.example/\"]\n";
        let read = [
            "=https://one.example/",
            "+https://two.example/",
            "=https://three.example/",
            "+https://four.example/",
        ];
        assert_eq!(shown(uv_toml(text)), read);
        assert_eq!(without_name("x=https://a.example/?b=c"), "https://a.example/?b=c");
        assert_eq!(without_name("https://a.example/?b=c"), "https://a.example/?b=c");
    }

    #[test]
    fn cargo_follows_replacements_to_their_end() {
        let text = "[registries.team]\nindex = \"sparse+https://team.example/\"\n[source.crates-io]\nreplace-with = \"a\"\n[source.a]\nreplace-with = \"b\"\n[source.b]\nregistry = \"sparse+https://mirror.example/\"\n";
        assert_eq!(
            shown(cargo_toml(text)),
            ["+sparse+https://team.example/", "=sparse+https://mirror.example/"]
        );
        let vendored = "[source.crates-io]\nreplace-with = \"v\"\n[source.v]\ndirectory = \"vendor\"\n";
        assert_eq!(shown(cargo_toml(vendored)), ["="]);
        let circle = "[source.crates-io]\nreplace-with = \"a\"\n[source.a]\nreplace-with = \"crates-io\"\n";
        assert_eq!(shown(cargo_toml(circle)), Vec::<String>::new());
        assert_eq!(shown(cargo_toml("[build]\njobs = 2\n")), Vec::<String>::new());
    }

    #[test]
    fn go_has_words_beside_urls() {
        let text =
            "GOPROXY=https://one.example|https://two.example,direct\nGOSUMDB=sums.example+0a1b2c3d+key\n";
        let read = ["=https://one.example", "=https://two.example", "=", "+https://sums.example/"];
        assert_eq!(shown(go_env(text)), read);
        assert_eq!(shown(go_env("GOPROXY=off\nGOSUMDB=off\n")), ["="]);
        assert_eq!(
            shown(go_env("GOSUMDB=sums.example https://mirror.example/sums\n")),
            ["+https://mirror.example/sums"]
        );
    }

    #[test]
    fn apt_has_two_formats() {
        let list = "# deb http://no.example/ x\ndeb [signed-by=/a arch=amd64] https://one.example/debian stable main\ndeb-src http://two.example/ x\ndeb cdrom:[Debian]/ x\ndebris http://no.example/\n";
        assert_eq!(shown(apt_list(list)), ["=https://one.example/debian", "=http://two.example/"]);
        let sources = "Types: deb\n# URIs: http://no.example/\nURIs: http://one.example/debian\n http://two.example/debian\nSuites: x\n\nTypes: deb\nURIs: http://no.example/\nEnabled: no\n";
        assert_eq!(shown(apt_deb822(sources)), ["=http://one.example/debian", "=http://two.example/debian"]);
    }

    #[test]
    fn a_managers_own_registry_is_told_by_the_words_around_it() {
        let npm = "  registry: new Definition('registry', {\n    default: 'https://own.example/',\n    type: url,\n";
        assert_eq!(npm_definitions(npm), ["https://own.example/"]);
        assert_eq!(
            npm_definitions("define('registry', {\n  default: 'https://own.example/',"),
            ["https://own.example/"]
        );
        assert_eq!(
            npm_definitions("'omit-registry': { default: 'https://no.example/' }"),
            Vec::<String>::new()
        );
        let pip = "TestPyPI = PackageIndex(\n    'https://no.example/', file_storage_domain='no.example'\n)\nPyPI = PackageIndex(\"https://own.example/\", file_storage_domain=\"files.example\")\n";
        assert_eq!(pip_index(pip), ["https://own.example/", "https://files.example/"]);
        let cargo = b"registrysparse+https://index.example/crates";
        assert_eq!(cargo_program(cargo, 8).as_deref(), Some("https://index.example/"));
        assert_eq!(cargo_program(b"sparse+https://index.examplehttps://", 0), None);
        assert_eq!(cargo_program(b"sparse+https://", 0), None);
        let go = b"xhttps://proxy.example,direct";
        assert_eq!(go_program(go, 22).as_deref(), Some("https://proxy.example/"));
        assert_eq!(go_program(b"off,direct", 3), None);
    }

    #[test]
    fn no_text_names_more_than_the_bound() {
        let many = |line: &str| line.repeat(MAX_NAMED * 3);
        assert_eq!(npmrc(&many("@a:registry=https://a.example/\n")).len(), MAX_NAMED);
        assert_eq!(
            pip_conf(&("[global]\nextra-index-url = ".to_owned() + &many("https://a.example/ "))).len(),
            MAX_NAMED
        );
        assert_eq!(apt_list(&many("deb https://a.example/ x\n")).len(), MAX_NAMED);
        assert_eq!(apt_deb822(&("URIs:".to_owned() + &many(" https://a.example/"))).len(), MAX_NAMED);
        assert_eq!(go_env(&("GOPROXY=".to_owned() + &many("https://a.example/,"))).len(), MAX_NAMED);
    }
}
