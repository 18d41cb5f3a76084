//! What holds for every command.

use super::failure::{EXITS, FAILED};
use super::{Cli, asks_for_json};
use clap::error::ErrorKind;
use clap::{Command, CommandFactory, Parser};
use std::ffi::OsString;

/// The names of every command, each behind those that it belongs to.
fn every_command() -> Vec<Vec<String>> {
    fn collect(command: &Command, path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            collect(below, &[path, &[below.get_name().to_owned()]].concat(), all);
        }
    }
    let mut all = Vec::new();
    collect(&Cli::command(), &["piculet".to_owned()], &mut all);
    all
}

fn help(path: &[String]) -> String {
    let args = path.iter().map(String::as_str).chain(["--help"]);
    let shown = Cli::try_parse_from(args).expect_err("help ends the parsing");
    assert_eq!(shown.kind(), ErrorKind::DisplayHelp, "{path:?}: {shown}");
    shown.render().to_string()
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_an_example_of_itself() {
    let all = every_command();
    assert!(all.len() > 15, "{all:?}");
    for path in &all {
        let (help, name) = (help(path), path.join(" "));
        let examples = help.split_once("Examples:").unwrap_or_else(|| panic!("{name} has none: {help}")).1;
        assert!(examples.contains(&name), "{name} does not show how it is called: {help}");
    }
}

#[test]
fn examples_can_be_parsed() {
    for path in every_command() {
        let help = help(&path);
        let examples = help.split_once("Examples:").expect("there are some").1;
        for line in examples.lines().filter(|line| line.contains("piculet ")) {
            for call in line.split('|').filter_map(|part| part.split_once("piculet ")) {
                // Up to what explains it, or what a shell would make of the rest.
                let call = call.1.split("  ").next().unwrap_or_default();
                let call = call.split(['<', '>', ')']).next().unwrap_or_default();
                let args = call.split_whitespace().map(|arg| arg.trim_matches('\''));
                let parsed = Cli::try_parse_from(["piculet"].into_iter().chain(args));
                assert!(parsed.is_ok(), "{call}: {}", parsed.expect_err("it is wrong"));
            }
        }
    }
}

#[test]
fn exit_codes_are_documented() {
    let document = include_str!("../../../docs/CLI.md");
    let help = Cli::command().render_long_help().to_string();
    for (exit, meaning, codes) in EXITS {
        assert!(help.contains(&format!("{exit:>4}  {meaning}")), "the help lacks {exit}: {help}");
        let codes: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        let row = format!("| {exit} | {meaning} | {} |", codes.join(", "));
        assert!(document.contains(&row), "docs/CLI.md lacks: {row}");
    }
    assert!(document.contains(&format!("| {FAILED} | ")));
}

#[test]
fn exit_codes_are_of_errors_that_there_are() {
    let library = include_str!("../../../docs/CLIENT.md");
    let codes = EXITS.iter().flat_map(|(_, _, codes)| codes.iter());
    for code in codes.filter(|code| !["usage", "settings", "buffer-failed"].contains(code)) {
        assert!(library.contains(&format!("| `{code}` |")), "docs/CLIENT.md lacks {code}");
    }
}

#[test]
fn every_command_is_documented() {
    let document = include_str!("../../../docs/CLI.md");
    for path in every_command() {
        let command = Cli::command();
        let mut found = &command;
        for name in &path[1..] {
            found = found.find_subcommand(name).expect("it is there");
        }
        if !found.has_subcommands() {
            let name = format!("`{}`", path.join(" "));
            assert!(document.contains(&name), "docs/CLI.md lacks {name}");
        }
    }
}

#[test]
fn wrong_use_is_told_in_the_form_that_was_asked_for() {
    let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    assert!(asks_for_json(&args("piculet read --output json --from x")));
    assert!(asks_for_json(&args("piculet --output=json nothing")));
    assert!(!asks_for_json(&args("piculet read json --output text")));
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    for (line, part) in [
        ("append a --headers --record-bytes 5", "cannot be used with"),
        ("append a --header novalue", "NAME=VALUE"),
        ("log truncate a", "--before"),
        ("read a --limit 0", "--limit"),
        ("read a --from -10parsecs", "earliest, latest"),
        ("read a --output xml", "text, json"),
        ("read a//b", "log name"),
    ] {
        let error = Cli::try_parse_from(["piculet"].into_iter().chain(line.split(' ')));
        let error = error.expect_err(line).to_string();
        assert!(error.contains(part), "{line}: {error}");
    }
}
