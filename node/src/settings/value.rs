//! What a setting can be set to, and how that is written.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

const BYTE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// What values a setting has.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text of a certain form.
    Text(Form),
    /// Several such texts: a list in the file, separated by commas elsewhere.
    List(Form),
    /// A path; a relative one in the file is relative to the file.
    Path,
    /// A number of bytes, both bounds included.
    Bytes {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A length of time in whole milliseconds, both bounds included.
    Time {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// True or false.
    Switch,
}

/// The form of a text.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// What is expected, for whoever wrote something else.
    pub expected: &'static str,
    /// Whether a text has the form.
    pub fits: fn(&str) -> bool,
}

/// A value of the right kind and within its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// See [`Kind::Text`].
    Text(String),
    /// See [`Kind::List`]; never empty.
    List(Vec<String>),
    /// See [`Kind::Path`].
    Path(PathBuf),
    /// See [`Kind::Bytes`].
    Bytes(u64),
    /// See [`Kind::Time`].
    Time(Duration),
    /// See [`Kind::Switch`].
    Switch(bool),
}

/// What a source says, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    Integer(u64),
    Switch(bool),
    List(Vec<String>),
    /// No setting is written so.
    Other,
}

impl Kind {
    /// Reads what a source says; nothing when the kind has no such value.
    pub(super) fn read(&self, raw: &Raw) -> Option<Value> {
        match (self, raw) {
            (Self::Text(form), Raw::Text(text)) => (form.fits)(text).then(|| Value::Text(text.clone())),
            (Self::List(form), Raw::Text(text)) => {
                let items = text.split(',').map(|item| item.trim().to_owned());
                list(form, items.collect())
            }
            (Self::List(form), Raw::List(items)) => list(form, items.clone()),
            (Self::Path, Raw::Text(text)) => (!text.is_empty()).then(|| Value::Path(text.into())),
            (Self::Bytes { min, max }, raw) => {
                let bytes = amount(raw, &BYTE_UNITS, "B")?;
                (*min..=*max).contains(&bytes).then_some(Value::Bytes(bytes))
            }
            (Self::Time { min, max }, raw) => {
                let time = Duration::from_millis(amount(raw, &TIME_UNITS, "ms")?);
                (*min..=*max).contains(&time).then_some(Value::Time(time))
            }
            (Self::Switch, Raw::Switch(switch)) => Some(Value::Switch(*switch)),
            (Self::Switch, Raw::Text(text)) => text.parse().ok().map(Value::Switch),
            _ => None,
        }
    }

    /// Reads a text that a variable or flag may hold.
    #[must_use]
    pub fn reads(&self, text: &str) -> Option<Value> {
        self.read(&Raw::Text(text.to_owned()))
    }

    /// What is expected, for whoever wrote something else.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Text(form) => form.expected.to_owned(),
            Self::List(form) => format!("one or more of: {}", form.expected),
            Self::Path => "a path".to_owned(),
            Self::Bytes { min, max } => format!(
                "{} to {}: an integer of bytes, or one with B, KiB, MiB, GiB or TiB",
                show_bytes(*min),
                show_bytes(*max)
            ),
            Self::Time { min, max } => format!(
                "{} to {}: an integer of milliseconds, or one with ms, s, min or h",
                show_time(*min),
                show_time(*max)
            ),
            Self::Switch => "true or false".to_owned(),
        }
    }
}

fn list(form: &Form, items: Vec<String>) -> Option<Value> {
    let fine = !items.is_empty() && items.iter().all(|item| (form.fits)(item));
    fine.then_some(Value::List(items))
}

/// A number with or without a unit; `plain` is the unit of one without.
fn amount(raw: &Raw, units: &[(&str, u64)], plain: &str) -> Option<u64> {
    let text = match raw {
        Raw::Integer(number) => return Some(*number),
        Raw::Text(text) => text.trim(),
        Raw::Switch(_) | Raw::List(_) | Raw::Other => return None,
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = if unit.is_empty() { plain } else { unit.trim_start() };
    let (_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a number with the largest unit that leaves it whole.
fn show_amount(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| number > 0 && number.is_multiple_of(*factor);
    let (unit, factor) = units.iter().find(fits).unwrap_or(&units[units.len() - 1]);
    format!("{}{unit}", number / factor)
}

/// A number of bytes as it may be written: `256KiB`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    show_amount(bytes, &BYTE_UNITS)
}

/// A length of time as it may be written: `500ms`. Less than a millisecond is left away.
#[must_use]
pub fn show_time(time: Duration) -> String {
    show_amount(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS)
}

/// A text without what stands before the `@` of a URL: a password has no place in a message.
pub(super) fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => text.to_owned(),
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&masked(text)),
            Self::List(items) => f.write_str(&masked(&items.join(","))),
            Self::Path(path) => path.display().fmt(f),
            Self::Bytes(bytes) => f.write_str(&show_bytes(*bytes)),
            Self::Time(time) => f.write_str(&show_time(*time)),
            Self::Switch(switch) => switch.fmt(f),
        }
    }
}
