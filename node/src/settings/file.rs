//! The settings in a file, with their lines.

use super::value::Raw;
use super::{Schema, SettingsError};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Something that a file sets.
pub(super) struct Found {
    pub(super) key: String,
    pub(super) raw: Raw,
    /// The value as it stands there.
    pub(super) shown: String,
    pub(super) line: usize,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<String, SettingsError> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let read = file.map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(SettingsError::TooLong { path: path.to_owned(), limit: FILE_BYTES_MAX });
    }
    Ok(text)
}

/// Everything that a file sets, in its order. A table of which no setting is known is one unknown
/// setting.
pub(super) fn parse(text: &str, schema: &Schema) -> Result<Vec<Found>, Box<toml::de::Error>> {
    let table = DeTable::parse(text).map_err(Box::new)?;
    let mut found = Vec::new();
    collect(text, schema, "", table.get_ref(), &mut found);
    found.sort_by_key(|found| found.line);
    Ok(found)
}

/// Goes no deeper than the keys of the schema do.
fn collect(text: &str, schema: &Schema, above: &str, table: &DeTable<'_>, found: &mut Vec<Found>) {
    for (key, value) in table {
        let full = format!("{above}{}", shown_key(key.get_ref()));
        match value.get_ref() {
            DeValue::Table(inner) if schema.is_table(&full) => {
                collect(text, schema, &format!("{full}."), inner, found);
            }
            _ => found.push(Found {
                key: full,
                raw: raw(value.get_ref()),
                shown: text.get(value.span()).unwrap_or_default().to_owned(),
                line: line_of(text, key),
            }),
        }
    }
}

/// A key as it must be written: one with a dot in it is not the path that it looks like.
fn shown_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

fn line_of<T>(text: &str, at: &Spanned<T>) -> usize {
    let before = text.get(..at.span().start).unwrap_or(text);
    before.matches('\n').count() + 1
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.clone().into_owned()),
        DeValue::Integer(number) => {
            u64::from_str_radix(number.as_str(), number.radix()).map_or(Raw::Other, Raw::Integer)
        }
        DeValue::Boolean(switch) => Raw::Switch(*switch),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map_or(Raw::Other, Raw::List)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Raw::Other,
    }
}
