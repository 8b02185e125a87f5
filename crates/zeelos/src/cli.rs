use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use service::CommonArgs;

use crate::{access, client, security, services, up};

/// LwM2M devices, Kafka and the cloud, joined.
#[derive(Parser, Debug)]
#[command(name = "zeelos", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the whole path on this machine: two sites, every service, three sensors
    Up(Box<up::UpArgs>),
    /// Send a request to a device through its gateway and print the reply
    Send(client::SendArgs),
    /// Produce records, one line of Avro JSON each, from standard input
    Produce(client::ProduceArgs),
    /// Print a topic's records as Avro JSON
    Consume(client::ConsumeArgs),
    /// List, create, describe and delete topics
    Topics(client::TopicsArgs),
    /// List, show and send back records that could not be processed
    Dlq(client::DlqArgs),
    /// Make, renew and list certificates: one CA, one for each role and gateway
    Certs(security::CertsArgs),
    /// Print and apply Kafka's access rules for each role and gateway
    Acls(security::AclsArgs),
    /// Make users of the web interfaces
    Users(access::UsersArgs),
    /// Make bearer tokens of the web interfaces
    Token(access::TokenArgs),
    #[command(flatten)]
    Service(services::Service),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    pub(crate) fn run(self, common: &CommonArgs) -> anyhow::Result<ExitCode> {
        let interrupted = ExitCode::from(client::INTERRUPTED);
        match self {
            Self::Up(args) => up::run(*args, common),
            Self::Send(args) => client::block_on(args.run(), interrupted),
            Self::Produce(args) => client::block_on(args.run(), interrupted),
            // There Ctrl-C is how one ends it.
            Self::Consume(args) => client::block_on(args.run(), ExitCode::SUCCESS),
            Self::Topics(args) => client::block_on(args.run(), interrupted),
            Self::Dlq(args) => client::block_on(args.run(), interrupted),
            Self::Certs(args) => args.run(),
            Self::Acls(args) => client::block_on(args.run(), interrupted),
            Self::Users(args) => args.run(),
            Self::Token(args) => args.run(),
            Self::Service(service) => service.run(common).map(|()| ExitCode::SUCCESS),
            Self::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "zeelos", &mut script);
                client::print(&script)
            }
        }
    }
}

/// The whole command line.
pub(crate) fn command() -> clap::Command {
    // Where a command has sub-commands its options may stand anywhere: `zeelos send demo EP read /3/0/0 --timeout 5`.
    let anywhere = |command: clap::Command| {
        command.mut_args(|arg| {
            let positional = arg.is_positional();
            arg.global(!positional)
        })
    };
    Cli::command()
        .mut_subcommand("send", anywhere)
        .mut_subcommand("topics", anywhere)
        .mut_subcommand("dlq", anywhere)
        .mut_subcommand("certs", anywhere)
        .mut_subcommand("acls", anywhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn options_of_send_may_stand_after_the_operation() {
        let line = "zeelos send demo EP read /3/0/0 --bootstrap-server cloud:9092 --timeout 5";
        let parsed = command().try_get_matches_from(line.split(' '));
        assert!(parsed.is_ok(), "{parsed:?}");
    }
}
