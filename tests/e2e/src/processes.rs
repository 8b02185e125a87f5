use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

/// A running process.
#[derive(Clone, Debug)]
pub struct Process {
    pub id: u32,
    /// Its command line, the program first.
    pub args: Vec<String>,
}

impl Process {
    /// The value that follows an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        let at = self.args.iter().position(|arg| arg == name)?;
        self.args.get(at + 1).map(String::as_str)
    }

    /// Whether it runs the service that the first word names, and each other word is one of its arguments, or the end of one.
    pub fn is(&self, words: &[&str]) -> bool {
        let Some((service, rest)) = words.split_first() else {
            return false;
        };
        self.args.get(1).is_some_and(|arg| arg == service)
            && rest
                .iter()
                .all(|word| self.args.iter().any(|arg| arg.ends_with(word)))
    }
}

/// The processes that a process has started and that run.
pub fn children_of(parent: u32) -> Vec<Process> {
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| parent_of(*id) == Some(parent))
        .filter_map(|id| {
            let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
            let args: Vec<String> = line
                .split(|byte| *byte == 0)
                .filter(|arg| !arg.is_empty())
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect();
            // One that has ended and is not yet waited for has no command line.
            (!args.is_empty()).then_some(Process { id, args })
        })
        .collect()
}

/// Whether a process of this id runs; one that has ended and is not yet waited for does not.
pub fn is_running(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|text| !matches!(after_name(&text).next(), None | Some("Z" | "X")))
}

fn parent_of(id: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    after_name(&text).nth(1)?.parse().ok()
}

/// `id (name) state parent …`: the name may hold anything, so what counts is behind its last parenthesis.
fn after_name(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
}

/// Kills a process as a crash would.
///
/// # Errors
/// When there is no such process.
pub fn kill_9(id: u32) -> anyhow::Result<()> {
    signal(id, "KILL")
}

/// Sends a signal by its name without `SIG`.
///
/// # Errors
/// When there is no such process.
pub fn signal(id: u32, name: &str) -> anyhow::Result<()> {
    // The shell's own `kill`: there is no safe call for this in the standard library.
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", name, &id.to_string()])
        .status()
        .context("can't run a shell")?;
    if !status.success() {
        bail!("no SIG{name} to process {id}: it has ended");
    }
    Ok(())
}
