//! The tools that stand beside a running deployment: they are Kafka clients like any other.

mod consume;
mod dlq;
mod produce;
mod request;
mod send;
mod topics;

use std::future::Future;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;

pub(crate) use consume::ConsumeArgs;
use consume::show;
pub(crate) use dlq::DlqArgs;
pub(crate) use produce::ProduceArgs;
pub(crate) use request::Requester;
pub(crate) use send::SendArgs;
pub(crate) use topics::TopicsArgs;

/// The cloud's broker at the contract's port on this machine.
pub(crate) const DEFAULT_BOOTSTRAP: &str = "127.0.0.1:9092";
/// The cloud's registry at the contract's port on this machine.
pub(crate) const DEFAULT_REGISTRY: &str = "http://127.0.0.1:8081";

/// Writes to standard output; a reader that went away (a closed pipe) is no error.
pub(crate) fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// What a command that Ctrl-C ended before it was done exits with, as shells have it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Runs a command; Ctrl-C ends it, with this exit code.
pub(crate) fn block_on(
    command: impl Future<Output = anyhow::Result<ExitCode>>,
    interrupted: ExitCode,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = command => ended,
            _ = tokio::signal::ctrl_c() => Ok(interrupted),
        }
    });
    runtime.shutdown_background();
    ended
}
