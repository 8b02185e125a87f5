//! How a flow's clients are made: all at once, as each takes some round trips, and until it succeeds, as a cluster that
//! was just there may be away again.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::lane::SILENT_AFTER;
use crate::offsets::Reader;
use crate::source::Source;
use crate::state::{Delivery, Shared};
use crate::target::{NoTarget, Target, Ticket, told};
use crate::{DeliveryChoice, offsets};

/// What lanes and scout begin with.
pub(crate) struct Opened {
    /// For the bulk and, where there are such topics, the prompt lane, which is marked by `true`.
    pub(crate) clients: Vec<(bool, Source, Target)>,
    /// How far the flow is, as the target says.
    pub(crate) kept: HashMap<(String, String, i32), i64>,
}

/// How long it waits before it tries again.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Decides by the way what delivery the target makes possible.
pub(crate) fn open(shared: &Arc<Shared>, choice: DeliveryChoice) -> Result<Opened, NoTarget> {
    let lanes: &[bool] = if shared.flow.prompt.is_empty() {
        &[false]
    } else {
        &[false, true]
    };
    std::thread::scope(|scope| {
        let sources: Vec<_> = lanes
            .iter()
            .map(|_| scope.spawn(|| Source::open(shared)))
            .collect();
        let reader = scope.spawn(|| Reader::open(&shared.target, true));
        let mut targets = None;
        if choice != DeliveryChoice::AtLeastOnce {
            let opening: Vec<_> = lanes
                .iter()
                .map(|prompt| scope.spawn(|| introduced(shared, *prompt)))
                .collect();
            // All of them end before anything is decided.
            let opened: Vec<_> = opening.into_iter().map(joined).collect();
            targets = match opened.into_iter().collect::<Result<Vec<_>, _>>() {
                Err(NoTarget::NoTransactions(_)) if choice == DeliveryChoice::Auto => {
                    tracing::info!(
                        "the target has no transactions: records are delivered at least once"
                    );
                    None
                }
                other => Some(other?),
            };
        }
        let (targets, kept) = match targets {
            Some(targets) => {
                let _ = shared.delivery.set(Delivery::ExactlyOnce);
                (targets, kept(shared, joined(reader).ok())?)
            }
            None => {
                let _ = shared.delivery.set(Delivery::AtLeastOnce);
                let targets: Result<Vec<_>, _> =
                    lanes.iter().map(|_| Target::open(shared, None)).collect();
                let targets = targets?;
                match introduce(shared, &targets[0], None) {
                    // Without transactions it is for others' sake only.
                    Err(NoTarget::NotNow(reason)) => tracing::warn!("{reason}"),
                    other => other?,
                }
                shared.target_health.ok("introduction");
                (targets, kept_before(shared, joined(reader)))
            }
        };
        let mut clients = Vec::new();
        for ((prompt, source), target) in lanes.iter().zip(sources).zip(targets) {
            let source = joined(source)?;
            if shared.delivery() == Delivery::AtLeastOnce {
                source.find_group(&offsets::topic_of(&shared.flow.name));
            }
            clients.push((*prompt, source, target));
        }
        Ok(Opened { clients, kept })
    })
}

fn joined<T, E>(thread: ScopedJoinHandle<'_, Result<T, E>>) -> Result<T, NoTarget>
where
    NoTarget: From<E>,
{
    match thread.join() {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(NoTarget::Failed(anyhow::anyhow!(
            "a thread of the mirror panicked"
        ))),
    }
}

/// Reads how far the flow is, until it is read.
fn kept(
    shared: &Shared,
    mut reader: Option<Reader>,
) -> Result<HashMap<(String, String, i32), i64>, NoTarget> {
    let topic = offsets::topic_of(&shared.flow.name);
    loop {
        let read = match reader.take() {
            Some(reader) => Ok(reader),
            None => Reader::open(&shared.target, true),
        };
        match read.and_then(|reader| reader.read_whole(&topic, &shared.switches)) {
            Ok(Some(kept)) => {
                shared.target_health.ok("offsets");
                return Ok(kept.places);
            }
            Ok(None) => return Err(NoTarget::Stopped),
            Err(error) => again(shared, "offsets", format!("{error:#}"))?,
        }
    }
}

/// How far the flow was when it last had transactions. The group's offsets count before these.
fn kept_before(
    shared: &Shared,
    reader: Result<Reader, NoTarget>,
) -> HashMap<(String, String, i32), i64> {
    let topic = offsets::topic_of(&shared.flow.name);
    let read = reader
        .map_err(anyhow::Error::new)
        .and_then(|reader| reader.read(&topic));
    match read {
        Ok(kept) => kept.places,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "only the offsets of the source's group are known");
            HashMap::new()
        }
    }
}

/// A producer with the lane's transactional id, known to all as that of this process.
fn introduced(shared: &Arc<Shared>, prompt: bool) -> Result<Target, NoTarget> {
    let suffix = if prompt { ".prompt" } else { "" };
    let id = format!("{}{suffix}", shared.flow.name);
    loop {
        let target = Target::open(shared, Some(&id))?;
        match introduce(shared, &target, Some(&id)) {
            Ok(()) => {
                shared.target_health.ok("introduction");
                return Ok(target);
            }
            Err(NoTarget::NotNow(reason)) => again(shared, "introduction", reason)?,
            Err(error) => return Err(error),
        }
    }
}

fn again(shared: &Shared, part: &'static str, reason: String) -> Result<(), NoTarget> {
    shared.target_health.fail(part, reason);
    if shared.switches.rest(TRY_AGAIN) {
        Ok(())
    } else {
        Err(NoTarget::Stopped)
    }
}

/// Writes what the flow is, for others to see before they carry its topics back; with transactions also which process
/// has it now.
fn introduce(shared: &Shared, target: &Target, id: Option<&str>) -> Result<(), NoTarget> {
    let topic = offsets::topic_of(&shared.flow.name);
    let delivery = match id {
        Some(_) => Delivery::ExactlyOnce,
        None => Delivery::AtLeastOnce,
    };
    let flow = offsets::flow_record(
        &shared.flow.name,
        &shared.source_id,
        &shared.flow.topics,
        delivery.as_str(),
    );
    let own = id.map(|id| offsets::instance_record(id, &shared.instance));
    let unwritten = |why: &str| format!("the mirror's own topic '{topic}' can't be written: {why}");
    let broken = |error: KafkaError| not_now(target, unwritten(&told(&error)));
    if id.is_some() {
        target.begin().map_err(broken)?;
    }
    for (key, value) in [&flow].into_iter().chain(&own) {
        let ticket = Ticket {
            slot: 0,
            index: Ticket::BOOKKEEPING,
        };
        let mut record = Target::record(&topic, ticket);
        record.partition = Some(0);
        record.key = Some(key);
        record.payload = Some(value);
        target.send(record).map_err(|(error, _)| broken(error))?;
    }
    let began = Instant::now();
    while target.in_flight() > 0 {
        target.poll(Duration::from_millis(1));
        if began.elapsed() > SILENT_AFTER {
            let reason = unwritten("the target does not answer");
            shared.target_health.fail("introduction", reason);
        }
        if shared.switches.stops() {
            return Err(NoTarget::Stopped);
        }
        if let Some(reason) = target.fatal() {
            return Err(not_now(target, unwritten(&reason)));
        }
    }
    target.forget(0);
    if let Some(failure) = target.take_failures().first() {
        let reason = unwritten(&failure.code.to_string());
        let lasting = id.is_some()
            && matches!(
                failure.code,
                RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed
                    | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
            );
        return Err(if lasting {
            NoTarget::Failed(anyhow::anyhow!("{reason}"))
        } else {
            // With a new client, which aborts what this one began.
            not_now(target, reason)
        });
    }
    if id.is_none() {
        return Ok(());
    }
    loop {
        match target.commit() {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                if shared.switches.stops() {
                    return Err(NoTarget::Stopped);
                }
            }
            Err(error) => return Err(broken(error)),
        }
    }
}

/// Unless another process has the flow by now, it is tried again.
fn not_now(target: &Target, reason: String) -> NoTarget {
    if target.is_fenced() {
        NoTarget::Failed(anyhow::anyhow!(
            "another process has taken over the flow ({reason}); this one ends: run one at a time"
        ))
    } else {
        NoTarget::NotNow(reason)
    }
}
