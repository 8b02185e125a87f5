//! What the original's operators type, turned into what our command line takes.

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory as _;

use crate::cli::Cli;

/// The original's options with one dash and several letters, which become two-dash options.
const SHORT_WORDS: [&str; 13] = [
    "-lh", "-lp", "-slh", "-slp", "-wp", "-mdns", "-pos", "-sf", "-wh", "-ml", "-msec", "-ks",
    "-ksp",
];

/// The process's arguments, with two additions: called by a service's name (a link `leshan-server-kafka` to this
/// program), that service runs; and the original's one-dash words are understood.
pub(crate) fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.map(two_dashes).collect();
    let called = arguments
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .unwrap_or_default()
        .to_owned();
    if called != "zeelos" && Cli::command().find_subcommand(&called).is_some() {
        arguments.insert(1, OsString::from(called));
    }
    arguments
}

fn two_dashes(argument: OsString) -> OsString {
    match argument.to_str() {
        Some(text) if SHORT_WORDS.contains(&text) => OsString::from(format!("-{text}")),
        _ => argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(given: &[&str]) -> Vec<String> {
        arguments(given.iter().map(OsString::from))
            .into_iter()
            .map(|argument| argument.into_string().expect("ASCII"))
            .collect()
    }

    #[test]
    fn a_link_with_a_services_name_runs_that_service() {
        assert_eq!(
            seen(&["/usr/bin/client-demo", "-u", "gateway"]),
            ["/usr/bin/client-demo", "client-demo", "-u", "gateway"]
        );
        assert_eq!(seen(&["./zeelos", "up"]), ["./zeelos", "up"]);
        assert_eq!(seen(&["/tmp/renamed", "up"]), ["/tmp/renamed", "up"]);
    }

    #[test]
    fn the_originals_one_dash_words_are_understood() {
        assert_eq!(
            seen(&["zeelos", "x", "-lp", "5683"]),
            ["zeelos", "x", "--lp", "5683"]
        );
        assert_eq!(
            seen(&["zeelos", "x", "-n", "e"]),
            ["zeelos", "x", "-n", "e"]
        );
    }
}
