//! The child processes: started, restarted with back-off when they die, stopped in the order data flows.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use service::{Backoff, CancellationToken};
use tokio::io::AsyncWriteExt as _;
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
    status: Arc<Mutex<Status>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A child that ran this long counts as started: its next death is a new one.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// How long a child may take to finish after it was told to stop; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A log file that is longer is set aside as `.old`: a child has at most twice this, and what it writes in a minute.
const LONGEST_LOG: u64 = 10 * 1024 * 1024;
const LOOK_AT_LOG: Duration = Duration::from_secs(60);

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
        let log = plan.log_of(&child.name);
        let task = tokio::spawn(keep(
            program.to_owned(),
            child.clone(),
            log,
            Arc::clone(&status),
            stop.clone(),
        ));
        Self {
            name: child.name,
            wave: child.wave,
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
                let mut lifeline = process.stdin.take();
                let ended = tokio::select! {
                    ended = process.wait() => ended,
                    never = keep_short(&log) => match never {},
                    () = stop.cancelled() => {
                        // A child that has just died can't be told, and need not be.
                        if let Some(lifeline) = &mut lifeline {
                            let _ = lifeline.write_all(b"stop\n").await;
                        }
                        finish(&child, process).await;
                        status.lock().pid = None;
                        return;
                    }
                };
                drop(lifeline);
                let how = ended.map_or_else(|error| error.to_string(), describe);
                tracing::warn!(child = child.name, %how, log = %log.display(), "died; starting it again");
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
        .arg(format!("--exit-with-stdin={}", child.linger_s))
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

/// Sets a log aside whenever it has become too long; never ends.
async fn keep_short(log: &Path) -> Infallible {
    loop {
        tokio::time::sleep(LOOK_AT_LOG).await;
        if let Err(error) = set_aside(log) {
            tracing::error!(log = %log.display(), %error, "the log can't be set aside");
        }
    }
}

/// The child goes on writing to the file it has, so that is copied and emptied: it writes at the end, wherever that is.
fn set_aside(log: &Path) -> io::Result<()> {
    if fs::metadata(log).is_ok_and(|file| file.len() > LONGEST_LOG) {
        fs::copy(log, log.with_extension("log.old"))?;
        OpenOptions::new().write(true).open(log)?.set_len(0)?;
    }
    Ok(())
}

fn open_log(log: &Path) -> io::Result<File> {
    set_aside(log)?;
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_long_log_is_set_aside_while_it_is_written() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("demo-kafka.log");
        let mut log = open_log(&path)?;
        log.write_all(&vec![b'x'; usize::try_from(LONGEST_LOG)? + 1])?;
        set_aside(&path)?;
        log.write_all(b"and on\n")?;
        assert_eq!(fs::read_to_string(&path)?, "and on\n");
        let old = fs::metadata(path.with_extension("log.old"))?.len();
        assert_eq!(old, LONGEST_LOG + 1);
        set_aside(&path)?;
        assert_eq!(fs::read_to_string(&path)?, "and on\n", "short: left alone");
        Ok(())
    }
}
