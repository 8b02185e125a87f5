//! The child processes: started, restarted with back-off when they die, stopped in the order data flows.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use service::{Backoff, CancellationToken};
use tokio::process::{Child as Process, Command};
use tokio::task::JoinHandle;

use super::plan::{Child, Plan};

/// How a child is doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// Its process, while it runs.
    pub(crate) pid: Option<u32>,
    /// How often it died and was started again.
    pub(crate) restarts: u32,
    /// How it ended last.
    pub(crate) last_exit: Option<String>,
}

/// All children of one `up`.
pub(crate) struct Supervisor {
    children: Vec<Running>,
}

struct Running {
    name: String,
    wave: u8,
    log: PathBuf,
    status: Arc<Mutex<Status>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A child that ran this long counts as started: its next death is a new one.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// How long a child may take to finish after it was told to stop; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A log file that is longer at a start is set aside as `.old`.
const LONGEST_LOG: u64 = 10 * 1024 * 1024;

impl Supervisor {
    /// Starts every child of the plan.
    pub(crate) fn start(plan: &Plan) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("can't find the zeelos program")?;
        fs::create_dir_all(plan.log_dir())
            .with_context(|| format!("can't make {}", plan.log_dir().display()))?;
        let children = plan
            .children
            .iter()
            .map(|child| Running::start(&program, child.clone(), plan))
            .collect();
        Ok(Self { children })
    }

    /// Each child's name and status.
    pub(crate) fn statuses(&self) -> Vec<(String, Status)> {
        self.children
            .iter()
            .map(|child| (child.name.clone(), child.status.lock().clone()))
            .collect()
    }

    /// The log file of a child, by name.
    pub(crate) fn log_of(&self, name: &str) -> Option<&Path> {
        self.children
            .iter()
            .find(|child| child.name == name)
            .map(|child| child.log.as_path())
    }

    /// Stops the children, those that produce before those that they produce to.
    pub(crate) async fn stop(self) {
        let mut children = self.children;
        while let Some(wave) = children.iter().map(|child| child.wave).max() {
            let (now, later) = children.into_iter().partition(|child| child.wave == wave);
            let now: Vec<Running> = now;
            for child in &now {
                child.stop.cancel();
            }
            for child in now {
                if child.task.await.is_err() {
                    tracing::error!(child = child.name, "its supervision failed");
                }
            }
            children = later;
        }
    }
}

impl Running {
    fn start(program: &Path, child: Child, plan: &Plan) -> Self {
        let status = Arc::new(Mutex::new(Status::default()));
        let stop = CancellationToken::new();
        let log = plan
            .log_dir()
            .join(format!("{}.log", child.name.replace('/', "-")));
        let task = tokio::spawn(keep(
            program.to_owned(),
            child.clone(),
            log.clone(),
            Arc::clone(&status),
            stop.clone(),
        ));
        Self {
            name: child.name,
            wave: child.wave,
            log,
            status,
            stop,
            task,
        }
    }
}

async fn keep(
    program: PathBuf,
    child: Child,
    log: PathBuf,
    status: Arc<Mutex<Status>>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    while !stop.is_cancelled() {
        let started = Instant::now();
        match spawn(&program, &child, &log) {
            Ok(mut process) => {
                status.lock().pid = process.id();
                // Held here: waiting for a process closes its standard input otherwise, and that means stop.
                let lifeline = process.stdin.take();
                let ended = tokio::select! {
                    ended = process.wait() => ended,
                    () = stop.cancelled() => {
                        drop(lifeline);
                        finish(&child, process).await;
                        status.lock().pid = None;
                        return;
                    }
                };
                drop(lifeline);
                let how = ended.map_or_else(|error| error.to_string(), describe);
                tracing::warn!(child = child.name, %how, "died; starting it again");
                let mut status = status.lock();
                status.pid = None;
                status.restarts += 1;
                status.last_exit = Some(how);
            }
            Err(error) => {
                tracing::error!(child = child.name, "{error:#}");
                status.lock().last_exit = Some(format!("{error:#}"));
            }
        }
        if started.elapsed() > SETTLED_AFTER {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.wait()) => {}
            () = stop.cancelled() => {}
        }
    }
}

fn spawn(program: &Path, child: &Child, log: &Path) -> anyhow::Result<Process> {
    let output = open_log(log).with_context(|| format!("can't write {}", log.display()))?;
    let errors = output.try_clone()?;
    Command::new(program)
        .args(&child.args)
        .arg("--exit-with-stdin")
        .arg("--admin-listen")
        .arg(child.admin.to_string())
        // The pipe's other end is ours: it closes when we end, however we end, and the child with it.
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(errors)
        // Ctrl-C in the terminal is for us: the children are stopped in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("can't start {}", child.name))
}

fn open_log(log: &Path) -> std::io::Result<File> {
    if fs::metadata(log).is_ok_and(|file| file.len() > LONGEST_LOG) {
        fs::rename(log, log.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).open(log)
}

async fn finish(child: &Child, mut process: Process) {
    if tokio::time::timeout(STOP_LIMIT, process.wait())
        .await
        .is_err()
    {
        tracing::warn!(child = child.name, "did not stop in time; killed");
        if let Err(error) = process.kill().await {
            tracing::error!(child = child.name, %error, "could not be killed");
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
