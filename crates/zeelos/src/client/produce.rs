use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use kafka::{KafkaArgs, OutRecord, Producer, ProducerSettings, SchemaRegistry, fetch_cluster_id};
use records::{Schema, SchemaId, Schemas, TopicKind, frame, parse_topic, topics};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Produces Avro records from lines of JSON.
#[derive(Args, Debug)]
pub(crate) struct ProduceArgs {
    /// The topic
    #[arg(long)]
    topic: String,
    /// The value's schema as a file (default: the contract's, by the topic's name)
    #[arg(long, value_name = "FILE")]
    value_schema: Option<PathBuf>,
    /// The key's schema as a file; with it a key is Avro JSON, without it text
    #[arg(long, value_name = "FILE")]
    key_schema: Option<PathBuf>,
    /// Lines are a key, this separator, and a value
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    #[command(flatten)]
    kafka: KafkaArgs,
}

impl ProduceArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let registry = self.kafka.registry()?;
        let value = Encoder {
            id: None,
            subject: topics::value_subject(&self.topic),
            schema: self.value_schema()?,
        };
        let cluster = self.kafka.cluster()?;
        // A producer waits for its brokers for ever: a wrong address is told before that.
        fetch_cluster_id(&cluster).await?;
        let producer = Producer::new(&cluster, &ProducerSettings::default())?;
        let key = match &self.key_schema {
            None => None,
            Some(path) => Some(Encoder {
                id: None,
                subject: topics::key_subject(&self.topic),
                schema: read_schema(path)?,
            }),
        };
        let mut run = Run {
            producer,
            registry,
            value,
            key,
            args: self,
        };
        run.lines().await
    }

    fn value_schema(&self) -> anyhow::Result<Schema> {
        if let Some(path) = &self.value_schema {
            return read_schema(path);
        }
        let schemas = Schemas::get();
        match parse_topic(&self.topic) {
            Some((_, TopicKind::ManagementReq)) => Ok(schemas.request.clone()),
            Some((_, TopicKind::ManagementRep)) => Ok(schemas.response.clone()),
            Some((_, TopicKind::Registrations)) => Ok(schemas.registration.clone()),
            Some((_, TopicKind::Observations | TopicKind::MaxPer30Sec)) => {
                Ok(schemas.response_observe.clone())
            }
            None => bail!(
                "'{}' is none of the contract's topics: name its schema with --value-schema FILE",
                self.topic
            ),
        }
    }
}

fn read_schema(path: &PathBuf) -> anyhow::Result<Schema> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("can't read the schema {}", path.display()))?;
    Schema::parse(&text).with_context(|| format!("{}", path.display()))
}

struct Encoder {
    /// Registered with the first record, so that a typing mistake registers nothing.
    id: Option<SchemaId>,
    subject: String,
    schema: Schema,
}

impl Encoder {
    async fn encode(&mut self, registry: &SchemaRegistry, json: &str) -> anyhow::Result<Vec<u8>> {
        let json = serde_json::from_str(json).context("not JSON")?;
        let datum = records::from_avro_json(&json, &self.schema)?;
        let id = match self.id {
            Some(id) => id,
            None => {
                let id = registry.register(&self.subject, self.schema.text()).await?;
                *self.id.insert(SchemaId(id))
            }
        };
        Ok(frame::join(id, &datum))
    }
}

struct Run {
    args: ProduceArgs,
    producer: Producer,
    registry: SchemaRegistry,
    value: Encoder,
    key: Option<Encoder>,
}

impl Run {
    /// A bad line is reported with its number and skipped; the exit code then says so.
    async fn lines(&mut self) -> anyhow::Result<ExitCode> {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut number = 0_u64;
        let mut bad = 0_u64;
        while let Some(line) = lines.next_line().await? {
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            if let Err(error) = self.line(&line).await {
                bad += 1;
                eprintln!("line {number}: {error:#}");
            }
        }
        Ok(if bad == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    async fn line(&mut self, line: &str) -> anyhow::Result<()> {
        let (key, value) = match &self.args.key_separator {
            None => (None, line),
            Some(separator) => {
                let (key, value) = line
                    .split_once(separator.as_str())
                    .with_context(|| format!("no separator '{separator}' after a key"))?;
                (Some(key), value)
            }
        };
        let value = self.value.encode(&self.registry, value).await?;
        let key = match (key, &mut self.key) {
            (None, _) => None,
            (Some(text), None) => Some(text.as_bytes().to_vec()),
            (Some(json), Some(encoder)) => Some(encoder.encode(&self.registry, json).await?),
        };
        let record = OutRecord {
            topic: &self.args.topic,
            key: key.as_deref(),
            value: Some(&value),
            ..OutRecord::default()
        };
        self.producer.send(record).await?.await?;
        Ok(())
    }
}
