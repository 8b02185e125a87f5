//! Flag > file > default. The environment and `*_FILE` are tried on the program itself (`tests/e2e`), since setting a
//! variable of a running process is not safe.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::ffi::OsString;
use std::fs;

use clap::{Parser, Subcommand};
use service::{CommonArgs, Secret, config};

#[derive(Parser, Debug)]
struct Program {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Sink {
        #[arg(long, env = "TEST_SINK_URL")]
        url: String,
        #[arg(
            long,
            env = "TEST_SINK_PASSWORD",
            hide_env_values = true,
            default_value = "none"
        )]
        password: Secret,
        #[arg(long, default_value_t = 1)]
        tasks: u32,
        #[arg(long)]
        topics: Vec<String>,
        #[arg(long)]
        verbose: bool,
    },
}

fn parse(arguments: &[&str]) -> Result<Program, clap::Error> {
    let all = std::iter::once("program").chain(arguments.iter().copied());
    config::parse_from(all.map(OsString::from).collect())
}

fn sink(arguments: &[&str]) -> (String, String, u32, Vec<String>, bool) {
    let Command::Sink {
        url,
        password,
        tasks,
        topics,
        verbose,
    } = parse(arguments).unwrap().command;
    (url, password.expose().to_owned(), tasks, topics, verbose)
}

#[test]
fn every_layer_gives_way_to_the_one_above() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zeelos.toml");
    fs::write(
        &file,
        "log = 'debug'\ntasks = 3\n[sink]\nurl = 'http://file'\ntopics = ['a', 'b']\nverbose = true\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();

    // The file stands above the defaults, and answers for required options.
    let (url, password, tasks, topics, verbose) = sink(&["--config", file, "sink"]);
    assert_eq!(
        (url.as_str(), password.as_str(), tasks),
        ("http://file", "none", 3)
    );
    assert_eq!(
        (topics, verbose),
        (vec!["a".to_owned(), "b".to_owned()], true)
    );
    let program = parse(&["--config", file, "sink"]).unwrap();
    assert_eq!(program.common.log, "debug");

    // The flag stands above the file.
    assert_eq!(
        sink(&["--config", file, "sink", "--url", "http://flag"]).0,
        "http://flag"
    );
    assert_eq!(
        sink(&["sink", "--tasks", "2", "--url", "x", "--config", file]).2,
        2
    );

    // A key that is no option is an error that names it.
    let bad = folder.path().join("bad.toml");
    fs::write(&bad, "[sink]\nurk = 1\n").unwrap();
    let error = parse(&["--config", bad.to_str().unwrap(), "sink"]).unwrap_err();
    assert!(error.to_string().contains("'urk'"), "{error}");
    fs::write(&bad, "[sink]\nurl = { a = 1 }\n").unwrap();
    assert!(parse(&["--config", bad.to_str().unwrap(), "sink"]).is_err());
    let missing = parse(&["--config", "/nowhere.toml", "sink"]).unwrap_err();
    assert!(missing.to_string().contains("/nowhere.toml"), "{missing}");
}

#[test]
fn a_secret_does_not_show() {
    let secret = Secret::new("hunter2");
    assert_eq!(format!("{secret:?} {secret}"), "*** ***");
}

#[test]
fn a_secret_of_the_file_does_not_show_in_the_help() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zeelos.toml");
    fs::write(&file, "[sink]\npassword = 'hunter2'\ntasks = 77\n").unwrap();
    let help = parse(&["--config", file.to_str().unwrap(), "sink", "--help"])
        .unwrap_err()
        .to_string();
    assert!(help.contains("[default: 77]"), "{help}");
    assert!(!help.contains("hunter2"), "{help}");
}
