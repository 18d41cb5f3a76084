//! The house as docs/ARCHITECTURE.md draws it. Every rule is a function over a tree of files, tried
//! here on small trees that break it and then on the workspace itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Who may depend on whom in the workspace, development dependencies included.
const ARROWS: [(&str, &[&str]); 7] = [
    ("quorum", &[]),
    ("storage", &["quorum"]),
    ("meta", &["quorum"]),
    ("client", &["quorum", "storage"]),
    ("node", &["quorum", "storage", "meta", "client"]),
    ("tests", &["quorum", "storage", "meta", "client", "node", "chaos"]),
    ("chaos", &["quorum", "storage", "meta", "client", "node", "tests"]),
];

/// Arrows that only a feature may bring: whoever does without it is free of what lies behind.
const OPTIONAL: [(&str, &str); 1] = [("client", "storage")];

/// External crates that only some of ours may depend on.
const KNOWN_TO: [(&str, &[&str]); 5] = [
    ("etcd-client", &["meta"]),
    ("rusqlite", &["meta"]),
    ("object_store", &["storage"]),
    ("quinn", &["client", "node"]),
    ("bincode", &["quorum"]),
];

/// The protocol has no socket, clock or random source.
const NOT_IN_QUORUM: [&str; 4] = ["tokio", "rand", "getrandom", "quinn-proto"];

/// Where in the sources a crate may be named: files whose path begins so.
const NAMED_IN: [(&str, &[&str]); 2] = [
    ("quinn", &["client/src/transport/", "node/src/server/", "node/src/bench"]),
    ("bincode", &["quorum/src/wire/codec.rs"]),
];

/// Crates that this product is built on: each is declared somewhere and used where it is declared.
const PILLARS: [&str; 11] = [
    "tokio",
    "quinn",
    "rustls",
    "bincode",
    "serde",
    "object_store",
    "etcd-client",
    "dashmap",
    "parking_lot",
    "metrics",
    "metrics-exporter-prometheus",
];

/// All that may lie at the top, besides what git ignores.
const TOP: [&str; 19] = [
    ".ci",
    ".git",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "chaos",
    "client",
    "clippy.toml",
    "deploy",
    "docs",
    "meta",
    "node",
    "quorum",
    "rustfmt.toml",
    "storage",
    "tests",
];

const LINES_MAX: usize = 800;

/// Written in two halves, for this file is looked at too.
const LEFTOVERS: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("db", "g!("),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
];

/// Rust sources and manifests by their path from the top, and the names at the top.
#[derive(Default)]
struct Tree {
    files: BTreeMap<String, String>,
    top: BTreeSet<String>,
}

impl Tree {
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self { files, top: BTreeSet::new() }
    }

    /// The workspace that this test belongs to.
    fn workspace() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a workspace");
        let ignored = fs::read_to_string(root.join(".gitignore")).expect("there is a .gitignore");
        let ignored: BTreeSet<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
        let mut tree = Self::default();
        for name in names(root) {
            if !ignored.contains(name.as_str()) {
                tree.read(root, &name);
                tree.top.insert(name);
            }
        }
        assert!(tree.files.len() > ARROWS.len(), "the workspace has been found");
        tree
    }

    fn read(&mut self, root: &Path, path: &str) {
        let full = root.join(path);
        if full.is_dir() {
            for name in names(&full) {
                self.read(root, &format!("{path}/{name}"));
            }
        } else if path.ends_with(".rs") || path.ends_with("Cargo.toml") {
            let text = fs::read_to_string(&full).unwrap_or_else(|error| panic!("{path}: {error}"));
            self.files.insert(path.to_owned(), text);
        }
    }

    fn rust(&self) -> impl Iterator<Item = (&String, &String)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// What the crate in the folder `name` depends on, in whatever way, by the name of the package.
    fn dependencies(&self, name: &str) -> BTreeSet<String> {
        let Some(manifest) = self.files.get(&format!("{name}/Cargo.toml")) else { return BTreeSet::new() };
        let manifest: toml::Table = manifest.parse().unwrap_or_else(|e| panic!("{name}/Cargo.toml: {e}"));
        let platforms = manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten();
        let tables = platforms.filter_map(|(_, platform)| platform.as_table()).chain([&manifest]);
        let mut found = BTreeSet::new();
        for table in tables {
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                for (key, value) in table.get(kind).and_then(toml::Value::as_table).into_iter().flatten() {
                    let renamed = value.get("package").and_then(toml::Value::as_str);
                    found.insert(renamed.unwrap_or(key).to_owned());
                }
            }
        }
        found
    }

    /// Whether the crate in the folder `name` depends on `package` only where a feature wants it.
    fn is_optional(&self, name: &str, package: &str) -> bool {
        let manifest: toml::Table = self.files[&format!("{name}/Cargo.toml")].parse().unwrap_or_default();
        let dependency = manifest.get("dependencies").and_then(|table| table.get(package));
        dependency.and_then(|found| found.get("optional")).and_then(toml::Value::as_bool) == Some(true)
    }

    /// Whether some source of the crate in the folder `name` names the external crate `external`.
    fn uses(&self, name: &str, external: &str) -> bool {
        let folder = format!("{name}/");
        self.rust().any(|(path, text)| path.starts_with(&folder) && names_crate(text, external))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("it can be listed").file_name();
    entries.map(|entry| name(entry).into_string().expect("names are UTF-8")).collect()
}

/// Whether the code names the crate: at the start of a path, or imported as a whole.
fn names_crate(text: &str, external: &str) -> bool {
    let ident = external.replace('-', "_");
    text.lines().map(code).any(|line| {
        line.match_indices(&ident).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + ident.len()..]);
            // `::quinn::x` begins a path, `crate::quinn::x` does not.
            let start = before.strip_suffix("::").unwrap_or(before);
            let part_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '>';
            let starts = !start.ends_with(part_of_word);
            let imported = before.trim_end().ends_with("use") || before.trim_end().ends_with("crate");
            starts && (after.starts_with("::") || (imported && after.starts_with([';', ' '])))
        })
    })
}

/// A line without its comment and the contents of its strings; good enough for what is looked for.
fn code(line: &str) -> String {
    let unescaped = line.replace("\\\"", "");
    let outside: String = unescaped.split('"').step_by(2).collect();
    outside.split("//").next().unwrap_or_default().to_owned()
}

fn arrows(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in tree.files.keys().filter(|path| path.ends_with("/Cargo.toml")) {
        let name = path.trim_end_matches("/Cargo.toml");
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            wrong.push(format!("{name} is no crate of this workspace"));
            continue;
        };
        for dependency in tree.dependencies(name) {
            // A crate may depend on itself, to test with a feature of its own.
            if let Some(to) = dependency.strip_prefix("piculet-")
                && to != name
                && !allowed.contains(&to)
            {
                wrong.push(format!("{name} must not depend on {to}"));
            } else if let Some(to) = dependency.strip_prefix("piculet-")
                && OPTIONAL.contains(&(name, to))
                && !tree.is_optional(name, &dependency)
            {
                wrong.push(format!("{name} must not depend on {to} without a feature"));
            }
        }
    }
    wrong
}

fn external_crates(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, _) in ARROWS {
        for dependency in tree.dependencies(name) {
            let owners = KNOWN_TO.iter().find(|(external, _)| *external == dependency);
            let banned = name == "quorum" && NOT_IN_QUORUM.contains(&dependency.as_str());
            if banned || owners.is_some_and(|(_, owners)| !owners.contains(&name)) {
                wrong.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    for (external, places) in NAMED_IN {
        for (path, text) in tree.rust() {
            if names_crate(text, external) && !places.iter().any(|place| path.starts_with(place)) {
                wrong.push(format!("{path} must not name {external}; only {places:?} may"));
            }
        }
    }
    wrong
}

fn top_level(tree: &Tree) -> Vec<String> {
    let strange = tree.top.iter().filter(|name| !TOP.contains(&name.as_str()));
    strange.map(|name| format!("{name} does not belong at the top")).collect()
}

fn sources(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in tree.rust() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{path} has {lines} lines, more than {LINES_MAX}: split it"));
        }
        for (at, line) in text.lines().enumerate() {
            for leftover in LEFTOVERS.iter().filter(|leftover| line.contains(*leftover)) {
                wrong.push(format!("{path}:{} has a leftover {leftover}", at + 1));
            }
        }
    }
    wrong
}

fn pillars(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for external in PILLARS {
        let declares = |name: &&str| tree.dependencies(name).contains(external);
        let owners: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).filter(declares).collect();
        if owners.is_empty() {
            wrong.push(format!("no crate depends on {external}"));
        }
        for name in owners.iter().filter(|name| !tree.uses(name, external)) {
            wrong.push(format!("{name} depends on {external} and does not use it"));
        }
    }
    wrong
}

/// Tests that the tables of docs/TESTING.md name, `path::test` or `::test` for another of the same
/// file, and that are not there.
fn missing_tests(tree: &Tree, tables: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in tables.lines().filter(|line| line.starts_with('|')) {
        let mut file = "";
        for quoted in line.split('`').skip(1).step_by(2) {
            let Some((path, test)) = quoted.split_once("::") else { continue };
            if !path.is_empty() {
                file = path;
            }
            let there = tree.files.get(file).is_some_and(|text| text.contains(&format!("fn {test}(")));
            if !there {
                wrong.push(format!("docs/TESTING.md names {file}::{test}, which is not there"));
            }
        }
    }
    wrong
}

fn assert_tidy(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn crates_depend_as_drawn() {
    for (bad, expected) in [
        (("meta/Cargo.toml", "[dependencies]\npiculet-storage.workspace = true"), "meta must not"),
        (
            ("quorum/Cargo.toml", "[dev-dependencies]\npiculet-meta = { path = \"../meta\" }"),
            "quorum must not",
        ),
        (("client/Cargo.toml", "[dependencies]\npiculet-storage.workspace = true"), "client must not"),
        (("client/Cargo.toml", "[dependencies]\nx = { package = \"piculet-node\" }"), "client must not"),
        (("node/Cargo.toml", "[target.'cfg(unix)'.dependencies]\npiculet-chaos = \"1\""), "node must not"),
        (("helper/Cargo.toml", ""), "helper is no crate"),
    ] {
        let wrong = arrows(&Tree::of(&[bad]));
        assert!(wrong.len() == 1 && wrong[0].starts_with(expected), "{bad:?}: {wrong:?}");
    }
    let fine = ("node/Cargo.toml", "[dependencies]\npiculet-quorum.workspace = true\npiculet-meta = \"1\"");
    assert_tidy(&arrows(&Tree::of(&[fine])));
    let fine =
        ("client/Cargo.toml", "[dependencies]\npiculet-storage = { workspace = true, optional = true }");
    assert_tidy(&arrows(&Tree::of(&[fine])));
    assert_tidy(&arrows(&Tree::workspace()));
}

#[test]
fn external_crates_stay_where_they_belong() {
    for bad in [
        ("quorum/Cargo.toml", "[dependencies]\ntokio.workspace = true"),
        ("quorum/Cargo.toml", "[dev-dependencies]\ngetrandom = \"0.3\""),
        ("quorum/Cargo.toml", "[dependencies]\nquinn = \"0.11\""),
        ("node/Cargo.toml", "[dependencies]\netcd-client.workspace = true"),
        ("tests/Cargo.toml", "[dev-dependencies]\nobject_store.workspace = true"),
        ("meta/Cargo.toml", "[dependencies]\nbincode.workspace = true"),
        ("client/src/writer.rs", "fn f(c: &quinn::Connection) {}"),
        ("client/src/lib.rs", "use ::quinn::Connection;"),
        ("node/src/admin/mod.rs", "use quinn;"),
        ("quorum/src/wire/frame.rs", "let x = bincode::serde::encode(y);"),
    ] {
        assert_eq!(external_crates(&Tree::of(&[bad])).len(), 1, "{bad:?}");
    }
    assert_tidy(&external_crates(&Tree::of(&[
        ("meta/Cargo.toml", "[dependencies]\netcd-client.workspace = true"),
        ("client/src/transport/mod.rs", "use quinn::Connection;"),
        ("node/src/server/mod.rs", "use quinn::Connection;"),
        ("node/src/bench/append.rs", "use quinn::Connection;"),
        ("node/src/main.rs", "// quinn::Connection\nuse crate::quinn::x;\nlet filter = \"quinn=warn\";"),
        ("quorum/src/wire/codec.rs", "use bincode::config;"),
    ])));
    assert_tidy(&external_crates(&Tree::workspace()));
}

#[test]
fn the_top_holds_what_is_drawn() {
    let top = ["quorum", "scripts", "notes.md"].map(str::to_owned).into();
    assert_eq!(top_level(&Tree { top, ..Tree::default() }).len(), 2);
    assert_tidy(&top_level(&Tree::workspace()));
}

#[test]
fn sources_are_short_and_finished() {
    let long = "//\n".repeat(LINES_MAX + 1);
    assert_eq!(sources(&Tree::of(&[("node/src/lib.rs", &long)])).len(), 1);
    assert_tidy(&sources(&Tree::of(&[("node/src/lib.rs", &long[3..])])));
    for leftover in LEFTOVERS {
        let text = format!("fn f() {{\n    // {leftover} later\n}}");
        let wrong = sources(&Tree::of(&[("node/src/lib.rs", &text)]));
        assert!(wrong.iter().any(|wrong| wrong.starts_with("node/src/lib.rs:2 ")), "{leftover}: {wrong:?}");
    }
    assert_tidy(&sources(&Tree::workspace()));
}

#[test]
fn tests_that_are_named_exist() {
    let tree = Tree::of(&[("quorum/src/a.rs", "fn one() {}\nfn two() {}")]);
    let wrong = |tables: &str| missing_tests(&tree, tables);
    assert_tidy(&wrong(
        "| 1 | bug | `quorum/src/a.rs` | `quorum/src/a.rs::one`, `::two` |\nnot `of::tables`",
    ));
    assert_eq!(wrong("| `quorum/src/a.rs::one`, `::on` | `quorum/src/b.rs::one` |").len(), 2);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/TESTING.md");
    let tables = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(tables.lines().filter(|line| line.contains("::")).count() > 60, "the tables have been found");
    assert_tidy(&missing_tests(&Tree::workspace(), &tables));
}

#[test]
fn every_pillar_carries_something() {
    let manifest = "[dependencies]\nmetrics-exporter-prometheus.workspace = true\nmetrics.workspace = true";
    let tree = |source| Tree::of(&[("node/Cargo.toml", manifest), ("node/src/lib.rs", source)]);
    let mentions = |source| {
        let wrong = pillars(&tree(source));
        wrong.into_iter().filter(|wrong| wrong.starts_with("node ")).collect::<Vec<_>>()
    };
    let unused = mentions("use crate::metrics::names;\nuse metrics_exporter_prometheus::PrometheusBuilder;");
    assert_eq!(unused, ["node depends on metrics and does not use it"]);
    assert!(mentions("metrics::counter!(\"x\");\nuse metrics_exporter_prometheus as p;").is_empty());
    assert!(pillars(&tree("")).contains(&"no crate depends on quinn".to_owned()));
    assert_tidy(&pillars(&Tree::workspace()));
}
