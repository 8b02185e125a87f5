//! A lane: one thread that reads, rewrites and hands over, with a consumer and a producer of its own.
//!
//! A flow has two, so that prompt topics have connections of their own and never queue behind bulk ones. What was handed
//! over and is not settled yet is an *epoch*:
//!
//! ```text
//! read → rewrite → hand over      settle                                      note
//!        └──── open epoch ──┘     at least once: all acknowledged          →  commit the source's offsets
//!                                 exactly once: offsets join, transaction  →  committed with the records
//! ```
//!
//! Without transactions several epochs may await their acknowledgements while the next one fills. When a record fails,
//! everything under way is awaited, and reading goes back, per partition, to the first record that is not at the target.

mod carry;
mod epoch;
mod settle;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use rdkafka::consumer::CommitMode;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use service::metrics::{Stage, records};
use tokio::runtime::Handle;

use crate::bandwidth::Bandwidth;
use crate::limits::Bounds;
use crate::rewrite::{Ids, Rewrite};
use crate::source::{self, Source};
use crate::state::{Delivery, Partition, Shared};
use crate::target::Target;

use epoch::{Care, Epoch, Verdict};

/// Where a partition is to be read from.
pub(crate) struct Start {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) state: Arc<Partition>,
}

/// What a lane is told by who looks for topics.
pub(crate) enum Command {
    Assign(Vec<Start>),
    Unassign(Vec<(String, i32)>),
}

/// Why a lane does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Halt {
    /// It was told to.
    #[error("told to stop")]
    Told,
    #[error(transparent)]
    Broken(#[from] anyhow::Error),
}

pub(crate) struct Lane {
    shared: Arc<Shared>,
    prompt: bool,
    source: Arc<Source>,
    target: Target,
    commands: Receiver<Command>,
    rewrite: Option<Arc<Rewrite>>,
    runtime: Handle,
    places: Vec<Place>,
    topics: Vec<Topic>,
    index: HashMap<(String, i32), usize>,
    /// The place of the last record: neighbours come from one partition. By librdkafka's own handle of the topic.
    last: Option<(usize, i32, usize)>,
    open: Epoch,
    awaiting: VecDeque<Epoch>,
    spare: Vec<Epoch>,
    next_slot: usize,
    /// Records that the target refused although they came alone. Bounded by the records of an epoch.
    verdicts: HashMap<(usize, i64), Verdict>,
    window: Window,
    key: Vec<u8>,
    value: Vec<u8>,
    commits: Commits,
    watch: Watch,
    copied: IntCounter,
    /// Records handed over since the start.
    handed: u64,
    exactly_once: bool,
    /// How long a transaction is left open while there is more to copy: several times what its end takes.
    transaction: Duration,
    stopping_since: Option<Instant>,
    /// What was read and is not paid for yet, where the link has a cap; and how much that may be.
    unpaid: usize,
    most_unpaid: usize,
    /// When to find out where to read on, as the source has not what was to be read.
    astray: Option<Instant>,
    /// When positions were last looked at.
    positions_at: Instant,
}

/// One topic of the source, with what is known of it.
struct Topic {
    name: Arc<str>,
    dead_letters: Arc<str>,
    keys: Ids,
    values: Ids,
    bounds: Bounds,
    /// Partitions at the target, and when that was asked; for records without a key.
    partitions: Option<(i32, Instant)>,
}

/// One partition of the source.
struct Place {
    topic: usize,
    partition: i32,
    state: Arc<Partition>,
    /// The next offset to hand over.
    next: i64,
    /// Everything before it is at the target, and noted where that is due.
    done: i64,
    /// Grows when reading goes back.
    generation: u64,
    /// The epoch, by its number, that has it.
    epoch: u64,
    /// Epochs that have it and are not settled.
    unsettled: usize,
    last_ms: Option<i64>,
    /// Records before these offsets are sent in small groups, or alone: some of them was refused.
    groups_until: i64,
    alone_until: i64,
    /// When it was last asked where young records begin.
    asked_age: Option<Instant>,
    /// Whether the client's position is that of this reading, not of one that was broken off.
    position_holds: bool,
    gone: bool,
}

impl Place {
    fn care(&self, offset: i64) -> Care {
        if offset < self.alone_until {
            Care::Alone
        } else if offset < self.groups_until {
            Care::InGroups
        } else {
            Care::Together
        }
    }
}

/// How much may be under way.
struct Window {
    /// Handed over and not acknowledged.
    records: usize,
    epoch_records: usize,
    epoch_bytes: usize,
}

/// Commits to the source's group: one at a time is under way.
struct Commits {
    note: String,
    dirty: Vec<usize>,
    /// What is in the one that is under way: again, if it fails.
    under_way: Vec<usize>,
    /// When all places were last committed.
    all_at: Instant,
    at: Instant,
    every: Duration,
}

/// Tells a slow target from one that is away.
struct Watch {
    acknowledged: u64,
    since: Instant,
}

/// A target that acknowledged nothing for so long is said to be away.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(5);
/// How long what is under way may take once the flow has to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How many records are read between looks at everything else.
const READ_AT_ONCE: u32 = 128;
/// How many epochs may await their acknowledgements.
const MOST_AWAITING: usize = 5;
/// How often it is looked what was read beyond the last record.
const POSITIONS_EVERY: Duration = Duration::from_secs(1);
/// How often offsets of places where nothing happened are committed, too.
const COMMIT_ALL_EVERY: Duration = Duration::from_secs(600);
/// About what a record has on the wire beside its key and value.
const RECORD_OVERHEAD: usize = 12;
/// How long it waits for company of records that came.
const COMPANY: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(50);
/// How long the first transaction is left open, as nothing is known of what its end takes.
const FIRST_TRANSACTION: Duration = Duration::from_millis(100);

/// What a lane is made of.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) prompt: bool,
    pub(crate) source: Source,
    pub(crate) target: Target,
    pub(crate) commands: Receiver<Command>,
    pub(crate) rewrite: Option<Arc<Rewrite>>,
    pub(crate) runtime: Handle,
}

impl Lane {
    pub(crate) fn new(parts: Parts) -> Self {
        let shared = parts.shared;
        let rtt_s = shared.target_rtt.as_secs_f64();
        let exactly_once = shared.delivery() == Delivery::ExactlyOnce;
        let window = Window {
            records: 30_000 + (rtt_s * 250_000.0).min(60_000.0) as usize,
            // A transaction costs several round trips at its end, an epoch none.
            epoch_records: if exactly_once { 250_000 } else { 10_000 },
            epoch_bytes: if exactly_once {
                64 * 1024 * 1024
            } else {
                shared.queue_bytes(crate::Transfer::Push, 2 * 1024 * 1024)
            },
        };
        let cap = shared.bandwidth.as_ref();
        Self {
            unpaid: 0,
            astray: None,
            positions_at: Instant::now(),
            most_unpaid: cap.map_or(usize::MAX, Bandwidth::step),
            source: Arc::new(parts.source),
            commits: Commits {
                note: source::note(&shared.instance),
                dirty: Vec::new(),
                under_way: Vec::new(),
                all_at: Instant::now(),
                at: Instant::now(),
                every: Duration::from_millis(if exactly_once { 1_000 } else { 20 }),
            },
            shared,
            prompt: parts.prompt,
            target: parts.target,
            commands: parts.commands,
            rewrite: parts.rewrite,
            runtime: parts.runtime,
            places: Vec::new(),
            topics: Vec::new(),
            index: HashMap::new(),
            last: None,
            open: Epoch::new(0, 1),
            awaiting: VecDeque::new(),
            spare: Vec::new(),
            next_slot: 1,
            verdicts: HashMap::new(),
            window,
            key: Vec::new(),
            value: Vec::new(),
            watch: Watch {
                acknowledged: 0,
                since: Instant::now(),
            },
            copied: records(Stage::Mirror),
            handed: 0,
            exactly_once,
            transaction: FIRST_TRANSACTION,
            stopping_since: None,
        }
    }

    /// Copies until it is told to stop.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let outcome = match self.copy() {
            Err(Halt::Told) if !self.shared.switches.drops() => self.finish(),
            other => other,
        };
        match outcome {
            Ok(()) | Err(Halt::Told) => Ok(()),
            Err(Halt::Broken(error)) => Err(error),
        }
    }

    fn copy(&mut self) -> Result<(), Halt> {
        let source = Arc::clone(&self.source);
        let mut wait = IDLE;
        let mut company_came = true;
        let mut until_look = 0;
        loop {
            if until_look == 0 {
                self.look()?;
                until_look = READ_AT_ONCE;
            }
            until_look -= 1;
            match source.poll(wait) {
                Some(Ok(message)) => {
                    wait = Duration::ZERO;
                    company_came = true;
                    self.carry(&message)?;
                    if self.owes(&message) {
                        until_look = 0;
                    }
                }
                Some(Err(error)) => {
                    self.heed(&error)?;
                    until_look = 0;
                }
                None => {
                    until_look = 0;
                    // Between two fetches there is a moment's nothing: company may still come.
                    wait = if self.open.is_empty() {
                        if self.awaiting.is_empty() {
                            IDLE
                        } else {
                            self.target.poll(Duration::from_millis(1));
                            Duration::from_millis(1)
                        }
                    } else if std::mem::take(&mut company_came) {
                        COMPANY
                    } else {
                        company_came = true;
                        self.close()?;
                        Duration::ZERO
                    };
                }
            }
        }
    }

    /// Whether what was read has to be paid for. What of it was left out crossed a link on the source's side, too.
    fn owes(&mut self, message: &BorrowedMessage<'_>) -> bool {
        if self.most_unpaid == usize::MAX {
            return false;
        }
        self.unpaid += message.key_len() + message.payload_len() + RECORD_OVERHEAD;
        self.unpaid >= self.most_unpaid
    }

    /// Everything that is not a record.
    fn look(&mut self) -> Result<(), Halt> {
        let unpaid = std::mem::take(&mut self.unpaid);
        if unpaid > 0 {
            self.source.pay(unpaid);
            self.target.pay(unpaid);
        }
        loop {
            self.heed_commands()?;
            if self.shared.switches.stops() {
                return Err(Halt::Told);
            }
            self.target.poll(Duration::ZERO);
            self.settle_what_can_be()?;
            self.watch_target();
            if self.positions_at.elapsed() >= POSITIONS_EVERY {
                self.positions_at = Instant::now();
                self.pass_markers();
                self.keep_offsets();
            }
            self.commit(CommitMode::Async)?;
            if self.astray.is_some_and(|due| due <= Instant::now()) {
                let found = self.find_back()?;
                self.astray = (!found).then(|| Instant::now() + settle::TRY_AGAIN);
            }
            if self.open.is_full(&self.window, self.transaction) {
                self.close()?;
            }
            if self.shared.switches.paused() {
                self.settle()?;
                std::thread::sleep(IDLE);
            } else if self.awaiting.len() > MOST_AWAITING
                || self.target.in_flight() > self.window.records
            {
                self.target.poll(Duration::from_millis(2));
            } else if self.has_to_save() {
                // What is open is closed in its time: this is a loop.
                self.target.poll(Duration::from_millis(5));
            } else {
                return Ok(());
            }
        }
    }

    /// Whether this lane has to leave the link to what crossed it already.
    fn has_to_save(&self) -> bool {
        match &self.shared.bandwidth {
            Some(bandwidth) if !self.prompt => !bandwidth.debt(Instant::now()).is_zero(),
            _ => false,
        }
    }

    fn heed_commands(&mut self) -> Result<(), Halt> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Assign(starts)) => self.assign(starts)?,
                Ok(Command::Unassign(gone)) => self.unassign(&gone)?,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn assign(&mut self, starts: Vec<Start>) -> Result<(), Halt> {
        let mut list = Vec::with_capacity(starts.len());
        for start in &starts {
            list.push((start.topic.as_str(), start.partition, start.offset));
        }
        self.source.assign(&list).map_err(anyhow::Error::new)?;
        for start in starts {
            let topic = self.topic_index(&start.topic);
            let at = self.places.len();
            self.places.push(Place {
                topic,
                partition: start.partition,
                state: start.state,
                next: start.offset,
                done: start.offset,
                generation: 0,
                epoch: 0,
                unsettled: 0,
                last_ms: None,
                groups_until: 0,
                alone_until: 0,
                asked_age: None,
                position_holds: true,
                gone: false,
            });
            self.index.insert((start.topic, start.partition), at);
        }
        self.last = None;
        Ok(())
    }

    fn topic_index(&mut self, name: &str) -> usize {
        if let Some(at) = self.topics.iter().position(|topic| &*topic.name == name) {
            return at;
        }
        self.topics.push(Topic {
            name: Arc::from(name),
            dead_letters: Arc::from(format!("{name}.dlq")),
            keys: Ids::default(),
            values: Ids::default(),
            bounds: self.shared.flow.limits.of(name),
            partitions: None,
        });
        self.topics.len() - 1
    }

    fn unassign(&mut self, gone: &[(String, i32)]) -> Result<(), Halt> {
        self.settle()?;
        let of_this_lane = |place: &&(String, i32)| self.index.contains_key(*place);
        let gone: Vec<_> = gone.iter().filter(of_this_lane).cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        if self.exactly_once {
            self.forget_offsets(&gone)?;
        }
        for key in &gone {
            if let Some(at) = self.index.remove(key) {
                self.places[at].gone = true;
                let place = [(key.0.as_str(), key.1, 0)];
                if let Err(error) = self.source.unassign(&place) {
                    tracing::debug!(%error, topic = key.0, "could not unassign");
                }
            }
        }
        self.last = None;
        Ok(())
    }

    fn place_of(&mut self, message: &BorrowedMessage<'_>) -> Option<usize> {
        let topic = message.topic_ptr() as usize;
        let partition = message.partition();
        match self.last {
            Some((known, of, at)) if known == topic && of == partition => Some(at),
            _ => {
                let key = (message.topic().to_owned(), partition);
                let at = *self.index.get(&key)?;
                self.last = Some((topic, partition, at));
                Some(at)
            }
        }
    }

    /// An error that reading met. An outage of the source is told by who looks for topics.
    fn heed(&mut self, error: &KafkaError) -> Result<(), Halt> {
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(Halt::Broken(anyhow::anyhow!(
                "the source's client can't go on: {error}"
            )));
        }
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::PartitionEOF
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve,
            ) => tracing::debug!(%error, "reading from the source"),
            Some(RDKafkaErrorCode::AutoOffsetReset) => {
                tracing::warn!(%error, "reading from the source");
                self.astray = Some(Instant::now());
            }
            _ => tracing::warn!(%error, "reading from the source"),
        }
        Ok(())
    }

    fn watch_target(&mut self) {
        let in_flight = u64::try_from(self.target.in_flight()).unwrap_or(0);
        let acknowledged = self.handed.saturating_sub(in_flight);
        let part = if self.prompt { "prompt" } else { "bulk" };
        if in_flight == 0 || acknowledged != self.watch.acknowledged {
            self.watch = Watch {
                acknowledged,
                since: Instant::now(),
            };
            if self.shared.target_health.has(part) {
                self.shared.target_health.ok(part);
            }
        } else if self.watch.since.elapsed() > SILENT_AFTER {
            self.target_is_silent(part);
        }
    }

    fn target_is_silent(&self, part: &'static str) {
        self.shared.target_health.fail(
            part,
            format!(
                "the target {} has acknowledged nothing for {} s; waiting for it",
                self.shared.target.bootstrap(),
                SILENT_AFTER.as_secs()
            ),
        );
    }

    /// Commits to the source's group what is done: without transactions it is what counts, with them it is for
    /// tools that show a group's lag.
    fn commit(&mut self, mode: CommitMode) -> Result<(), Halt> {
        let sync = matches!(mode, CommitMode::Sync);
        // By time alone: librdkafka answers a commit to a callback of C only, which the client does not set.
        let due = self.commits.at.elapsed() >= self.commits.every;
        if self.commits.dirty.is_empty() || !(sync || due) {
            return Ok(());
        }
        let mut list = Vec::with_capacity(self.commits.dirty.len());
        self.commits.under_way.clear();
        self.commits.under_way.append(&mut self.commits.dirty);
        for at in &self.commits.under_way {
            let place = &self.places[*at];
            if !place.gone {
                let topic = &self.topics[place.topic];
                list.push((&*topic.name, place.partition, place.done));
            }
        }
        if list.is_empty() {
            return Ok(());
        }
        self.commits.at = Instant::now();
        match self.source.commit(&list, &self.commits.note, mode) {
            Ok(()) => {}
            Err(error) => self.heed_commit_error(&error),
        }
        Ok(())
    }

    fn heed_commit_error(&mut self, error: &KafkaError) {
        tracing::warn!(
            %error,
            group = self.shared.flow.name,
            "offsets were not committed at the source; they are committed again"
        );
        let commits = &mut self.commits;
        for at in commits.under_way.drain(..) {
            if !commits.dirty.contains(&at) {
                commits.dirty.push(at);
            }
        }
        // Not at once.
        commits.at = Instant::now() + settle::TRY_AGAIN;
    }

    /// Brokers forget a group's offset some time after its last commit, also that of a topic of which nothing came since.
    fn keep_offsets(&mut self) {
        if self.commits.all_at.elapsed() >= COMMIT_ALL_EVERY {
            self.commits.all_at = Instant::now();
            self.commits.dirty = (0..self.places.len()).collect();
        }
    }

    /// Takes note of what was read beyond the last record: what ends a transaction takes an offset, too, and would else
    /// be shown as a record that waits.
    fn pass_markers(&mut self) {
        let positions = match self.source.positions() {
            Ok(positions) => positions,
            Err(error) => return tracing::debug!(%error, "no positions"),
        };
        for (place, position) in positions {
            let Some(at) = self.index.get(&place) else {
                continue;
            };
            let place = &mut self.places[*at];
            if place.position_holds && place.unsettled == 0 && position > place.next {
                place.next = position;
                place.done = position;
                place.state.is_done(position, None, None);
                if !self.commits.dirty.contains(at) {
                    self.commits.dirty.push(*at);
                }
            }
        }
    }
}
