use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use crate::wait_for;

/// How much of a log's end a failure message carries.
const TAIL_BYTES: u64 = 4_096;

/// A program to start as a [`Child`].
#[derive(Debug, Clone)]
pub struct Launch {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    current_dir: Option<PathBuf>,
}

impl Launch {
    /// `name` is what failure messages call it; `program` is a path or is looked up on `PATH`.
    pub fn new(name: impl Into<String>, program: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.into(),
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            current_dir: None,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Starts it with standard output and error appended to the file `log`, and standard input a pipe.
    pub fn spawn(&self, log: &Path) -> anyhow::Result<Child> {
        // The kernel kills the child when its parent dies. setpriv (util-linux, on every Debian) asks for that and then
        // becomes the program, so the process id is the program's own.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.args);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(dir) = &self.current_dir {
            command.current_dir(dir);
        }
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let err = out.try_clone()?;
        command.stdin(Stdio::piped()).stdout(out).stderr(err);
        let process = spawn_from_lasting_thread(command)
            .with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))?;
        Ok(Child {
            name: self.name.clone(),
            process,
            log: log.to_owned(),
        })
    }
}

/// A running program: killed when dropped, and by the kernel when the test process dies.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    log: PathBuf,
}

impl Child {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, for what reads `/proc`.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// All it has written so far to standard output and error.
    pub fn output(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The end of its output, at most 4 KiB, for failure messages.
    pub fn tail(&self) -> String {
        tail_of(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// How it ended, or `None` while it runs.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Writes one line to its standard input.
    pub fn write_line(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self
            .process
            .stdin
            .as_mut()
            .expect("spawned with a pipe that nobody takes");
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| stdin.flush())
            .with_context(|| {
                format!(
                    "{} does not read its input\n{}",
                    self.name,
                    tail_of(&self.log).unwrap_or_default()
                )
            })
    }

    /// Waits until `probe` answers `Ok`; gives up early, with the end of the log, when the program ends.
    pub async fn ready<T, P, F>(&mut self, timeout: Duration, probe: P) -> anyhow::Result<T>
    where
        P: FnMut() -> F,
        F: Future<Output = anyhow::Result<T>>,
    {
        let what = format!("{} to be ready", self.name);
        self.wait_while_running(timeout, &what, probe).await
    }

    /// Waits until its output has a line that `wanted` accepts, and returns the first such.
    pub async fn wait_for_line(
        &mut self,
        timeout: Duration,
        what: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let log = self.log.clone();
        let look = || {
            let bytes = std::fs::read(&log)?;
            let text = String::from_utf8_lossy(&bytes);
            // Only whole lines count: one that is half written could match too early.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let found = whole.lines().find(|line| wanted(line));
            found.map(str::to_owned).context("no such line")
        };
        self.wait_while_running(timeout, what, || std::future::ready(look()))
            .await
    }

    async fn wait_while_running<T, P, F>(
        &mut self,
        timeout: Duration,
        what: &str,
        mut probe: P,
    ) -> anyhow::Result<T>
    where
        P: FnMut() -> F,
        F: Future<Output = anyhow::Result<T>>,
    {
        let process = &mut self.process;
        let outcome = wait_for(timeout, what, || {
            // In this order, so that what a program wrote just before its end is still seen.
            let ended = process.try_wait();
            let look = probe();
            async move {
                match (look.await, ended?) {
                    (Ok(value), _) => Ok(Ok(value)),
                    (Err(_), Some(status)) => Ok(Err(status)),
                    (Err(error), None) => Err(error),
                }
            }
        })
        .await;
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(status)) => Err(anyhow!(
                "{} ended ({status}) while the test waited for {what}",
                self.name
            )),
            Err(error) => Err(error),
        }
        .map_err(|error| error.context(format!("the end of {}'s log:\n{}", self.name, self.tail())))
    }

    /// Kills it as a power cut would (SIGKILL), and waits until it is gone.
    pub fn kill(&mut self) {
        // An error here means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Asks it to end (SIGTERM) and waits; one that has not ended after `grace` is killed, which is an error.
    pub async fn terminate(&mut self, grace: Duration) -> anyhow::Result<ExitStatus> {
        self.signal("TERM")?;
        let end = Instant::now() + grace;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                self.kill();
                bail!(
                    "{} did not end within {grace:?} of SIGTERM and was killed; the end of its log:\n{}",
                    self.name,
                    self.tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Freezes it (SIGSTOP): its sockets stay open and answer nothing, as behind a cut link.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// Ends a [`Child::pause`] (SIGCONT).
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        // The shell's own `kill`: there is no safe call for this in the standard library.
        let status = Command::new("sh")
            .args([
                "-c",
                "kill -s \"$0\" \"$1\"",
                signal,
                &self.process.id().to_string(),
            ])
            .status()?;
        if !status.success() {
            bail!(
                "cannot send SIG{signal} to {}: it has ended. The end of its log:\n{}",
                self.name,
                self.tail()
            );
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a file, at most [`TAIL_BYTES`].
pub(crate) fn tail_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

type Order = (Command, mpsc::Sender<io::Result<std::process::Child>>);

/// "Parent" in the kernel's parent-death signal is the *thread* that forked, and a test's thread ends with the test,
/// while a server that tests share lives on. So all children are forked by one thread that never ends.
fn spawn_from_lasting_thread(command: Command) -> io::Result<std::process::Child> {
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("testkit-spawner".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // The asker may have gone (a timed-out test): then the child is dropped here, unwanted, so end it.
                    if let Err(mpsc::SendError(Ok(mut child))) = answer.send(command.spawn()) {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
            })
            .expect("a thread can be started");
        Mutex::new(orders)
    });
    let (answer, result) = mpsc::channel();
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(io::Error::other)?;
    result.recv().map_err(io::Error::other)?
}
