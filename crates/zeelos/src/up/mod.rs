//! `zeelos up`: the whole path on one machine, each service as its own child process.

mod check;
mod children;
mod observe;
mod plan;
mod ports;
mod stats;
mod topics;
mod view;

use std::fs::{File, TryLockError};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use records::GatewayId;
use service::auth::AuthArgs;
use service::{CommonArgs, Context};

use children::Supervisor;
use plan::Plan;

/// What `up` runs and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    /// A gateway to run; may be given more than once
    #[arg(long = "gateway", default_value = "demo", value_name = "ID")]
    gateways: Vec<GatewayId>,
    /// Virtual sensors per gateway
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=100))]
    sensors: u16,
    /// Keep all data in this folder, over restarts (default: a temporary folder, removed at the end)
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// The address that devices, browsers and Kafka clients may come to
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    #[command(flatten)]
    auth: AuthArgs,
    /// Credentials of devices that come over DTLS: a TOML or JSON file (docs/dtls.md)
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// Use this Kafka cluster as the cloud's instead of an embedded broker
    #[arg(long, value_name = "HOST:PORT")]
    kafka_cloud: Option<String>,
    /// Use this Kafka cluster as the gateway's instead of an embedded broker (one gateway only)
    #[arg(long, value_name = "HOST:PORT")]
    kafka_gateway: Option<String>,
    /// Use this schema registry as the cloud's
    #[arg(long, value_name = "URL")]
    registry_cloud: Option<String>,
    /// Use this schema registry as the gateway's
    #[arg(long, value_name = "URL")]
    registry_gateway: Option<String>,
    /// Run the path once, on free ports and fresh data, and say what passed each stage
    #[arg(long)]
    check: bool,
    /// How `--check` prints its result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// How long `--check` waits for all stages, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    check_timeout: u64,
    /// No live view: a line every ten seconds instead
    #[arg(long)]
    no_view: bool,
    /// Break a stage, to see that `--check` names it
    #[arg(long = "break", hide = true, value_enum, value_name = "STAGE")]
    broken: Option<check::CheckStage>,
}

/// How a result is printed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

pub(crate) fn run(args: UpArgs, common: &CommonArgs) -> anyhow::Result<ExitCode> {
    let shows_view = !args.check && !args.no_view && view::is_terminal();
    let shared = shared_options(common);
    let mut common = common.clone();
    if shows_view || (args.check && common.log == "info") {
        // The view and the check's table own the terminal; each child's log is in its file.
        common.log = "error".to_owned();
    }
    let mut code = ExitCode::SUCCESS;
    service::run("up", &common, |context| {
        let outcome = &mut code;
        Box::pin(async move {
            *outcome = supervise(args, &shared, context, shows_view).await?;
            Ok(())
        })
    })?;
    Ok(code)
}

/// What was said about logging and configuration counts for the children too; variables they inherit anyway.
fn shared_options(common: &CommonArgs) -> Vec<String> {
    let format = common.log_format.to_possible_value();
    let mut options = vec!["--log".to_owned(), common.log.clone()];
    if let Some(format) = format {
        options.extend(["--log-format".to_owned(), format.get_name().to_owned()]);
    }
    if let Some(file) = &common.config {
        options.extend(["--config".to_owned(), file.display().to_string()]);
    }
    options
}

async fn supervise(
    args: UpArgs,
    shared: &[String],
    context: Context,
    shows_view: bool,
) -> anyhow::Result<ExitCode> {
    // A server would not start either, but say so in its log only.
    args.auth.gate((args.bind, 0).into(), "--bind")?;
    remove_left_behind();
    let temporary = match &args.data_dir {
        Some(_) if !args.check => None,
        _ => Some(tempfile::Builder::new().prefix(TEMPORARY).tempdir()?),
    };
    let data_dir = match (&temporary, &args.data_dir) {
        (Some(temporary), _) => temporary.path().to_owned(),
        (None, Some(given)) => given.clone(),
        (None, None) => unreachable!("without --data-dir there is a temporary folder"),
    };
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("can't make the data folder {}", data_dir.display()))?;
    // Held to the end of this function, after the children's.
    let _lock = lock(&data_dir)?;
    let plan = Arc::new(Plan::new(&args, shared, data_dir)?);
    let supervisor = Supervisor::start(&plan)?;
    let making = topics::start(Arc::clone(&plan), context.shutdown.clone());
    let result = if args.check {
        let limit = Duration::from_secs(args.check_timeout);
        check::run(&plan, args.output, limit, &context).await
    } else {
        keep_running(&plan, &supervisor, shows_view, &context).await
    };
    making.abort();
    supervisor.stop().await;
    if !args.check && shows_view {
        let note = format!("stopped; {}\n", plan.data_note(temporary.is_none()));
        crate::client::print(note.as_bytes())?;
    }
    result
}

/// What the names of temporary data folders begin with.
const TEMPORARY: &str = "zeelos-up-";
/// A temporary folder this old that nobody holds was left by an `up` that was killed.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(3_600);

/// Removes the temporary folders of runs that were killed and could not do it themselves.
fn remove_left_behind() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY)
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        let folder = entry.path();
        let lock = folder.join("up.lock");
        let is_old = std::fs::metadata(&lock)
            .and_then(|file| file.modified())
            .is_ok_and(|since| since.elapsed().is_ok_and(|age| age > LEFT_BEHIND_AFTER));
        if !is_ours || !is_old {
            continue;
        }
        let is_free = File::open(&lock).is_ok_and(|file| file.try_lock().is_ok());
        if is_free && let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::debug!(folder = %folder.display(), %error, "left behind, and can't be removed");
        }
    }
}

const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Two `up` on the same data would take each other's ports and stores. The lock ends with the process, however it ends.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("up.lock");
    let file = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // One that was just killed may not be gone yet.
            Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another `zeelos up` is running on {}: stop it, or name another folder with --data-dir",
                data_dir.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("can't lock {}", path.display()));
            }
        }
    }
}

async fn keep_running(
    plan: &Arc<Plan>,
    supervisor: &Supervisor,
    shows_view: bool,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    context.health.set_ready();
    let asking = observe::start(Arc::clone(plan), context.shutdown.clone());
    let shown = view::show(plan, supervisor, shows_view, &context.shutdown).await;
    asking.abort();
    shown.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_is_for_one_at_a_time() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let first = lock(folder.path())?;
        let refused = lock(folder.path()).expect_err("it is in use").to_string();
        assert!(
            refused.contains("another `zeelos up`") && refused.contains("--data-dir"),
            "{refused}"
        );
        drop(first);
        lock(folder.path())?;
        Ok(())
    }
}
