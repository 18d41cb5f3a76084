//! `piculet config`.

use super::node::parse_set;
use super::output::Show;
use super::{Failure, Output};
use crate::config::client::{ClientConfig, FILE_VARIABLE};
use crate::config::{self, NodeConfig};
use crate::settings::{SettingRow, Sources};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  piculet config show --config node.toml
  piculet config doc | less")]
pub(super) enum ConfigCommand {
    /// Print every setting, its value and where it came from.
    Show(ShowArgs),
    /// Print a description of every setting: docs/CONFIGURATION.md.
    #[command(after_help = "\
Examples:
  piculet config doc | less")]
    Doc,
}

/// Every setting.
#[derive(Serialize)]
struct Shown {
    settings: Vec<SettingRow>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Settings come from the file, the environment and --set, in rising priority. When something is
refused, the command says all of it and ends with code 2.

Examples:
  piculet config show --config node.toml         what a node would run with
  piculet config show --client                   what append, read, log and status would")]
pub(super) struct ShowArgs {
    /// The file; with --client, the one that PICULET_CLIENT_CONFIG names unless given.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show the settings of commands that talk to nodes, rather than a node's.
    #[arg(long)]
    client: bool,
    /// Override a setting; repeat for more.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
}

impl ShowArgs {
    /// What it shows.
    ///
    /// # Errors
    /// With everything that is refused.
    fn rows(self) -> Result<Vec<SettingRow>, Failure> {
        let mut sources = Sources::environment().with_set(&self.set);
        sources.file = self.config;
        if !self.client {
            let (_, settings) = NodeConfig::resolve(&sources)?;
            return Ok(settings.rows());
        }
        if sources.file.is_none() {
            sources.file = std::env::var_os(FILE_VARIABLE).map(PathBuf::from);
        }
        let config = ClientConfig::load(&sources)?;
        super::connect::warn(config.settings());
        Ok(config.settings().rows())
    }
}

pub(super) fn run(command: ConfigCommand, output: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show(args) => output.show(&Shown { settings: args.rows()? })?,
        ConfigCommand::Doc => io::stdout().write_all(config::document().as_bytes())?,
    }
    Ok(())
}

impl Show for Shown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(table(&self.settings).as_bytes())
    }
}

fn table(rows: &[SettingRow]) -> String {
    let shown = |row: &SettingRow| row.value.clone().unwrap_or_else(|| "-".to_owned());
    let width = |of: &dyn Fn(&SettingRow) -> usize| rows.iter().map(of).max().unwrap_or_default();
    let keys = width(&|row| row.key.len());
    let values = width(&|row| shown(row).chars().count());
    let line = |row: &SettingRow| format!("{:<keys$}  {:<values$}  {}\n", row.key, shown(row), row.source);
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let row = |key, value: Option<&str>, source: &str| SettingRow {
            key,
            value: value.map(str::to_owned),
            source: source.to_owned(),
        };
        let rows = [row("name", Some("ü"), "node.toml:1"), row("tls.ca", None, "default")];
        assert_eq!(table(&rows), "name    ü  node.toml:1\ntls.ca  -  default\n");
        assert_eq!(table(&[]), "");
    }
}
