use std::future::Future;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::admin::{self, AdminRoutes};
use crate::tls::{Listener, ListenerTlsArgs, ServerTls};
use crate::{CancellationToken, Health};

/// The options that every service has.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// What to log: a level, or a filter such as `info,mirror=debug`
    #[arg(long, env = "ZEELOS_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How to log: for people, or a JSON object per line
    #[arg(
        long,
        env = "ZEELOS_LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true
    )]
    pub log_format: LogFormat,
    /// Where `/metrics`, `/livez` and `/readyz` are served (port 0: any free one)
    #[arg(
        long,
        env = "ZEELOS_ADMIN_LISTEN",
        default_value = "127.0.0.1:0",
        global = true
    )]
    pub admin_listen: SocketAddr,
    /// A TOML file with options by their long names: at the top for any command, or under `[command]`
    #[arg(long, env = "ZEELOS_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<std::path::PathBuf>,
    /// Stop when standard input says anything, or this many seconds after it closed: how a parent stops its children, and
    /// takes them with it even when it is killed
    #[arg(long, hide = true, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "0", value_name = "SECONDS")]
    pub exit_with_stdin: Option<u64>,
    #[command(flatten)]
    pub tls: ListenerTlsArgs,
}

/// The form of log lines.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What a running service is given.
#[derive(Clone)]
pub struct Context {
    /// Fires when the service has to stop: finish what was begun, then return.
    pub shutdown: CancellationToken,
    /// What `/readyz` answers.
    pub health: Health,
    /// Where the admin listener is.
    pub admin_address: SocketAddr,
    routes: AdminRoutes,
    tls: Option<ServerTls>,
}

impl Context {
    /// A context for tests and for services that run inside another process: no signals, no listener.
    pub fn detached() -> Self {
        Self {
            shutdown: CancellationToken::new(),
            health: Health::default(),
            admin_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            routes: AdminRoutes::default(),
            tls: None,
        }
    }

    /// The same with TLS for its listeners.
    pub fn with_tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// TLS of this process's listeners, where the operator gave it a certificate.
    pub fn listener_tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// Binds a listener for `axum::serve` that takes at most `connections` at a time; over TLS where the operator gave a
    /// certificate. `option` is the one to name when the port is taken.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn listen(
        &self,
        listen: SocketAddr,
        option: &str,
        connections: usize,
    ) -> anyhow::Result<Listener> {
        let tcp = admin::bind(listen, option).await?;
        Ok(Listener::new(tcp, self.tls.clone(), connections)?)
    }

    /// Adds routes to the admin listener.
    pub fn admin_routes(&self, routes: axum::Router) {
        self.routes.merge(routes);
    }
}

/// How long a service may take to finish after it was told to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// Runs a service: logging, the admin listener, signals; returns when it ended or was told to stop and has drained.
///
/// # Errors
/// What the service returned, or why it could not start.
pub fn run<F, Fut>(name: &'static str, common: &CommonArgs, service: F) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    init_logging(common)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(name)
        .build()
        .context("can't start the runtime")?;
    let result = runtime.block_on(supervise(name, common, service));
    // Blocking work that outlives the drain (a database call that hangs) must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn supervise<F, Fut>(
    name: &'static str,
    common: &CommonArgs,
    service: F,
) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let shutdown = CancellationToken::new();
    let health = Health::default();
    let routes = AdminRoutes::default();
    // The admin listener goes last: it still answers while the service drains.
    let admin_stop = CancellationToken::new();
    let tls = common.tls.open()?;
    let admin_tls = tls.clone().filter(|_| common.tls.admin_tls);
    let admin_address = admin::serve(
        (common.admin_listen, admin_tls),
        health.clone(),
        routes.clone(),
        admin_stop.clone(),
    )
    .await?;
    tracing::info!(service = name, admin = %admin_address, "starting");
    let _stop_admin = admin_stop.drop_guard();

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let context = Context {
        shutdown: shutdown.clone(),
        health,
        admin_address,
        routes,
        tls,
    };
    let mut work = Box::pin(service(context));
    tokio::select! {
        ended = &mut work => return ended,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = stdin_closed(common.exit_with_stdin) => {}
    }
    tracing::info!(service = name, "stopping");
    shutdown.cancel();
    tokio::time::timeout(DRAIN_LIMIT, work)
        .await
        .unwrap_or_else(|_| {
            anyhow::bail!("did not finish within {} s; stopped", DRAIN_LIMIT.as_secs())
        })
}

/// Ends when standard input says anything, or so many seconds after its end; never, where nobody asked for that.
async fn stdin_closed(linger_s: Option<u64>) {
    let Some(linger_s) = linger_s else {
        return std::future::pending().await;
    };
    let told = tokio::io::stdin().read(&mut [0; 64]).await;
    if !matches!(told, Ok(1..)) {
        tokio::time::sleep(Duration::from_secs(linger_s)).await;
    }
}

fn init_logging(common: &CommonArgs) -> anyhow::Result<()> {
    // librdkafka repeats itself while brokers are away; what matters of it is said once by the service's conditions.
    let filter = EnvFilter::try_new(format!("librdkafka=off,rdkafka=off,{}", common.log))
        .with_context(|| format!("'{}' is not a log filter (--log)", common.log))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let result = match common.log_format {
        LogFormat::Text => builder.with_target(true).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("can't start logging: {error}"))
}

/// Waits that double from a first to a longest one, and start over after a success.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits `first`, then twice as long each time, up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// How long to wait now; the next call answers twice that.
    pub fn wait(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        now
    }

    /// It worked: start over with the first wait.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}
