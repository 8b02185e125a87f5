use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use kafka::{KafkaArgs, Record, SchemaRegistry, StartAt, TopicReader};
use records::{SchemaId, TopicKind, frame, parse_topic, windowed};

/// Prints records as Avro JSON.
#[derive(Args, Debug)]
pub(crate) struct ConsumeArgs {
    /// The topic
    #[arg(long)]
    topic: String,
    /// Start at the earliest record there is
    #[arg(long)]
    from_beginning: bool,
    /// Stop after this many records
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// Print keys too, before a tab
    #[arg(long)]
    print_key: bool,
    /// Print the partition, offset, timestamp and headers too
    #[arg(long)]
    print_meta: bool,
    #[command(flatten)]
    kafka: KafkaArgs,
}

impl ConsumeArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let registry = self.kafka.registry()?;
        let start = if self.from_beginning {
            StartAt::Beginning
        } else {
            StartAt::End
        };
        let mut reader = TopicReader::open(&self.kafka.cluster()?, &self.topic, start).await?;
        let windowed_keys = matches!(parse_topic(&self.topic), Some((_, TopicKind::MaxPer30Sec)));
        let mut left = self.max_messages.unwrap_or(u64::MAX);
        while left > 0 {
            let record = reader.next().await;
            let line = self.line(&registry, &record, windowed_keys).await;
            // A reader that went away (a closed pipe) is the end, not an error.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                break;
            }
            left -= 1;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn line(
        &self,
        registry: &SchemaRegistry,
        record: &Record,
        windowed_keys: bool,
    ) -> String {
        let mut line = String::new();
        if self.print_meta {
            line.push_str(&format!(
                "{}/{} {}",
                record.partition,
                record.offset,
                record.timestamp_ms.unwrap_or(-1)
            ));
            for (name, value) in &record.headers {
                let value = value
                    .as_deref()
                    .map_or("null".into(), String::from_utf8_lossy);
                line.push_str(&format!(" {name}={value}"));
            }
            line.push('\t');
        }
        if self.print_key {
            let key = record.key.as_deref();
            match key.map(windowed::decode) {
                Some(Ok((key, start_ms))) if windowed_keys => {
                    line.push_str(&format!("{}@{start_ms}", show(registry, Some(key)).await));
                }
                _ => line.push_str(&show(registry, key).await),
            }
            line.push('\t');
        }
        line.push_str(&show(registry, record.value.as_deref()).await);
        line
    }
}

/// What can't be read is printed as what it is, so that nothing stops the listing.
pub(super) async fn show(registry: &SchemaRegistry, bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else {
        return "null".to_owned();
    };
    let Ok((SchemaId(id), datum)) = frame::split(bytes) else {
        return String::from_utf8_lossy(bytes).into_owned();
    };
    match registry.schema(id).await {
        Err(error) => format!("<{} bytes: {error}>", bytes.len()),
        Ok(writer) => match records::to_avro_json_text(datum, &writer.schema) {
            Ok(text) => text,
            Err(error) => format!("<{} bytes: {error}>", bytes.len()),
        },
    }
}
