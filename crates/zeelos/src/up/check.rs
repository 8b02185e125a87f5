//! `zeelos up --check`: the path once, with a random value and a random ticket that every stage has to show.

use std::fmt::Write as _;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use kafka::{Cluster, RecordDecoder, SchemaRegistry, StartAt, TopicReader};
use records::{
    AvroRecord, ReadContent, RegistrationResponse, Request, RequestKind, ResourceValue, Response,
    ResponseBody, ResponseObserve, ResponsePayload,
};
use serde_json::json;
use service::Context;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::Output;
use super::observe::{observe, simple};
use super::plan::{Gateway, Plan, Site};
use crate::client::Requester;

/// The stages that are checked, in the order data passes them.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckStage {
    Registration,
    Observation,
    Mirror,
    TimeSeries,
    Graph,
    Analytics,
    Reply,
}

impl CheckStage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Observation => "observation",
            Self::Mirror => "mirror",
            Self::TimeSeries => "time series",
            Self::Graph => "graph",
            Self::Analytics => "analytics",
            Self::Reply => "reply",
        }
    }

    /// Which child's log tells more.
    fn child(self) -> &'static str {
        match self {
            Self::Registration | Self::Observation | Self::Reply => "leshan-server-kafka",
            Self::Mirror => "mirror-edge-to-cloud",
            Self::TimeSeries => "influxdb-sink",
            Self::Graph => "asset-sink",
            Self::Analytics => "analytics-temperature",
        }
    }
}

/// What one stage showed: how long after its cause, or why not.
struct Finding {
    stage: CheckStage,
    what: String,
    outcome: Result<Duration, String>,
}

/// Names of what is looked for.
struct Sought<'a> {
    plan: &'a Plan,
    gateway: &'a Gateway,
    endpoint: &'a str,
    value: f64,
    observe_ticket: String,
    read_ticket: String,
    start: Instant,
    deadline: Instant,
}

const PATH: &str = "/3303/0/5700";
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Runs the check; the exit code says whether every stage showed what was sent.
pub(crate) async fn run(
    plan: &Plan,
    output: Output,
    limit: Duration,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    context.health.set_ready();
    let gateway = plan.gateways.first().context("--check needs a gateway")?;
    let sensor = gateway
        .sensors
        .first()
        .context("--check needs a sensor (--sensors 1)")?;
    let random: u32 = rand::random();
    let start = Instant::now();
    let sought = Sought {
        plan,
        gateway,
        endpoint: &sensor.endpoint,
        // Higher than what a sensor makes up, so that it is its window's maximum.
        value: 1_000.0 + f64::from(random % 1_000_000) / 64.0,
        observe_ticket: format!("check-{random:08x}-observe"),
        read_ticket: format!("check-{random:08x}-read"),
        start,
        deadline: start + limit,
    };
    let findings = tokio::select! {
        findings = look(&sought, sensor.admin) => findings?,
        () = context.shutdown.cancelled() => return Ok(ExitCode::FAILURE),
    };
    report(&sought, &findings, output)
}

async fn look(
    sought: &Sought<'_>,
    sensor_admin: std::net::SocketAddr,
) -> anyhow::Result<Vec<Finding>> {
    // When each cause happened, for those who wait for its effect.
    let (registered, is_registered) = watch::channel(None);
    let (observed, is_observed) = watch::channel(None);
    let (set, value_set) = watch::channel(None);
    let (asked, is_asked) = watch::channel(None);
    let edge = &sought.gateway.site;
    let cloud = &sought.plan.cloud;
    let topics = &sought.gateway.topics;

    let registration = async {
        let endpoint = sought.endpoint;
        let seen = sought.record(edge, &topics.registrations, |event: &RegistrationResponse| {
            matches!(event, RegistrationResponse::New(new) if new.ep == endpoint)
        });
        let at = seen.await;
        if at.is_ok() {
            registered.send_replace(Some(Instant::now()));
        }
        let what = format!("{endpoint} on {} at the gateway", topics.registrations);
        Finding::new(CheckStage::Registration, what, sought.start, at)
    };
    let requests = sought.requests(is_registered.clone(), asked);
    let request_mirrored = async {
        let at = sought
            .record(edge, &topics.management_req, |request: &Request| {
                request.ticket == sought.observe_ticket
            })
            .await;
        let what = format!(
            "the observe request on {} at the gateway",
            topics.management_req
        );
        let cause = cause(&is_asked, sought.start);
        Finding::new(CheckStage::Mirror, what, cause, at)
    };
    let observing = async {
        let started = sought.record(edge, &topics.management_rep, |reply: &Response| {
            reply.ticket == sought.observe_ticket
        });
        // A reply that never comes must not hide whether the value passes.
        let half = sought.deadline.saturating_duration_since(sought.start) / 2;
        let enough = sought.start + half.min(Duration::from_secs(15));
        let _ = timeout_at(enough, started).await;
        observed.send_replace(Some(Instant::now()));
    };
    let setting = sought.set_value(sensor_admin, is_observed, set);
    let observation = async {
        let at = sought
            .record(edge, &topics.observations, |o| sought.is_ours(o))
            .await;
        let what = format!(
            "{PATH} = {} on {} at the gateway",
            sought.value, topics.observations
        );
        Finding::new(
            CheckStage::Observation,
            what,
            cause(&value_set, sought.start),
            at,
        )
    };
    let mirrored = async {
        let at = sought
            .record(cloud, &topics.observations, |o| sought.is_ours(o))
            .await;
        let what = format!(
            "{PATH} = {} on {} at the cloud",
            sought.value, topics.observations
        );
        Finding::new(
            CheckStage::Mirror,
            what,
            cause(&value_set, sought.start),
            at,
        )
    };
    let time_series = async {
        let at = sought.until(|| sought.in_time_series()).await;
        let what = format!(
            "{PATH} = {} of {} in the store",
            sought.value, sought.endpoint
        );
        Finding::new(
            CheckStage::TimeSeries,
            what,
            cause(&value_set, sought.start),
            at,
        )
    };
    let graph = async {
        let at = sought.until(|| sought.in_graph()).await;
        let what = format!("{} with its objects in the graph", sought.endpoint);
        Finding::new(
            CheckStage::Graph,
            what,
            cause(&is_registered, sought.start),
            at,
        )
    };
    let analytics = async {
        let maximum = |o: &ResponseObserve| {
            o.ep == sought.endpoint
                && o.path == format!("{PATH}-max")
                && number(&o.rep) == Some(sought.value)
        };
        let at = sought.record(edge, &topics.maxper30sec, maximum).await;
        let what = format!("{PATH}-max = {} on {}", sought.value, topics.maxper30sec);
        Finding::new(
            CheckStage::Analytics,
            what,
            cause(&value_set, sought.start),
            at,
        )
    };
    let reply = async {
        let at = sought
            .record(cloud, &topics.management_rep, |reply: &Response| {
                reply.ticket == sought.read_ticket && reply.rep.code.is_success()
            })
            .await;
        let what = format!(
            "ticket {} on {} at the cloud",
            sought.read_ticket, topics.management_rep
        );
        Finding::new(CheckStage::Reply, what, cause(&is_asked, sought.start), at)
    };
    let probes = async {
        tokio::join!(
            registration,
            request_mirrored,
            observation,
            mirrored,
            time_series,
            graph,
            analytics,
            reply,
            observing,
        )
    };
    let drivers = async {
        let (requests, setting) = tokio::join!(requests, setting);
        if let Err(error) = requests.and(setting) {
            tracing::error!("{error:#}");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        (a, b, c, d, e, f, g, h, ()) = Box::pin(probes) => Ok(vec![a, b, c, d, e, f, g, h]),
        () = drivers => unreachable!("the drivers never end by themselves"),
    }
}

fn cause(at: &watch::Receiver<Option<Instant>>, otherwise: Instant) -> Instant {
    at.borrow().unwrap_or(otherwise)
}

impl Finding {
    fn new(stage: CheckStage, what: String, cause: Instant, seen: Result<Instant, String>) -> Self {
        Self {
            stage,
            what,
            outcome: seen.map(|at| at.saturating_duration_since(cause)),
        }
    }
}

impl Sought<'_> {
    /// When a record of the topic satisfied `is_it`, read with this site's own registry.
    async fn record<T: AvroRecord>(
        &self,
        site: &Site,
        topic: &str,
        is_it: impl Fn(&T) -> bool,
    ) -> Result<Instant, String> {
        let mut trouble = format!("nothing like it on {topic}");
        let search = async {
            let mut start = StartAt::End;
            loop {
                match find(site, topic, start, &is_it, &mut trouble).await {
                    Ok(at) => return at,
                    Err(error) => trouble = format!("{error:#}"),
                }
                // The topic was not there when we began: all of it is ours.
                start = StartAt::Beginning;
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout_at(self.deadline, search).await.map_err(|_| trouble)
    }

    /// When `look` first answered yes.
    async fn until<F>(&self, look: impl Fn() -> F) -> Result<Instant, String>
    where
        F: Future<Output = anyhow::Result<bool>>,
    {
        let mut trouble = "not there".to_owned();
        let search = async {
            loop {
                match look().await {
                    Ok(true) => return Instant::now(),
                    Ok(false) => "not there".clone_into(&mut trouble),
                    Err(error) => trouble = format!("{error:#}"),
                }
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout_at(self.deadline, search).await.map_err(|_| trouble)
    }

    /// Once the sensor is registered: an observe and a read, produced at the cloud.
    async fn requests(
        &self,
        mut registered: watch::Receiver<Option<Instant>>,
        asked: watch::Sender<Option<Instant>>,
    ) -> anyhow::Result<()> {
        registered.wait_for(Option::is_some).await?;
        let cluster = Cluster::new(&self.plan.cloud.bootstrap, None)?;
        let registry = SchemaRegistry::new(&self.plan.cloud.registry)?;
        let requester = Requester::new(&cluster, registry)?;
        let ticket = self.observe_ticket.clone();
        let read = self.read_ticket.clone();
        let gateway = self.gateway;
        let both = [
            observe(gateway, self.endpoint, PATH, ticket),
            simple(gateway, self.endpoint, "/3/0/0", read, RequestKind::Read),
        ];
        for request in both {
            loop {
                // Before the acknowledgement is here the request may have been seen.
                asked.send_replace(Some(Instant::now()));
                match requester.request(&gateway.id, &request, &[]).await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!("the request can't be produced yet: {error:#}");
                        sleep(LOOK_AGAIN).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Once it is observed: the value, again every two seconds, since the sensor goes on making up its own.
    async fn set_value(
        &self,
        admin: std::net::SocketAddr,
        mut observed: watch::Receiver<Option<Instant>>,
        set: watch::Sender<Option<Instant>>,
    ) -> anyhow::Result<()> {
        observed.wait_for(Option::is_some).await?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut taken = false;
        loop {
            let request = client
                .post(format!("http://{admin}/sensor{PATH}"))
                .body(self.value.to_string());
            if !taken {
                // Before the answer is here the value may have been seen.
                set.send_replace(Some(Instant::now()));
            }
            match request
                .send()
                .await
                .and_then(reqwest::Response::error_for_status)
            {
                Ok(_) => taken = true,
                Err(error) => tracing::warn!("the sensor does not take the value: {error}"),
            }
            sleep(Duration::from_secs(2)).await;
        }
    }

    fn is_ours(&self, observation: &ResponseObserve) -> bool {
        observation.ep == self.endpoint
            && observation.path == PATH
            && number(&observation.rep) == Some(self.value)
    }

    async fn in_time_series(&self) -> anyhow::Result<bool> {
        let filter = influxdb_sink::embedded::Filter {
            ep: Some(self.endpoint),
            path: Some(PATH),
            ticket: Some(&self.observe_ticket),
            ..Default::default()
        };
        let found = influxdb_sink::embedded::query(&self.plan.time_series(), &filter)?;
        Ok(found.iter().any(|point| {
            point.value == Some(self.value) && point.server_id == self.gateway.id.as_str()
        }))
    }

    async fn in_graph(&self) -> anyhow::Result<bool> {
        let found = asset_sink::embedded::endpoint(&self.plan.graph(), self.endpoint)?;
        let Some(endpoint) = found.filter(|found| found.server == self.gateway.id.as_str()) else {
            return Ok(false);
        };
        Ok([(3, 0), (3303, 0), (3303, 1)]
            .iter()
            .all(|wanted| endpoint.objects.contains(wanted)))
    }
}

async fn find<T: AvroRecord>(
    site: &Site,
    topic: &str,
    start: StartAt,
    is_it: impl Fn(&T) -> bool,
    trouble: &mut String,
) -> anyhow::Result<Instant> {
    let cluster = Cluster::new(&site.bootstrap, None)?;
    let mut decoder = RecordDecoder::<T>::new(SchemaRegistry::new(&site.registry)?);
    let mut reader = TopicReader::open(&cluster, topic, start).await?;
    let mut seen = 0_u64;
    loop {
        *trouble = format!("nothing like it among {seen} records of {topic}");
        let record = reader.next().await;
        seen += 1;
        if let Some(value) = record.value
            && is_it(&decoder.decode(&value).await?)
        {
            return Ok(Instant::now());
        }
    }
}

/// The number in a reading of one resource.
fn number(payload: &ResponsePayload) -> Option<f64> {
    match &payload.body {
        Some(ResponseBody::Read(ReadContent::Resource(resource))) => match resource.value {
            ResourceValue::Double(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// The stage to look at: the first that failed, by what depends on what.
fn failed(findings: &[Finding]) -> Option<&Finding> {
    findings.iter().find(|finding| finding.outcome.is_err())
}

fn report(sought: &Sought<'_>, findings: &[Finding], output: Output) -> anyhow::Result<ExitCode> {
    let failure = failed(findings);
    let text = match output {
        Output::Json => format!("{}\n", json_report(sought, findings, failure)),
        Output::Table => table(sought, findings),
    };
    crate::client::print(text.as_bytes())?;
    let Some(failure) = failure else {
        return Ok(ExitCode::SUCCESS);
    };
    let reason = failure.outcome.as_ref().err().map_or("", String::as_str);
    eprintln!(
        "stage '{}' failed: no {}: {reason}",
        failure.stage.as_str(),
        failure.what
    );
    let gateway = &sought.gateway.id;
    let child = failure.stage.child();
    let names = [format!("{gateway}/{child}"), format!("cloud/{child}")];
    let log = names
        .iter()
        .find_map(|name| std::fs::read(sought.plan.log_of(name)).ok());
    if let Some(text) = log {
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(10)..];
        eprintln!("the last lines of {child}'s log:\n  {}", tail.join("\n  "));
    }
    Ok(ExitCode::FAILURE)
}

fn table(sought: &Sought<'_>, findings: &[Finding]) -> String {
    let mut text = format!("{:<14}{:<6}{:>12}  what\n", "stage", "seen", "latency");
    for finding in findings {
        let (seen, latency) = match &finding.outcome {
            Ok(latency) => ("yes", format!("{:.0} ms", latency.as_secs_f64() * 1_000.0)),
            Err(_) => ("no", "-".to_owned()),
        };
        let _ = writeln!(
            text,
            "{:<14}{seen:<6}{latency:>12}  {}",
            finding.stage.as_str(),
            finding.what
        );
    }
    let _ = writeln!(text, "took {:.1} s", sought.start.elapsed().as_secs_f64());
    text
}

fn json_report(
    sought: &Sought<'_>,
    findings: &[Finding],
    failure: Option<&Finding>,
) -> serde_json::Value {
    let stages: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "stage": finding.stage.as_str(),
                "what": finding.what,
                "seen": finding.outcome.is_ok(),
                "latency_ms": finding.outcome.as_ref().ok().map(|latency| latency.as_secs_f64() * 1_000.0),
                "reason": finding.outcome.as_ref().err(),
            })
        })
        .collect();
    json!({
        "ok": failure.is_none(),
        "failed": failure.map(|finding| finding.stage.as_str()),
        "value": sought.value,
        "ticket": sought.read_ticket,
        "took_s": sought.start.elapsed().as_secs_f64(),
        "stages": stages,
    })
}
