use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use kafka::{KafkaArgs, delete_topic, ensure_topic, list_topics};

use super::print;

/// Looks after topics.
#[derive(Args, Debug)]
pub(crate) struct TopicsArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List topics with their partitions and records
    List,
    /// Create a topic
    Create {
        topic: String,
        /// How many partitions
        #[arg(long, default_value_t = 1)]
        partitions: i32,
        /// A topic setting such as cleanup.policy=compact; may be given more than once (--config is the file of options)
        #[arg(long, value_name = "KEY=VALUE")]
        topic_config: Vec<String>,
    },
    /// Delete a topic and its records
    Delete { topic: String },
}

impl TopicsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let cluster = self.kafka.cluster()?;
        match &self.action {
            Action::List => {
                let topics = list_topics(&cluster, Duration::from_secs(10)).await?;
                let mut text = format!("{:<48} {:>10} {:>14}\n", "topic", "partitions", "records");
                for topic in topics {
                    let (name, partitions) = (topic.name, topic.partitions);
                    text.push_str(&format!(
                        "{name:<48} {partitions:>10} {:>14}\n",
                        topic.records
                    ));
                }
                return print(text.as_bytes());
            }
            Action::Create {
                topic,
                partitions,
                topic_config,
            } => {
                let mut settings = Vec::new();
                for given in topic_config {
                    let pair = given
                        .split_once('=')
                        .with_context(|| format!("--topic-config '{given}': expected key=value"))?;
                    settings.push(pair);
                }
                anyhow::ensure!(
                    ensure_topic(&cluster, topic, *partitions, &settings).await?,
                    "topic '{topic}' exists already"
                );
            }
            Action::Delete { topic } => delete_topic(&cluster, topic).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
