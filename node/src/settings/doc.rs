//! docs/CONFIGURATION.md, which is written from the schemas.

use super::{Fallback, Kind, Schema, Setting};
use std::fmt::Write;

/// A section: a heading, what comes before the table, and the table itself.
#[must_use]
pub fn section(heading: &str, text: &str, schema: &Schema) -> String {
    let mut doc =
        format!("## {heading}\n{text}\n\n| setting | values | default | what it is |\n|---|---|---|---|\n");
    for setting in schema.settings {
        let Setting { key, kind, about, .. } = setting;
        let values = values(kind).replace('|', "\\|");
        let default = default(setting);
        // Writing to a string does not fail.
        let _ = writeln!(doc, "| `{key}` | {values} | {default} | {about} |");
    }
    doc
}

fn values(kind: &Kind) -> String {
    match kind {
        Kind::Bytes { .. } | Kind::Time { .. } => {
            let expected = kind.expected();
            let bounds = expected.split(": ").next().unwrap_or_default();
            let unit = if matches!(kind, Kind::Bytes { .. }) { "size" } else { "time" };
            format!("{unit}, {bounds}")
        }
        Kind::List(form) => format!("list of: {}", form.expected),
        Kind::Text(_) | Kind::Path | Kind::Switch => kind.expected(),
    }
}

fn default(setting: &Setting) -> String {
    match (&setting.default, setting.default.value(&setting.kind)) {
        (Fallback::Required, _) => "**required**".to_owned(),
        (Fallback::Unset(meaning), _) => (*meaning).to_owned(),
        (_, Some(value)) => format!("`{value}`"),
        (_, None) => unreachable!("every other default has a value"),
    }
}
