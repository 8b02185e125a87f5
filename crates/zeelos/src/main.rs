//! The `zeelos` program: every service by name, `up` for the whole path on one machine, and the tools around them.

mod access;
mod cli;
mod client;
mod names;
mod security;
mod services;
mod up;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = names::arguments(std::env::args_os());
    let cli: cli::Cli = match service::config::parse_as(cli::command(), arguments) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command.run(&cli.common) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
