//! One way to configure: flag > environment > file > default.
//!
//! - The file is TOML, named by `--config` or `ZEELOS_CONFIG`. Its keys are the options' long names;
//!   at the top they count for every command that has them, under `[command]` for that command only.
//! - Every option that can be set by the environment variable `NAME` can also be set by `NAME_FILE`,
//!   whose value is the path of a file with the value: that is how secrets come in. `NAME` wins.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Command, FromArgMatches};
use toml::{Table, Value};

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is not readable.
    #[error("can't read {path}, named by {named_by}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The option or variable that names it.
        named_by: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {source}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key names no option.
    #[error("{path}: '{key}' is not an option of {command}; see --help for the names")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as written.
        key: String,
        /// Where it was looked for.
        command: String,
    },
    /// A value is not a string, number, boolean or a list of these.
    #[error("{path}: '{key}' has to be a string, a number, a boolean or a list of these")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The key as written.
        key: String,
    },
}

/// Parses arguments (the first is the program's name), environment and file as `P`, with its usual command line.
///
/// # Errors
/// What clap or the layers say; its message is for the operator.
pub fn parse_from<P: clap::Parser>(arguments: Vec<OsString>) -> Result<P, clap::Error> {
    parse_as(P::command(), arguments)
}

/// The same where the program changed the command line that `P` derives.
///
/// # Errors
/// As [`parse_from`].
pub fn parse_as<P: FromArgMatches>(
    command: Command,
    arguments: Vec<OsString>,
) -> Result<P, clap::Error> {
    let layered = layered(command, &arguments)
        .map_err(|error| clap::Error::raw(clap::error::ErrorKind::Io, format!("{error}\n")))?;
    P::from_arg_matches(&layered.try_get_matches_from(arguments)?)
}

fn layered(mut command: Command, arguments: &[OsString]) -> Result<Command, ConfigError> {
    let file = config_path(arguments);
    if let Some(path) = &file {
        let table = read_table(path)?;
        command = apply_file(command, path, &table)?;
    }
    apply_file_variables(command)
}

fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else {
            continue;
        };
        if text == "--" {
            break;
        }
        if text == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("ZEELOS_CONFIG").map(PathBuf::from)
}

fn read_table(path: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        named_by: "--config or ZEELOS_CONFIG".to_owned(),
        source,
    })?;
    text.parse::<Table>().map_err(|source| ConfigError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

fn apply_file(mut command: Command, path: &Path, table: &Table) -> Result<Command, ConfigError> {
    for (key, value) in table {
        if let Value::Table(section) = value {
            if command.find_subcommand(key).is_none() {
                return Err(unknown(path, key, "the program's commands"));
            }
            let mut failed = None;
            command = command.mut_subcommand(key, |sub| {
                apply_section(sub.clone(), path, section).unwrap_or_else(|error| {
                    failed = Some(error);
                    sub
                })
            });
            if let Some(error) = failed {
                return Err(error);
            }
        } else {
            let values = strings(path, key, value)?;
            let (changed, used) = set_everywhere(command, key, &values);
            command = changed;
            if !used {
                return Err(unknown(path, key, "any command"));
            }
        }
    }
    Ok(command)
}

fn apply_section(
    mut command: Command,
    path: &Path,
    section: &Table,
) -> Result<Command, ConfigError> {
    for (key, value) in section {
        let values = strings(path, key, value)?;
        let name = command.get_name().to_owned();
        let (changed, used) = set_default(command, key, &values);
        command = changed;
        if !used {
            return Err(unknown(path, key, &name));
        }
    }
    Ok(command)
}

fn unknown(path: &Path, key: &str, command: &str) -> ConfigError {
    ConfigError::UnknownKey {
        path: path.to_owned(),
        key: key.to_owned(),
        command: command.to_owned(),
    }
}

fn strings(path: &Path, key: &str, value: &Value) -> Result<Vec<String>, ConfigError> {
    let shape = || ConfigError::Shape {
        path: path.to_owned(),
        key: key.to_owned(),
    };
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(yes) => Ok(yes.to_string()),
        _ => Err(shape()),
    };
    match value {
        Value::Array(items) => items.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}

fn set_everywhere(command: Command, key: &str, values: &[String]) -> (Command, bool) {
    let (command, mut used) = set_default(command, key, values);
    let command = command.mut_subcommands(|sub| {
        let (sub, here) = set_everywhere(sub, key, values);
        used |= here;
        sub
    });
    (command, used)
}

/// The file's value stands in the default's place, below the flag and the environment.
fn set_default(command: Command, key: &str, values: &[String]) -> (Command, bool) {
    let found = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(key) && key != "config")
        .map(|arg| arg.get_id().clone());
    match found {
        None => (command, false),
        Some(id) => {
            let values = values.to_vec();
            let command = command.mut_arg(id, |arg| {
                // What is hidden in `--help` when it comes by the environment is hidden here too.
                let secret = arg.is_hide_env_values_set();
                arg.required(false)
                    .default_values(values)
                    .hide_default_value(secret)
            });
            (command, true)
        }
    }
}

/// `NAME_FILE` for every option that has an environment variable `NAME`.
fn apply_file_variables(command: Command) -> Result<Command, ConfigError> {
    let mut defaults = Vec::new();
    for arg in command.get_arguments() {
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let Some(name) = arg.get_env().and_then(|name| name.to_str()) else {
            continue;
        };
        let file_name = format!("{name}_FILE");
        if !takes_value || std::env::var_os(name).is_some() {
            continue;
        }
        if let Some(path) = std::env::var_os(&file_name).map(PathBuf::from) {
            let text = fs::read_to_string(&path).map_err(|source| ConfigError::Read {
                path,
                named_by: file_name,
                source,
            })?;
            let value = text.trim_end_matches(['\r', '\n']).to_owned();
            defaults.push((arg.get_id().clone(), value));
        }
    }
    let mut command = command;
    for (id, value) in defaults {
        // It may be a secret, and `--help` shows defaults.
        command = command.mut_arg(id, |arg| {
            arg.required(false)
                .default_value(value)
                .hide_default_value(true)
        });
    }
    let mut failed = None;
    let command = command.mut_subcommands(|sub| {
        apply_file_variables(sub.clone()).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            sub
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(command),
    }
}
