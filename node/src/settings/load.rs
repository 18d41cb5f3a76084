//! Which source wins, and what each of them may say.

use super::file::{self, Found};
use super::suggest::{is_near_miss, nearest};
use super::value::{Raw, masked};
use super::{Fallback, Kind, Refusal, Schema, Setting, SettingRow, SettingsError, Value};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The longest value that a message quotes, in characters.
const QUOTED_MAX: usize = 100;

/// Where settings come from. A flag overrides a variable, and a variable the file.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The process's environment; what is none of the settings' business is passed over.
    pub variables: Vec<(OsString, OsString)>,
    /// What the command line says.
    pub flags: Vec<Flag>,
}

/// A setting on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag: `--set`, or one that stands for a single setting.
    pub name: &'static str,
    /// The setting.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No source says anything.
    Default,
    /// The file.
    File {
        /// Its path.
        path: Arc<Path>,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value for every setting, each of the right kind and within its bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    schema: &'static Schema,
    /// One for each setting of the schema, in its order.
    values: Vec<(Option<Value>, Origin)>,
    warnings: Vec<String>,
}

impl Sources {
    /// The process's own environment, and nothing else.
    #[must_use]
    pub fn environment() -> Self {
        Self { variables: std::env::vars_os().collect(), ..Self::default() }
    }

    /// Adds a flag that stands for a single setting, if it was given.
    #[must_use]
    pub fn with_flag(mut self, name: &'static str, key: &str, value: Option<impl ToString>) -> Self {
        let flag = |value: &dyn ToString| Flag { name, key: key.to_owned(), value: value.to_string() };
        self.flags.extend(value.as_ref().map(|value| flag(value)));
        self
    }

    /// Adds what `--set` says: keys and their values.
    #[must_use]
    pub fn with_set(mut self, set: &[(String, String)]) -> Self {
        let flag =
            |(key, value): &(String, String)| Flag { name: "--set", key: key.clone(), value: value.clone() };
        self.flags.extend(set.iter().map(flag));
        self
    }
}

impl Settings {
    /// Reads all sources.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML; else with everything that is refused: unknown
    /// settings, bad values, and settings that are required and missing.
    pub fn load(schema: &'static Schema, sources: &Sources) -> Result<Self, SettingsError> {
        let mut loader = Loader {
            schema,
            values: vec![None; schema.settings.len()],
            refused: Vec::new(),
            broken: BTreeSet::new(),
            warnings: Vec::new(),
        };
        if let Some(path) = &sources.file {
            loader.file(path)?;
        }
        loader.variables(&sources.variables);
        loader.flags(&sources.flags);
        loader.finish()
    }

    /// What should be told to the user, though nothing is refused: variables whose names are
    /// almost those of a setting.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every setting, for `piculet config show`.
    #[must_use]
    pub fn rows(&self) -> Vec<SettingRow> {
        let row = |(setting, (value, origin)): (&Setting, &(Option<Value>, Origin))| SettingRow {
            key: setting.key,
            value: value.as_ref().map(ToString::to_string),
            source: origin.to_string(),
        };
        self.schema.settings.iter().zip(&self.values).map(row).collect()
    }

    fn entry(&self, key: &str) -> &(Option<Value>, Origin) {
        let at = self.schema.position(key);
        &self.values[at.unwrap_or_else(|| panic!("{key} is in the schema"))]
    }

    /// Where a value came from. Like all that follows, it takes keys of the schema only.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        &self.entry(key).1
    }

    /// Whether a setting has a value.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        self.entry(key).0.is_some()
    }

    /// The value of a text that is required or has a default.
    #[must_use]
    pub fn text(&self, key: &str) -> String {
        self.text_if_set(key).unwrap_or_else(|| panic!("{key} is always set"))
    }

    /// The value of a text that may be unset.
    #[must_use]
    pub fn text_if_set(&self, key: &str) -> Option<String> {
        match &self.entry(key).0 {
            None => None,
            Some(Value::Text(text)) => Some(text.clone()),
            Some(other) => panic!("{key} is a text, not {other:?}"),
        }
    }

    /// The value of a list; empty when it is unset.
    #[must_use]
    pub fn list(&self, key: &str) -> Vec<String> {
        match &self.entry(key).0 {
            None => Vec::new(),
            Some(Value::List(items)) => items.clone(),
            Some(other) => panic!("{key} is a list, not {other:?}"),
        }
    }

    /// The value of a path that is required or has a default.
    #[must_use]
    pub fn path(&self, key: &str) -> PathBuf {
        self.path_if_set(key).unwrap_or_else(|| panic!("{key} is always set"))
    }

    /// The value of a path that may be unset.
    #[must_use]
    pub fn path_if_set(&self, key: &str) -> Option<PathBuf> {
        match &self.entry(key).0 {
            None => None,
            Some(Value::Path(path)) => Some(path.clone()),
            Some(other) => panic!("{key} is a path, not {other:?}"),
        }
    }

    /// The value of a number of bytes.
    #[must_use]
    pub fn bytes(&self, key: &str) -> u64 {
        match &self.entry(key).0 {
            Some(Value::Bytes(bytes)) => *bytes,
            other => panic!("{key} is a number of bytes, not {other:?}"),
        }
    }

    /// The value of a number of bytes, as a length in memory.
    #[must_use]
    pub fn length(&self, key: &str) -> usize {
        usize::try_from(self.bytes(key)).unwrap_or(usize::MAX)
    }

    /// The value of a length of time.
    #[must_use]
    pub fn time(&self, key: &str) -> Duration {
        match &self.entry(key).0 {
            Some(Value::Time(time)) => *time,
            other => panic!("{key} is a length of time, not {other:?}"),
        }
    }

    /// The value of a switch.
    #[must_use]
    pub fn switch(&self, key: &str) -> bool {
        match &self.entry(key).0 {
            Some(Value::Switch(switch)) => *switch,
            other => panic!("{key} is a switch, not {other:?}"),
        }
    }

    /// Gives a setting another default, one that follows from other settings.
    pub fn adapt_default(&mut self, key: &str, value: Value) {
        if *self.origin(key) == Origin::Default {
            self.replace(key, value);
        }
    }

    /// Rewrites a value; it comes from where it came from.
    pub fn replace(&mut self, key: &str, value: Value) {
        let at = self.schema.position(key).unwrap_or_else(|| panic!("{key} is in the schema"));
        self.values[at].0 = Some(value);
    }

    /// A refusal of a value that does not go with others.
    #[must_use]
    pub fn refusal(&self, key: &str, expected: impl fmt::Display) -> Refusal {
        let (value, origin) = self.entry(key);
        let value = value.as_ref().map_or_else(|| "not set".to_owned(), |value| quoted(&value.to_string()));
        let problem = format!("is {value}, expected {expected}");
        Refusal { place: origin.to_string(), key: key.to_owned(), problem }
    }
}

struct Loader {
    schema: &'static Schema,
    values: Vec<Option<(Value, Origin)>>,
    refused: Vec<Refusal>,
    /// Keys of which some value was refused.
    broken: BTreeSet<&'static str>,
    warnings: Vec<String>,
}

impl Loader {
    fn file(&mut self, path: &Path) -> Result<(), SettingsError> {
        let text = file::read(path)?;
        let parsed = file::parse(&text, self.schema);
        let found = parsed.map_err(|source| SettingsError::Form { path: path.to_owned(), source })?;
        let absolute = std::path::absolute(path)
            .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        let dir = absolute.parent().unwrap_or(&absolute);
        let path: Arc<Path> = path.into();
        for Found { key, raw, shown, line } in found {
            let origin = Origin::File { path: Arc::clone(&path), line };
            self.take(&key, &raw, &shown, origin, Some(dir));
        }
        Ok(())
    }

    fn variables(&mut self, variables: &[(OsString, OsString)]) {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if !name.starts_with(self.schema.prefix) {
                continue;
            }
            let mut settings = self.schema.settings.iter();
            let Some(setting) = settings.find(|setting| setting.variable(self.schema.prefix) == name) else {
                self.unknown_variable(&name);
                continue;
            };
            // A value that is not UTF-8 is no value of any kind.
            let raw = value.to_str().map_or(Raw::Other, |text| Raw::Text(text.to_owned()));
            let shown = format!("{:?}", masked(&value.to_string_lossy()));
            self.take(setting.key, &raw, &shown, Origin::Variable(name.into_owned()), None);
        }
    }

    fn unknown_variable(&mut self, name: &str) {
        let prefix = self.schema.prefix;
        let all = || self.schema.settings.iter().map(|setting| setting.variable(prefix));
        if self.schema.owns_prefix {
            // Compared without the prefix, which all have in common.
            let short = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
            let meant = nearest(&short(name), all().map(|variable| short(&variable)));
            let meant = meant.map(|meant| format!("{prefix}{meant}"));
            self.unknown(name, meant, "the environment".to_owned(), None);
        } else if !self.schema.foreign.iter().any(|foreign| name.starts_with(foreign))
            && let Some(meant) = all().find(|variable| is_near_miss(name, variable))
        {
            self.warnings
                .push(format!("the environment variable {name} sets nothing; did you mean {meant}?"));
        }
    }

    fn flags(&mut self, flags: &[Flag]) {
        for (at, Flag { name, key, value }) in flags.iter().enumerate() {
            if let Some(before) = flags[..at].iter().find(|before| before.key == *key) {
                let problem = format!("is given twice, by {} and by {name}: expected it once", before.name);
                self.refused.push(Refusal { place: (*name).to_owned(), key: key.clone(), problem });
                continue;
            }
            let shown = format!("{:?}", masked(value));
            self.take(key, &Raw::Text(value.clone()), &shown, Origin::Flag(name), None);
        }
    }

    /// Takes over what one source says; `dir` is what relative paths in it are relative to.
    fn take(&mut self, key: &str, raw: &Raw, shown: &str, origin: Origin, dir: Option<&Path>) {
        let Some(at) = self.schema.position(key) else {
            if self.schema.is_table(key) {
                let keys: Vec<_> = self.schema.in_table(key).collect();
                let problem = format!("is {}, expected a table: {}", quoted(shown), keys.join(", "));
                self.refused.push(Refusal { place: origin.to_string(), key: key.to_owned(), problem });
                return;
            }
            let mut names: Vec<String> = Vec::new();
            for setting in self.schema.settings {
                let dots = setting.key.match_indices('.').map(|(at, _)| setting.key[..at].to_owned());
                names.extend(dots.chain([setting.key.to_owned()]));
            }
            let meant = nearest(key, names.into_iter());
            self.unknown(key, meant, origin.to_string(), Some(shown));
            return;
        };
        let setting = &self.schema.settings[at];
        match setting.kind.read(raw) {
            Some(Value::Path(path)) => {
                let path = dir.map_or_else(|| path.clone(), |dir| dir.join(&path));
                self.values[at] = Some((Value::Path(path), origin));
            }
            Some(value) => self.values[at] = Some((value, origin)),
            None => {
                let problem = format!("is {}, expected {}", quoted(shown), setting.kind.expected());
                self.broken.insert(setting.key);
                self.refused.push(Refusal { place: origin.to_string(), key: key.to_owned(), problem });
            }
        }
    }

    fn unknown(&mut self, name: &str, meant: Option<String>, place: String, shown: Option<&str>) {
        // What is no setting may be a secret all the same.
        let secret = ["pass", "secret", "token", "key"].iter().any(|word| name.to_lowercase().contains(word));
        let value = match shown.filter(|_| !secret) {
            Some(shown) => format!("(set to {}) ", quoted(shown)),
            None => String::new(),
        };
        let remedy = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => "`piculet config doc` lists all there are".to_owned(),
        };
        let problem = format!("{value}is no setting of a {}; {remedy}", self.schema.subject);
        self.refused.push(Refusal { place, key: quoted(name), problem });
    }

    fn finish(mut self) -> Result<Settings, SettingsError> {
        let mut values = Vec::with_capacity(self.values.len());
        for (setting, value) in self.schema.settings.iter().zip(self.values) {
            let Setting { key, kind, default, .. } = setting;
            values.push(match (value, default) {
                (Some((value, origin)), _) => (Some(value), origin),
                (None, Fallback::Required) => {
                    if !self.broken.contains(key) {
                        let variable = setting.variable(self.schema.prefix);
                        let expected = kind.expected();
                        let problem = format!(
                            "is not set, expected {expected}; set it in the file, with {variable} or with --set {key}=…"
                        );
                        let place = format!("settings of the {}", self.schema.subject);
                        self.refused.push(Refusal { place, key: (*key).to_owned(), problem });
                    }
                    (None, Origin::Default)
                }
                (None, default) => (default.value(kind), Origin::Default),
            });
        }
        if !self.refused.is_empty() {
            return Err(SettingsError::Refused(self.refused));
        }
        Ok(Settings { schema: self.schema, values, warnings: self.warnings })
    }
}

impl Fallback {
    /// The value, if it has one.
    #[must_use]
    pub fn value(&self, kind: &Kind) -> Option<Value> {
        match self {
            Self::Required | Self::Unset(_) => None,
            Self::Text(text) => {
                let value = kind.reads(text);
                Some(value.unwrap_or_else(|| panic!("the default {text:?} is of its kind")))
            }
            Self::Bytes(bytes) => Some(Value::Bytes(*bytes)),
            Self::Time(time) => Some(Value::Time(*time)),
            Self::Switch(switch) => Some(Value::Switch(*switch)),
        }
    }
}

/// A value on one line of a message, cut where it is too long.
fn quoted(shown: &str) -> String {
    let shown = masked(shown).replace(char::is_control, " ");
    match shown.char_indices().nth(QUOTED_MAX) {
        Some((at, _)) => format!("{}…", &shown[..at]),
        None => shown,
    }
}
