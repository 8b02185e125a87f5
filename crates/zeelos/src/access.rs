//! Users and tokens of the web interfaces: their lines for `--users-file` and `--tokens-file`.

use std::fs::OpenOptions;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use service::Secret;
use service::auth::{Name, Role, token_entry, user_entry};

use crate::client;

/// Users of the web interfaces.
#[derive(Args, Debug)]
pub(crate) struct UsersArgs {
    #[command(subcommand)]
    command: UsersCommand,
}

#[derive(Subcommand, Debug)]
enum UsersCommand {
    /// Print a user's line for --users-file; the password is asked for, or read from standard input
    Hash(EntryArgs),
}

/// Bearer tokens of the web interfaces.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand, Debug)]
enum TokenCommand {
    /// Make a token: it is printed once, with its line for --tokens-file
    New(EntryArgs),
}

#[derive(Args, Debug)]
struct EntryArgs {
    /// Letters, digits, and . _ - @
    name: Name,
    /// What it may do: read, operate or admin, each with what the ones before may
    #[arg(long, default_value = "read")]
    role: Role,
    /// Add the line to this file instead of printing it; a new file is for its owner only
    #[arg(long, value_name = "FILE")]
    add_to: Option<PathBuf>,
}

impl UsersArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let UsersCommand::Hash(entry) = self.command;
        let password = password()?;
        let line = user_entry(&entry.name, entry.role, &password)?;
        entry.give(&line)
    }
}

impl TokenArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let TokenCommand::New(entry) = self.command;
        let (token, line) = token_entry(&entry.name, entry.role);
        eprintln!("The token, which is not kept anywhere:");
        client::print(format!("{}\n", token.expose()).as_bytes())?;
        if entry.add_to.is_none() {
            eprintln!("Its line for --tokens-file:");
        }
        entry.give(&line)
    }
}

impl EntryArgs {
    fn give(&self, line: &str) -> anyhow::Result<ExitCode> {
        match &self.add_to {
            None => client::print(format!("{line}\n").as_bytes()),
            Some(file) => {
                add(file, self.name.as_str(), line)?;
                eprintln!(
                    "{} has {} now, with the role {}",
                    file.display(),
                    self.name,
                    self.role
                );
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn add(file: &Path, name: &str, line: &str) -> anyhow::Result<()> {
    let before = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
    };
    let of_name = format!("{name}:");
    anyhow::ensure!(
        !before
            .lines()
            .any(|line| line.trim_start().starts_with(&of_name)),
        "{} has an entry of {name} already: take it out first",
        file.display()
    );
    let gap = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| file.write_all(format!("{gap}{line}\n").as_bytes()))
        .with_context(|| format!("can't write {}", file.display()))
}

/// Asked for twice at a terminal; the first line of anything else.
fn password() -> anyhow::Result<Secret> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut line = String::new();
        stdin
            .lock()
            .read_line(&mut line)
            .context("can't read the password")?;
        return Ok(Secret::new(line.trim_end_matches(['\r', '\n'])));
    }
    let ask = |prompt| rpassword::prompt_password(prompt).context("can't ask for the password");
    let password = ask("Password: ")?;
    anyhow::ensure!(
        password == ask("The same again: ")?,
        "the two are not the same"
    );
    Ok(Secret::new(password))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_line_is_added_to_a_file_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        add(&file, "ann", "ann:admin:hash").unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&file, "# ours\nann:admin:hash").unwrap();
        add(&file, "an", "an:read:hash").unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "# ours\nann:admin:hash\nan:read:hash\n"
        );
        let error = add(&file, "ann", "ann:read:other").unwrap_err();
        assert!(error.to_string().contains("ann already"), "{error}");
    }
}
