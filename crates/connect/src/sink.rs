use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kafka::{DeadLetters, ProcessError, Record, SchemaRegistry};

use crate::{Config, Problem};

/// A kind of connector that a worker can run.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// The value of `connector.class`: the class of the original it stands in for.
    fn class(&self) -> &'static str;

    /// Other names it goes by.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// The keys it knows besides those that every sink has.
    fn keys(&self) -> &'static [Key];

    /// What is wrong with a configuration; nothing when it can be used.
    fn validate(&self, config: &Config) -> Vec<Problem>;

    /// How failures of the database are retried.
    ///
    /// # Errors
    /// A [`Problem`] when the configuration's values can't be used.
    fn retries(&self, config: &Config) -> Result<Retries, Problem>;

    /// Opens what a task writes to.
    ///
    /// # Errors
    /// [`ProcessError::Retry`] while the database is away, [`ProcessError::Fatal`] when waiting mends nothing.
    async fn start_task(&self, task: TaskContext) -> Result<Box<dyn SinkTask>, ProcessError>;
}

/// One of the consumers of a connector.
#[async_trait]
pub trait SinkTask: Send {
    /// Writes a batch, in order per partition; it has to be idempotent, for a batch comes again after a failure or a
    /// crash. A record that can't be written is a dead letter of the task's making, not an error.
    ///
    /// # Errors
    /// [`ProcessError::Retry`] when the same batch is to come again, [`ProcessError::Fatal`] to give up.
    async fn put(&mut self, batch: &[Record]) -> Result<(), ProcessError>;
}

/// A configuration key, for `/connector-plugins/<class>/config/validate` and for what must not be shown.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its default, as text; `None` where it has none.
    pub default: Option<&'static str>,
    /// Whether there has to be a value.
    pub required: bool,
    /// Whether the value must never be shown.
    pub secret: bool,
    /// What it does, in a sentence.
    pub documentation: &'static str,
}

impl Key {
    /// An optional key.
    pub const fn optional(
        name: &'static str,
        default: Option<&'static str>,
        documentation: &'static str,
    ) -> Self {
        Self {
            name,
            default,
            required: false,
            secret: false,
            documentation,
        }
    }

    /// An optional key with a secret value.
    pub const fn secret(name: &'static str, documentation: &'static str) -> Self {
        Self {
            name,
            default: None,
            required: false,
            secret: true,
            documentation,
        }
    }
}

/// How often and how far apart a batch is offered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often; `None`: for ever.
    pub most: Option<u32>,
    /// The first wait; later ones double up to `longest`.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

/// What a task is given.
#[derive(Clone)]
pub struct TaskContext {
    /// The connector's name.
    pub connector: Arc<str>,
    /// Which of its tasks on this worker, from 0.
    pub task: u32,
    /// Its configuration, secrets included.
    pub config: Config,
    /// The registry of its values' schemas: `value.converter.schema.registry.url`, else the worker's.
    pub registry: SchemaRegistry,
    /// Where records go that can't be written.
    pub dead_letters: DeadLetters,
}
