use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka::{DeadLetters, Process, ProcessError, ReadError, Record, RecordDecoder};
use records::ResponseObserve;
use service::CancellationToken;
use windows::{Aggregate, Settings, TumblingWindows};

use crate::fold::{Change, Folded, Item, SeriesKey, fold};
use crate::metrics;
use crate::number::Column;
use crate::reading::{Reading, Skip};
use crate::store::{Applied, Position, Store, StoreError, Update};

/// What an analytic makes of readings.
pub(crate) trait Analytic: Send + Sync {
    /// What it keeps for a window.
    type Aggregate: Aggregate<Input: Send> + Column + Clone + Send + Sync + 'static;

    /// What a reading contributes, and to which keys.
    fn items(
        &self,
        reading: usize,
        observed: &Observed,
        items: &mut Vec<Item<<Self::Aggregate as Aggregate>::Input>>,
    );

    /// Puts out the results; when it returns they are safe, and only then is the state written.
    fn emit(
        &mut self,
        observed: &[Observed],
        changes: &[Change<Self::Aggregate>],
    ) -> impl Future<Output = Result<Emitted, ProcessError>> + Send;
}

/// A notification that counts.
pub(crate) struct Observed {
    pub(crate) reading: Reading,
    pub(crate) record: ResponseObserve,
    /// The Kafka timestamp of a result it brings: the reading's time, and not later than a broker has taken already.
    pub(crate) result_timestamp_ms: i64,
}

/// What became of results.
#[derive(Debug, Default)]
pub(crate) struct Emitted {
    /// Results that no broker takes.
    pub(crate) too_large: u64,
}

/// The processor of the consume loop. One batch at a time: decode, take into the windows, put out the results, and write windows and offsets in one
/// transaction. Until that last step nothing has changed, so whatever fails before it can be done again; from then on
/// the records are known by their offsets and passed over when they are delivered again.
pub(crate) struct Worker<A: Analytic> {
    analytic: A,
    settings: Settings,
    /// How far ahead of the clocks a reading's time is believed.
    max_ahead: Duration,
    decoder: RecordDecoder<ResponseObserve>,
    dead_letters: DeadLetters,
    store: Arc<Mutex<Store>>,
    positions: BTreeMap<i32, Position>,
    /// A batch whose results are out and whose state could not be written (the disk is full).
    unwritten: Option<Ready<A::Aggregate>>,
    shutdown: CancellationToken,
}

/// A batch whose results are out.
struct Ready<A> {
    decoded: Decoded,
    updates: Arc<Vec<Update<A>>>,
    late: u64,
    emitted: Emitted,
}

/// A batch as far as it can be understood without the windows.
#[derive(Default)]
struct Decoded {
    ends: Option<Ends>,
    observed: Vec<Observed>,
    /// Which of `observed` came from which partition, in order.
    by_partition: BTreeMap<i32, Vec<usize>>,
    /// The offset after the last record of each partition.
    next_offsets: BTreeMap<i32, i64>,
    skipped: BTreeMap<Skip, u64>,
    /// The place in the batch, and why.
    bad: Vec<(usize, &'static str, String)>,
}

/// The positions of a batch's first and last record: what tells one batch from another.
type Ends = [(i32, i64); 2];

fn ends(batch: &[Record]) -> Option<Ends> {
    let (first, last) = (batch.first()?, batch.last()?);
    Some([first, last].map(|record| (record.partition, record.offset)))
}

impl<A: Analytic> Worker<A> {
    pub(crate) fn new(
        analytic: A,
        settings: Settings,
        max_ahead: Duration,
        decoder: RecordDecoder<ResponseObserve>,
        dead_letters: DeadLetters,
        store: Store,
        shutdown: CancellationToken,
    ) -> Result<Self, StoreError> {
        let positions = store.positions()?;
        Ok(Self {
            analytic,
            settings,
            max_ahead,
            decoder,
            dead_letters,
            store: Arc::new(Mutex::new(store)),
            positions,
            unwritten: None,
            shutdown,
        })
    }

    async fn work(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        // Offered again: its results are not put out a second time.
        let ready = match self.unwritten.take() {
            Some(ready) if ready.decoded.ends == ends(batch) => ready,
            _ => {
                let decoded = self.decode(batch).await?;
                if decoded.next_offsets.is_empty() {
                    return Ok(());
                }
                self.put_out(batch, decoded).await?
            }
        };
        let updates = Arc::clone(&ready.updates);
        match self.with_store(move |store| store.apply(&updates)).await {
            Ok(applied) => {
                count(&ready, &applied);
                self.positions = applied.positions;
                Ok(())
            }
            Err(error) => {
                self.unwritten = Some(ready);
                Err(error)
            }
        }
    }

    async fn put_out(
        &mut self,
        batch: &[Record],
        decoded: Decoded,
    ) -> Result<Ready<A::Aggregate>, ProcessError> {
        let mut late = 0;
        let mut changes = Vec::new();
        let mut updates = Vec::new();
        for (partition, folded) in self.fold(&decoded).await? {
            late += folded.late;
            let windows = folded
                .changes
                .iter()
                .map(|c| (c.key.clone(), c.window.start_ms, c.aggregate.clone()));
            updates.push(Update {
                partition,
                position: Position {
                    next_offset: decoded.next_offsets[&partition],
                    progress: folded.progress,
                },
                windows: windows.collect(),
            });
            changes.extend(folded.changes);
        }
        let emitted = self.analytic.emit(&decoded.observed, &changes).await?;
        for (at, reason, message) in &decoded.bad {
            self.dead_letters
                .put(&batch[*at], reason, message)
                .await
                .map_err(|error| ProcessError::Retry(error.to_string()))?;
        }
        Ok(Ready {
            decoded,
            updates: Arc::new(updates),
            late,
            emitted,
        })
    }

    async fn decode(&mut self, batch: &[Record]) -> Result<Decoded, ProcessError> {
        let now_ms = service::now_ms();
        let ahead_ms = i64::try_from(self.max_ahead.as_millis()).unwrap_or(i64::MAX);
        let mut decoded = Decoded {
            ends: ends(batch),
            ..Decoded::default()
        };
        for (at, record) in batch.iter().enumerate() {
            let next = decoded.next_offsets.get(&record.partition).copied();
            let next = next.or(self.positions.get(&record.partition).map(|p| p.next_offset));
            // Delivered again: the windows have it already.
            if next.is_some_and(|next| record.offset < next) {
                continue;
            }
            decoded
                .next_offsets
                .insert(record.partition, record.offset.saturating_add(1));
            let Some(value) = &record.value else {
                *decoded.skipped.entry(Skip::NoValue).or_default() += 1;
                continue;
            };
            let observe = match self.decoder.decode(value).await {
                Ok(observe) => observe,
                Err(ReadError::Away(error)) => return Err(ProcessError::Retry(error.to_string())),
                Err(ReadError::Bad { reason, message }) => {
                    decoded.bad.push((at, reason, message));
                    continue;
                }
            };
            // A gateway without a clock of its own may wake up in the past: what its producers' clock said counts too.
            let clock_ms = now_ms.max(record.timestamp_ms.unwrap_or(now_ms));
            match Reading::parse(&observe, clock_ms.saturating_add(ahead_ms)) {
                Ok(reading) => {
                    let readings = decoded.by_partition.entry(record.partition).or_default();
                    readings.push(decoded.observed.len());
                    let taken_ms = record.timestamp_ms.filter(|ms| *ms >= 0);
                    decoded.observed.push(Observed {
                        result_timestamp_ms: taken_ms
                            .map_or(reading.timestamp_ms, |ms| ms.min(reading.timestamp_ms)),
                        reading,
                        record: observe,
                    });
                }
                Err(skip) => *decoded.skipped.entry(skip).or_default() += 1,
            }
        }
        Ok(decoded)
    }

    async fn fold(
        &self,
        decoded: &Decoded,
    ) -> Result<Vec<(i32, Folded<A::Aggregate>)>, ProcessError> {
        let mut work = Vec::new();
        for partition in decoded.next_offsets.keys() {
            let mut items = Vec::new();
            for reading in decoded.by_partition.get(partition).into_iter().flatten() {
                let observed = &decoded.observed[*reading];
                self.analytic.items(*reading, observed, &mut items);
            }
            let position = self.positions.get(partition);
            let progress = position.map_or_else(Default::default, |p| p.progress);
            work.push((*partition, progress, items));
        }
        let settings = self.settings;
        self.with_store(move |store| {
            let calendar = TumblingWindows::<(), A::Aggregate>::new(settings);
            let mut all = Vec::with_capacity(work.len());
            for (partition, progress, items) in work {
                let wanted: BTreeSet<(i64, SeriesKey)> = items
                    .iter()
                    .map(|item| {
                        let start_ms = calendar.window_at(item.timestamp_ms).start_ms;
                        (start_ms, item.key.clone())
                    })
                    .collect();
                let known = store.load(partition, wanted)?;
                let folded = fold(settings, progress, known, items)
                    .map_err(|error| WorkError::Windows(error.to_string()))?;
                all.push((partition, folded));
            }
            Ok::<_, WorkError>(all)
        })
        .await
    }

    /// Runs with the store off the runtime's threads.
    async fn with_store<T, E>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, ProcessError>
    where
        T: Send + 'static,
        E: Into<WorkError> + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match done.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(match error.into() {
                WorkError::Store(error) if error.may_pass() => {
                    ProcessError::Retry(error.to_string())
                }
                error => ProcessError::Fatal(error.into()),
            }),
            Err(panicked) => Err(ProcessError::Fatal(panicked.into())),
        }
    }
}

impl<A: Analytic> Process for Worker<A> {
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            biased;
            done = self.work(batch) => done,
            // Brokers that are away would hold the batch, and with it the shutdown, for as long as they like.
            () = shutdown.cancelled() => Err(ProcessError::Retry("told to stop".to_owned())),
        }
    }
}

fn count<A>(ready: &Ready<A>, applied: &Applied) {
    for (skip, count) in &ready.decoded.skipped {
        metrics::skipped(*skip).inc_by(*count);
    }
    let too_large = ready.emitted.too_large;
    if too_large > 0 {
        metrics::skipped(Skip::TooLarge).inc_by(too_large);
        tracing::warn!(
            count = too_large,
            "results dropped: larger than the brokers take (max.message.bytes)"
        );
    }
    metrics::LATE.inc_by(ready.late);
    metrics::WINDOWS.set(i64::try_from(applied.windows).unwrap_or(i64::MAX));
    if applied.closed_early > 0 {
        metrics::CLOSED_EARLY.inc_by(applied.closed_early);
        tracing::warn!(
            count = applied.closed_early,
            "the oldest windows are closed before their grace is over: --max-windows is reached"
        );
    }
}

#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Windows(String),
}

#[cfg(test)]
mod tests {
    use kafka::{Producer, ProducerSettings, RecordEncoder};
    use records::{
        AvroResource, ReadContent, RequestKind, ResourceKind, ResourceType, ResourceValue,
        ResponseBody, ResponseCode, ResponsePayload,
    };
    use std::io::Write;

    use super::*;
    use crate::aggregate::Aggregate;

    #[derive(Clone, Default)]
    struct Console(Arc<Mutex<Vec<u8>>>);

    impl Console {
        fn lines(&self) -> usize {
            let text = self.0.lock().unwrap();
            text.iter().filter(|byte| **byte == b'\n').count()
        }
    }

    impl Write for Console {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn observation(ep: String) -> ResponseObserve {
        let path = "/3303/0/5700".to_owned();
        ResponseObserve {
            ticket: "ticket#1".to_owned(),
            observation_id: "0a".to_owned(),
            server_id: "demo".to_owned(),
            ep,
            path: path.clone(),
            timestamp: 1_700_000_040_000,
            rep: ResponsePayload {
                code: ResponseCode::Content,
                kind: RequestKind::Observe,
                body: Some(ResponseBody::Read(ReadContent::Resource(AvroResource {
                    id: 5700,
                    path,
                    kind: ResourceKind::SingleResource,
                    r#type: ResourceType::Float,
                    value: ResourceValue::Double(21.5),
                }))),
            },
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_holds_the_batch_and_does_not_print_it_twice() {
        let site = site::Site::start().await;
        let folder = site.folder();
        let client = site.registry.client();
        let cluster = site.cluster();
        let producer = Producer::new(&cluster, &ProducerSettings::default()).unwrap();

        let console = Console::default();
        let store = Store::open(&folder.join("state.db"), 60_000, 1_000).unwrap();
        let mut worker = Worker::new(
            Aggregate::new(console.clone()),
            Settings::new(Duration::from_secs(60)).unwrap(),
            Duration::from_secs(3_600),
            RecordDecoder::new(client.clone()),
            DeadLetters::new(producer),
            store,
            CancellationToken::new(),
        )
        .unwrap();
        let encoder = RecordEncoder::new(client);
        let mut batch = Vec::new();
        for offset in 0..40 {
            // Rows too large for the pages there are.
            let observation = observation(format!("{offset}{}", "x".repeat(1_000)));
            batch.push(Record {
                topic: Arc::from("iot.demo.observations"),
                partition: 0,
                offset,
                timestamp_ms: None,
                appended: false,
                key: None,
                value: Some(encoder.value("t", &observation).await.unwrap()),
                headers: Vec::new(),
            });
        }

        worker.store.lock().unwrap().limit_pages(Some(1));
        for _ in 0..2 {
            let error = worker.process(&batch).await.unwrap_err();
            assert!(matches!(error, ProcessError::Retry(_)), "{error}");
            assert!(error.to_string().contains("is the disk full?"), "{error}");
            assert_eq!(console.lines(), 80);
        }
        worker.store.lock().unwrap().limit_pages(None);
        worker.process(&batch).await.unwrap();
        assert_eq!(console.lines(), 80);
        assert_eq!(worker.store.lock().unwrap().window_count(), 80);
        assert_eq!(worker.positions[&0].next_offset, 40);
        // All of it is known from now on.
        worker.process(&batch).await.unwrap();
        assert_eq!(console.lines(), 80);
    }
}
