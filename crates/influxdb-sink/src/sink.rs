use std::collections::BTreeMap;

use async_trait::async_trait;
use connect::{
    Config, ConvertError, Converter, Key, Problem, ProcessError, Record, Retries, Sink, SinkTask,
    TaskContext, dead_letter,
};
use prometheus::{Histogram, IntCounter};
use records::{AvroRecord, Response, ResponseObserve};
use service::metrics::Stage;
use service::tls::Tls;

use crate::http::{HttpWriter, Lines};
use crate::line::{self, Precision};
use crate::point::{Answer, Point, points};
use crate::settings::{self, Defaults, ErrorPolicy, Settings, Target};
use crate::store::Store;

/// The time-series connector, in the place of the original's `InfluxSinkConnector`.
pub struct InfluxSink {
    defaults: Defaults,
}

impl InfluxSink {
    pub(crate) fn new(defaults: Defaults) -> Self {
        Self { defaults }
    }
}

#[async_trait]
impl Sink for InfluxSink {
    fn class(&self) -> &'static str {
        "com.datamountaineer.streamreactor.connect.influx.InfluxSinkConnector"
    }

    fn aliases(&self) -> &'static [&'static str] {
        // The name of the same connector since it moved.
        &["io.lenses.streamreactor.connect.influx.InfluxSinkConnector"]
    }

    fn keys(&self) -> &'static [Key] {
        settings::KEYS
    }

    fn validate(&self, config: &Config) -> Vec<Problem> {
        Settings::parse(config, &self.defaults)
            .err()
            .unwrap_or_default()
    }

    fn retries(&self, config: &Config) -> Result<Retries, Problem> {
        settings::retries(config)
    }

    async fn start_task(&self, task: TaskContext) -> Result<Box<dyn SinkTask>, ProcessError> {
        let settings = Settings::parse(&task.config, &self.defaults).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            ProcessError::Fatal(anyhow::anyhow!("{}", lines.join("; ")))
        })?;
        if settings.errors == ErrorPolicy::Noop {
            tracing::warn!(
                "error.policy is NOOP: values are dropped while the database can't take them"
            );
        }
        let (writer, store) = Writer::open(&settings, &self.defaults.tls).await?;
        Ok(Box::new(InfluxTask {
            converter: Converter::new(task.registry.clone()),
            written: service::metrics::records(Stage::TimeSeries),
            seconds: connect::metrics::write_seconds(store),
            not_finite: connect::metrics::dropped("not_finite"),
            not_mapped: connect::metrics::dropped("not_mapped"),
            noop: connect::metrics::dropped("error_policy_noop"),
            settings,
            writer,
            task,
        }))
    }
}

enum Writer {
    Http(HttpWriter, Precision),
    Store(Store),
}

impl Writer {
    async fn open(settings: &Settings, tls: &Tls) -> Result<(Self, &'static str), ProcessError> {
        let precision = if settings.disambiguate {
            Precision::Nanoseconds
        } else {
            Precision::Milliseconds
        };
        match settings.target.clone() {
            Target::V1 {
                url,
                database,
                retention_policy,
                user,
            } => {
                let policy = retention_policy.as_deref();
                let http = HttpWriter::v1(&url, &database, policy, user, precision, tls)?;
                Ok((Self::Http(http, precision), "influxdb"))
            }
            Target::V2 {
                url,
                bucket,
                organisation,
                token,
            } => {
                let organisation = organisation.as_deref();
                let http = HttpWriter::v2(&url, &bucket, organisation, token, precision, tls)?;
                Ok((Self::Http(http, precision), "influxdb"))
            }
            Target::Sqlite { path, bounds } => {
                let opened = blocking(move || {
                    Store::open(&path, bounds).map_err(|error| {
                        let path = path.display();
                        ProcessError::Retry(format!("can't open the store {path}: {error:#}"))
                    })
                });
                Ok((Self::Store(opened.await?), "sqlite"))
            }
        }
    }
}

/// Runs what blocks off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProcessError> + Send + 'static,
) -> Result<T, ProcessError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(ProcessError::Fatal(error.into())))
}

struct InfluxTask {
    converter: Converter<Answer>,
    settings: Settings,
    writer: Writer,
    task: TaskContext,
    written: IntCounter,
    seconds: Histogram,
    not_finite: IntCounter,
    not_mapped: IntCounter,
    noop: IntCounter,
}

/// Why a record is put aside.
struct Aside {
    reason: &'static str,
    message: String,
}

/// Times beyond these have no place in InfluxDB, which counts nanoseconds in 64 bits.
const EARLIEST_MS: i64 = -9_223_372_036_854;
const LATEST_MS: i64 = 9_223_372_036_853;

#[async_trait]
impl SinkTask for InfluxTask {
    async fn put(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        let mut aside: BTreeMap<usize, Aside> = BTreeMap::new();
        let mut found: Vec<(usize, Vec<Point>)> = Vec::with_capacity(batch.len());
        let mut not_finite = 0;
        for (index, record) in batch.iter().enumerate() {
            let answer = match self.converter.read(record, choose).await {
                Ok(answer) => answer,
                Err(ConvertError::Registry(reason)) => return Err(ProcessError::Retry(reason)),
                Err(ConvertError::Unreadable { reason, message }) => {
                    aside.insert(index, Aside { reason, message });
                    continue;
                }
            };
            let (points, dropped) = points(answer, self.settings.disambiguate);
            not_finite += dropped;
            match points.first() {
                Some(point) if !(EARLIEST_MS..=LATEST_MS).contains(&point.time_ms) => {
                    let message = format!(
                        "the timestamp {} is beyond what the database counts",
                        point.time_ms
                    );
                    let reason = "bad_timestamp";
                    aside.insert(index, Aside { reason, message });
                }
                Some(_) => found.push((index, points)),
                None => {}
            }
        }
        self.write(batch, found, &mut aside).await?;
        // After the write, so that a batch that comes again because the database is away is not put aside again.
        for (index, Aside { reason, message }) in aside {
            dead_letter(&self.task.dead_letters, &batch[index], reason, &message).await?;
        }
        self.not_finite.inc_by(not_finite);
        Ok(())
    }
}

impl InfluxTask {
    async fn write(
        &self,
        batch: &[Record],
        found: Vec<(usize, Vec<Point>)>,
        aside: &mut BTreeMap<usize, Aside>,
    ) -> Result<(), ProcessError> {
        if found.is_empty() {
            return Ok(());
        }
        let timer = self.seconds.start_timer();
        let outcome = match &self.writer {
            Writer::Http(http, precision) => {
                self.write_lines(http, *precision, batch, &found, aside)
                    .await
            }
            Writer::Store(store) => {
                let store = store.clone();
                let mut points = Vec::new();
                let mut not_mapped = 0;
                for (index, of_record) in found {
                    let mapping = self.settings.mappings.of(&batch[index].topic);
                    let (mapped, other): (Vec<Point>, Vec<Point>) = of_record
                        .into_iter()
                        .partition(|point| mapping.field(point).is_some());
                    points.extend(mapped);
                    not_mapped += other.len() as u64;
                }
                let count = points.len() as u64;
                blocking(move || store.write(&points))
                    .await
                    .map(|()| (count, not_mapped))
            }
        };
        timer.observe_duration();
        match outcome {
            Ok((written, not_mapped)) => {
                self.written.inc_by(written);
                self.not_mapped.inc_by(not_mapped);
                Ok(())
            }
            Err(ProcessError::Retry(reason)) if self.settings.errors == ErrorPolicy::Noop => {
                tracing::error!(records = batch.len(), %reason, "left out (error.policy is NOOP)");
                self.noop.inc_by(batch.len() as u64);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// How many points were written, and how many have no field in their mapping.
    async fn write_lines(
        &self,
        http: &HttpWriter,
        precision: Precision,
        batch: &[Record],
        found: &[(usize, Vec<Point>)],
        aside: &mut BTreeMap<usize, Aside>,
    ) -> Result<(u64, u64), ProcessError> {
        let mut records = Vec::with_capacity(found.len());
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        let mut not_mapped = 0;
        for (index, points) in found {
            let mapping = self.settings.mappings.of(&batch[*index].topic);
            let mut text = String::new();
            for point in points {
                if line::push(&mut text, point, mapping, precision) {
                    *counts.entry(*index).or_default() += 1;
                } else {
                    not_mapped += 1;
                }
            }
            if !text.is_empty() {
                records.push(Lines {
                    record: *index,
                    text,
                });
            }
        }
        for rejected in http.write(&records).await? {
            counts.remove(&rejected.record);
            let message = format!("the database refuses it: {}", rejected.reason);
            let reason = "refused_by_database";
            aside.insert(rejected.record, Aside { reason, message });
        }
        Ok((counts.values().sum(), not_mapped))
    }
}

/// A reader for the records of these topics, by the name of the writer's record.
type Reader = Box<dyn Fn(&[u8]) -> Result<Answer, String> + Send + Sync>;

fn choose(writer: &records::Schema) -> Option<Result<Reader, String>> {
    let name = writer.full_name()?;
    if Some(name) == ResponseObserve::schema().full_name() {
        Some(Converter::reader::<ResponseObserve>(
            writer,
            Answer::Notification,
        ))
    } else if Some(name) == Response::schema().full_name() {
        Some(Converter::reader::<Response>(writer, Answer::Reply))
    } else {
        None
    }
}
