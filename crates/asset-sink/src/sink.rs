use std::time::Duration;

use async_trait::async_trait;
use connect::{
    Config, ConvertError, Converter, Key, Problem, ProcessError, Record, Retries, Sink, SinkTask,
    TaskContext, dead_letter,
};
use prometheus::{Histogram, IntCounter};
use records::{AvroRecord as _, RegistrationResponse};
use service::metrics::Stage;

use crate::change::{Change, fold};
use crate::graph::{Applied, Graph, GraphError};
use crate::models;
use crate::settings::{self, Defaults, Target};

/// The asset connector, in the place of the original's `LeshanSinkAssetConnector`.
pub struct AssetSink {
    defaults: Defaults,
}

impl AssetSink {
    pub(crate) fn new(defaults: Defaults) -> Self {
        Self { defaults }
    }
}

#[async_trait]
impl Sink for AssetSink {
    fn class(&self) -> &'static str {
        "io.zeelos.leshan.kafka.connect.sink.asset.LeshanSinkAssetConnector"
    }

    fn keys(&self) -> &'static [Key] {
        settings::KEYS
    }

    fn validate(&self, config: &Config) -> Vec<Problem> {
        Target::from_config(config, &self.defaults)
            .err()
            .into_iter()
            .collect()
    }

    fn retries(&self, config: &Config) -> Result<Retries, Problem> {
        settings::retries(config)
    }

    async fn start_task(&self, task: TaskContext) -> Result<Box<dyn SinkTask>, ProcessError> {
        let target = Target::from_config(&task.config, &self.defaults)
            .map_err(|problem| ProcessError::Fatal(anyhow::anyhow!("{problem}")))?;
        let graph = Graph::open(&target).await?;
        let loaded = models::load_missing(&graph).await?;
        if loaded.objects > 0 {
            let models::Loaded { objects, resources } = loaded;
            tracing::info!(
                objects,
                resources,
                "loaded models that the graph did not have"
            );
        }
        Ok(Box::new(AssetTask {
            converter: Converter::new(task.registry.clone()),
            applied: service::metrics::records(Stage::Graph),
            seconds: connect::metrics::write_seconds(graph.kind()),
            unknown_endpoint: connect::metrics::dropped("unknown_endpoint"),
            unknown_object: connect::metrics::dropped("unknown_object"),
            graph,
            task,
        }))
    }
}

struct AssetTask {
    converter: Converter<RegistrationResponse>,
    graph: Graph,
    task: TaskContext,
    applied: IntCounter,
    seconds: Histogram,
    unknown_endpoint: IntCounter,
    unknown_object: IntCounter,
}

/// How many endpoints are written in one transaction.
const ENDPOINTS_AT_ONCE: usize = 50;
/// How often a transaction that met another's is tried again before the batch is.
const CONFLICTS: u32 = 20;

#[async_trait]
impl SinkTask for AssetTask {
    async fn put(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        let mut aside: Vec<(usize, &'static str, String)> = Vec::new();
        let mut events = Vec::with_capacity(batch.len());
        for (index, record) in batch.iter().enumerate() {
            match self.converter.read(record, choose).await {
                Ok(event) => events.push((index, event)),
                Err(ConvertError::Registry(reason)) => return Err(ProcessError::Retry(reason)),
                Err(ConvertError::Unreadable { reason, message }) => {
                    aside.push((index, reason, message));
                }
            }
        }
        let changes = fold(events);
        for part in changes.chunks(ENDPOINTS_AT_ONCE) {
            self.write(part, &mut aside).await?;
        }
        // After the write, so that a batch that comes again because the graph is away is not put aside again.
        aside.sort_by_key(|(index, ..)| *index);
        for (index, reason, message) in aside {
            dead_letter(&self.task.dead_letters, &batch[index], reason, &message).await?;
        }
        Ok(())
    }
}

impl AssetTask {
    /// Writes changes together; where the graph refuses, halves them until the endpoint at fault is known.
    async fn write(
        &self,
        changes: &[Change],
        aside: &mut Vec<(usize, &'static str, String)>,
    ) -> Result<(), ProcessError> {
        let mut open = vec![changes];
        while let Some(part) = open.pop() {
            match (self.apply(part).await, part) {
                (Ok(applied), _) => {
                    let events: usize = part.iter().map(|change| change.records.len()).sum();
                    self.applied.inc_by(events as u64);
                    self.unknown_endpoint
                        .inc_by(applied.unknown_endpoints as u64);
                    self.unknown_object.inc_by(applied.unknown_objects as u64);
                }
                (Err(GraphError::Refused(reason)), [only]) => {
                    let reason = format!("the graph refuses it: {reason}");
                    for record in &only.records {
                        aside.push((*record, "refused_by_database", reason.clone()));
                    }
                }
                (Err(GraphError::Refused(_)), _) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    open.push(second);
                    open.push(first);
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn apply(&self, changes: &[Change]) -> Result<Applied, GraphError> {
        let mut conflicts = 0;
        loop {
            let timer = self.seconds.start_timer();
            let outcome = self.graph.apply(changes).await;
            timer.observe_duration();
            match outcome {
                Err(GraphError::Conflict(_)) if conflicts < CONFLICTS => {
                    conflicts += 1;
                    tokio::time::sleep(Duration::from_millis(10) * conflicts).await;
                }
                other => return other,
            }
        }
    }
}

/// A reader for registration events, by the name of the writer's record.
type Reader = Box<dyn Fn(&[u8]) -> Result<RegistrationResponse, String> + Send + Sync>;

fn choose(writer: &records::Schema) -> Option<Result<Reader, String>> {
    let ours = RegistrationResponse::schema().full_name();
    (writer.full_name() == ours)
        .then(|| Converter::reader::<RegistrationResponse>(writer, |event| event))
}
