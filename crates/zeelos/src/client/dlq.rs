use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand, ValueEnum};
use kafka::letters::{Letter, SUFFIX, retried_letters, retry_letters};
use kafka::{Cluster, KafkaArgs, LookAt, Record, SchemaRegistry, list_topics, read_to_end};
use serde_json::{Value, json};

use super::{print, show};

/// Looks after dead letters.
#[derive(Args, Debug)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    action: Action,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List dead-letter topics with their records and reasons
    List,
    /// Show records of a dead-letter topic: reason, where they came from, key and value
    Show {
        /// The topic, with or without .dlq
        topic: String,
        #[command(flatten)]
        selection: Selection,
    },
    /// Send records back to the topics they came from; each is sent back once
    Retry {
        /// The topic, with or without .dlq
        topic: String,
        /// Every record that was not sent back yet
        #[arg(long)]
        all: bool,
        /// Say what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        selection: Selection,
    },
}

/// Which letters.
#[derive(Args, Clone, Debug, Default)]
struct Selection {
    /// Only those with this reason (may be given more than once)
    #[arg(long)]
    reason: Vec<String>,
    /// Only this one, as `dlq show` prints it: PARTITION/OFFSET (may be given more than once)
    #[arg(long, value_name = "PARTITION/OFFSET", value_parser = place)]
    at: Vec<(i32, i64)>,
    /// Only those whose message contains this
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// Those that were sent back too
    #[arg(long)]
    retried: bool,
    /// At most this many, from the earliest on
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

fn place(text: &str) -> Result<(i32, i64), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parsed.ok_or_else(|| format!("'{text}' is not PARTITION/OFFSET"))
}

impl Selection {
    fn names_some(&self) -> bool {
        !self.reason.is_empty() || !self.at.is_empty() || self.message.is_some()
    }

    fn takes(&self, letter: &Letter, retried: bool) -> bool {
        let at = (letter.record.partition, letter.record.offset);
        (self.retried || !retried)
            && (self.reason.is_empty() || self.reason.contains(&letter.reason))
            && (self.at.is_empty() || self.at.contains(&at))
            && self
                .message
                .as_ref()
                .is_none_or(|text| letter.message.contains(text))
    }
}

impl DlqArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let cluster = self.kafka.cluster()?;
        match &self.action {
            Action::List => self.list(&cluster).await,
            Action::Show { topic, selection } => self.show(&cluster, topic, selection).await,
            Action::Retry {
                topic,
                all,
                dry_run,
                selection,
            } => {
                ensure!(
                    *all || selection.names_some(),
                    "which ones? --at PARTITION/OFFSET, --reason REASON, --message TEXT, or --all"
                );
                self.retry(&cluster, topic, selection, *dry_run).await
            }
        }
    }

    async fn list(&self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let topics = list_topics(cluster, CALL_LIMIT).await?;
        let retried = retried_letters(cluster).await?;
        let (mut lines, mut all) = (String::new(), Vec::new());
        for topic in topics.iter().filter(|topic| topic.name.ends_with(SUFFIX)) {
            let name = &topic.name;
            let counts = read(cluster, name, Counts::new(&retried)).await?;
            let reasons: Vec<String> = counts
                .reasons
                .iter()
                .map(|(reason, count)| format!("{reason} {count}"))
                .collect();
            lines.push_str(&format!(
                "{name:<48} {:>9} {:>9}  {}\n",
                counts.records,
                counts.retried,
                reasons.join(", ")
            ));
            all.push(json!({
                "topic": name,
                "records": counts.records,
                "retried": counts.retried,
                "reasons": counts.reasons,
            }));
        }
        match self.output {
            Output::Json => print(format!("{:#}\n", Value::Array(all)).as_bytes()),
            Output::Text if all.is_empty() => print(b"there are no dead letters\n"),
            Output::Text => print(
                format!(
                    "{:<48} {:>9} {:>9}  reasons\n{lines}",
                    "topic", "records", "sent back"
                )
                .as_bytes(),
            ),
        }
    }

    async fn show(
        &self,
        cluster: &Cluster,
        topic: &str,
        selection: &Selection,
    ) -> anyhow::Result<ExitCode> {
        let registry = cluster.registry(&self.kafka.kafka_schema_registry_url)?;
        let retried = retried_letters(cluster).await?;
        let picked = read(
            cluster,
            &with_suffix(topic),
            Picked::new(selection, &retried),
        )
        .await?;
        let mut text = String::new();
        let mut all = Vec::new();
        for letter in &picked.letters {
            let sent_back = retried.contains(&letter.place());
            match self.output {
                Output::Text => text.push_str(&described(&registry, letter, sent_back).await),
                Output::Json => all.push(as_json(&registry, letter, sent_back).await),
            }
        }
        match self.output {
            Output::Json => print(format!("{:#}\n", Value::Array(all)).as_bytes()),
            Output::Text => {
                if picked.more > 0 {
                    text.push_str(&format!("{} more: --limit N shows them\n", picked.more));
                } else if picked.letters.is_empty() {
                    text.push_str("no such dead letters\n");
                }
                print(text.as_bytes())
            }
        }
    }

    async fn retry(
        &self,
        cluster: &Cluster,
        topic: &str,
        selection: &Selection,
        dry_run: bool,
    ) -> anyhow::Result<ExitCode> {
        // What was sent back once is never sent again, whatever was asked for.
        let selection = Selection {
            retried: false,
            ..selection.clone()
        };
        let retried = retried_letters(cluster).await?;
        let topic = with_suffix(topic);
        let picked = read(cluster, &topic, Picked::new(&selection, &retried)).await?;
        let (mut text, mut letters) = (String::new(), Vec::new());
        for letter in &picked.letters {
            let verb = if dry_run { "would go" } else { "goes" };
            text.push_str(&format!(
                "{} {verb} to {} ({})\n",
                letter.place(),
                letter.topic,
                letter.reason
            ));
            letters
                .push(json!({"at": letter.place(), "to": letter.topic, "reason": letter.reason}));
        }
        let outcome = if dry_run {
            kafka::letters::Retried::default()
        } else {
            retry_letters(cluster, &picked.letters).await?
        };
        if self.output == Output::Json {
            let answer = json!({
                "dry_run": dry_run,
                "letters": letters,
                "sent": outcome.sent,
                "empty": outcome.empty,
                "more": picked.more,
                "transactional": outcome.transactional,
            });
            return print(format!("{answer:#}\n").as_bytes());
        }
        if dry_run {
            text.push_str(&format!(
                "{} selected, nothing sent\n",
                picked.letters.len()
            ));
        } else {
            text.push_str(&format!("{} sent back", outcome.sent));
            if outcome.before > 0 {
                text.push_str(&format!(", {} had been sent back before", outcome.before));
            }
            if outcome.empty > 0 {
                text.push_str(&format!(
                    ", {} have no value and stay (their headers say where the record was)",
                    outcome.empty
                ));
            }
            text.push('\n');
        }
        if picked.more > 0 {
            text.push_str(&format!("{} more: --limit N takes them too\n", picked.more));
        }
        print(text.as_bytes())
    }
}

const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The most different reasons that are counted each for itself.
const MOST_REASONS: usize = 50;

fn with_suffix(topic: &str) -> String {
    if topic.ends_with(SUFFIX) {
        topic.to_owned()
    } else {
        format!("{topic}{SUFFIX}")
    }
}

async fn read<L: LookAt + Clone>(cluster: &Cluster, topic: &str, looker: L) -> anyhow::Result<L> {
    read_to_end(cluster, topic, &Default::default(), looker)
        .await
        .map_err(|(_, error)| error)
        .with_context(|| format!("can't read topic '{topic}'"))
}

#[derive(Clone)]
struct Counts {
    marks: HashSet<String>,
    records: u64,
    retried: u64,
    reasons: BTreeMap<String, u64>,
}

impl Counts {
    fn new(marks: &HashSet<String>) -> Self {
        Self {
            marks: marks.clone(),
            records: 0,
            retried: 0,
            reasons: BTreeMap::new(),
        }
    }
}

impl LookAt for Counts {
    fn look(&mut self, record: &Record) {
        let letter = Letter::of(record.clone());
        self.records += 1;
        self.retried += u64::from(self.marks.contains(&letter.place()));
        let room = self.reasons.len() < MOST_REASONS || self.reasons.contains_key(&letter.reason);
        let reason = if room {
            letter.reason
        } else {
            "others".to_owned()
        };
        *self.reasons.entry(reason).or_default() += 1;
    }
}

#[derive(Clone)]
struct Picked {
    selection: Selection,
    marks: HashSet<String>,
    letters: Vec<Letter>,
    /// Selected beyond the limit.
    more: u64,
}

impl Picked {
    fn new(selection: &Selection, marks: &HashSet<String>) -> Self {
        Self {
            selection: selection.clone(),
            marks: marks.clone(),
            letters: Vec::new(),
            more: 0,
        }
    }
}

impl LookAt for Picked {
    fn look(&mut self, record: &Record) {
        let letter = Letter::of(record.clone());
        if !self
            .selection
            .takes(&letter, self.marks.contains(&letter.place()))
        {
            return;
        }
        if self.letters.len() < self.selection.limit as usize {
            self.letters.push(letter);
        } else {
            self.more += 1;
        }
    }
}

async fn described(registry: &SchemaRegistry, letter: &Letter, sent_back: bool) -> String {
    let number = |number: Option<i64>| number.map_or("?".to_owned(), |number| number.to_string());
    let record = &letter.record;
    let back = if sent_back { "   (sent back)" } else { "" };
    let mut text = format!(
        "{}/{}   {}: {}{back}\n    from   {}/{}/{}\n",
        record.partition,
        record.offset,
        letter.reason,
        letter.message,
        letter.topic,
        number(letter.partition.map(i64::from)),
        number(letter.offset),
    );
    for (name, value) in headers(letter) {
        text.push_str(&format!("    header {name}={value}\n"));
    }
    text.push_str(&format!(
        "    key    {}\n    value  {}\n",
        show(registry, record.key.as_deref()).await,
        show(registry, record.value.as_deref()).await
    ));
    text
}

async fn as_json(registry: &SchemaRegistry, letter: &Letter, sent_back: bool) -> Value {
    let record = &letter.record;
    let headers: serde_json::Map<String, Value> = headers(letter)
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect();
    json!({
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "reason": letter.reason,
        "message": letter.message,
        "from": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
        "headers": headers,
        "key": show(registry, record.key.as_deref()).await,
        "value": show(registry, record.value.as_deref()).await,
        "retried": sent_back,
    })
}

/// The headers the record came with.
fn headers(letter: &Letter) -> impl Iterator<Item = (&str, String)> {
    let all = letter.record.headers.iter();
    all.filter(|(name, _)| !name.starts_with("zeelos-dlq-"))
        .map(|(name, value)| {
            let value = value.as_deref().map(String::from_utf8_lossy);
            (name.as_str(), value.unwrap_or_default().into_owned())
        })
}
