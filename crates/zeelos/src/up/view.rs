//! The live view in the terminal: what passed each stage, lag, children, and what to try next.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use service::CancellationToken;
use service::metrics::Stage;

use super::children::{Status, Supervisor};
use super::plan::Plan;
use super::stats::{Lags, Stats};

/// Rates are means over this many seconds.
const RATE_OVER: usize = 5;
const LAG_EVERY: Duration = Duration::from_secs(2);
const LINE_EVERY: u64 = 10;

pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Shows until told to stop: a view that is drawn over every second, or a line now and then.
pub(crate) async fn show(
    plan: &Arc<Plan>,
    supervisor: &Supervisor,
    draws: bool,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let lags: Arc<Mutex<HashMap<Stage, i64>>> = Arc::default();
    let asking = tokio::spawn(ask_lags(Lags::new(plan)?, Arc::clone(&lags)));
    let mut stats = Stats::new()?;
    let mut rates = Rates::default();
    let started = Instant::now();
    if !draws {
        crate::client::print(addresses(plan).as_bytes())?;
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut ticks: u64 = 0;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => break,
        }
        stats.refresh(plan).await;
        rates.add(&stats);
        let lags = lags.lock().clone();
        if draws {
            let statuses = supervisor.statuses();
            let text = screen(plan, &stats, &rates, &lags, &statuses, started.elapsed());
            // Home, each line cleared to its end, then everything below: no flicker.
            let drawn = format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\r\n"));
            crate::client::print(drawn.as_bytes())?;
        } else if ticks.is_multiple_of(LINE_EVERY) && ticks > 0 {
            let line = format!("{}\n", line(&stats, &lags));
            crate::client::print(line.as_bytes())?;
        }
        ticks += 1;
    }
    asking.abort();
    Ok(())
}

async fn ask_lags(lags: Lags, shared: Arc<Mutex<HashMap<Stage, i64>>>) {
    loop {
        let answer = lags.ask().await;
        *shared.lock() = answer;
        tokio::time::sleep(LAG_EVERY).await;
    }
}

#[derive(Default)]
struct Rates(VecDeque<[u64; Stage::ALL.len()]>);

impl Rates {
    fn add(&mut self, stats: &Stats) {
        self.0.push_back(Stage::ALL.map(|stage| stats.total(stage)));
        if self.0.len() > RATE_OVER + 1 {
            self.0.pop_front();
        }
    }

    /// Items per second of the stage at this index of [`Stage::ALL`].
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    fn per_second(&self, index: usize) -> f64 {
        match (self.0.front(), self.0.back()) {
            (Some(first), Some(last)) if self.0.len() > 1 => {
                (last[index] - first[index]) as f64 / (self.0.len() - 1) as f64
            }
            _ => 0.0,
        }
    }
}

fn screen(
    plan: &Plan,
    stats: &Stats,
    rates: &Rates,
    lags: &HashMap<Stage, i64>,
    statuses: &[(String, Status)],
    up_for: Duration,
) -> String {
    let mut text = format!(
        "zeelos up · running for {} s · Ctrl-C stops\n\n",
        up_for.as_secs()
    );
    let _ = writeln!(
        text,
        "{:<14}{:>12}{:>12}{:>10}",
        "stage", "per second", "total", "lag"
    );
    for (index, stage) in Stage::ALL.into_iter().enumerate() {
        let lag = lags
            .get(&stage)
            .map_or_else(|| "-".to_owned(), i64::to_string);
        let (rate, total) = (rates.per_second(index), stats.total(stage));
        let _ = writeln!(
            text,
            "{:<14}{rate:>12.1}{total:>12}{lag:>10}",
            stage.as_str()
        );
    }
    text.push('\n');
    let running = statuses
        .iter()
        .filter(|(_, status)| status.pid.is_some())
        .count();
    let _ = writeln!(text, "processes: {running} of {} running", statuses.len());
    for (name, status) in statuses {
        let Some(how) = &status.last_exit else {
            continue;
        };
        let now = if status.pid.is_some() { "" } else { "DOWN, " };
        let _ = writeln!(
            text,
            "  {name}: {now}started again {} times, last {how}; its log: {}",
            status.restarts,
            plan.log_of(name).display()
        );
    }
    text.push('\n');
    text.push_str(&addresses(plan));
    text
}

fn line(stats: &Stats, lags: &HashMap<Stage, i64>) -> String {
    let parts: Vec<String> = Stage::ALL
        .into_iter()
        .map(|stage| match lags.get(&stage) {
            Some(lag) => format!("{} {} (lag {lag})", stage.as_str(), stats.total(stage)),
            None => format!("{} {}", stage.as_str(), stats.total(stage)),
        })
        .collect();
    parts.join(" · ")
}

/// Where everything is, and the next commands to try.
fn addresses(plan: &Plan) -> String {
    let mut text = String::new();
    let cloud = &plan.cloud;
    let _ = writeln!(
        text,
        "cloud     Kafka {}   registry {}",
        cloud.bootstrap, cloud.registry
    );
    let [influxdb, asset] = plan.connect;
    let _ = writeln!(
        text,
        "          connectors http://{influxdb} and http://{asset}"
    );
    for gateway in &plan.gateways {
        let (id, site) = (&gateway.id, &gateway.site);
        let _ = writeln!(
            text,
            "{id:<9} Kafka {}   registry {}",
            site.bootstrap, site.registry
        );
        let _ = writeln!(
            text,
            "          devices coap://{} coaps://{}   page http://{}/",
            gateway.coap, gateway.coaps, gateway.http
        );
    }
    let _ = writeln!(text, "logs      {}", plan.log_dir().display());
    let Some(gateway) = plan.gateways.first() else {
        return text;
    };
    let id = &gateway.id;
    let endpoint = gateway
        .sensors
        .first()
        .map_or("ENDPOINT", |sensor| sensor.endpoint.as_str());
    let flags = client_flags(plan);
    let _ = writeln!(text, "\ntry, in another terminal:");
    let _ = writeln!(text, "  zeelos send {id} {endpoint} read /3/0/0{flags}");
    let _ = writeln!(
        text,
        "  zeelos consume --topic {}{flags}",
        gateway.topics.observations
    );
    let _ = writeln!(
        text,
        "  zeelos client-demo -u {} -n my-sensor",
        gateway.coap
    );
    let _ = writeln!(
        text,
        "  zeelos send {id} my-sensor observe /3303/0/5700{flags}"
    );
    text
}

/// The options a client command needs to reach the cloud; none where it is at the contract's ports.
fn client_flags(plan: &Plan) -> String {
    let mut flags = String::new();
    if plan.cloud.bootstrap != crate::client::DEFAULT_BOOTSTRAP {
        let _ = write!(flags, " --kafka-bootstrap-server {}", plan.cloud.bootstrap);
    }
    if plan.cloud.registry != crate::client::DEFAULT_REGISTRY {
        let _ = write!(
            flags,
            " --kafka-schema-registry-url {}",
            plan.cloud.registry
        );
    }
    flags
}
