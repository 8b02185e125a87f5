use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use kafka::KafkaArgs;
use records::{TopicKind, parse_topic};

/// The options of the analytics worker.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What to compute
    #[arg(value_enum, env = "ANALYTICS_ANALYTIC")]
    pub analytic: Analytic,
    /// The folder for the state; one instance at a time may use it for an analytic
    #[arg(
        long,
        env = "ANALYTICS_DATA_DIR",
        value_name = "FOLDER",
        default_value = "analytics-data"
    )]
    pub data_dir: PathBuf,
    /// The topic of observations, `iot.<gw>.observations`
    #[arg(long, env = "ANALYTICS_INPUT_TOPIC", value_name = "TOPIC")]
    pub input_topic: String,
    /// The topic for maxima (temperature only); where the input is a gateway's, analytics.<gw>.observations.maxper30sec
    #[arg(long, env = "ANALYTICS_OUTPUT_TOPIC", value_name = "TOPIC")]
    pub output_topic: Option<String>,
    /// The windows' size in seconds, 1 to 86,400 (default: aggregate 60, temperature 30)
    #[arg(
        long,
        env = "ANALYTICS_WINDOW_S",
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    pub window: Option<u64>,
    /// How long after its end a window takes late readings, in seconds of the readings' own time, up to 30 days
    #[arg(
        long,
        env = "ANALYTICS_GRACE_S",
        value_name = "SECONDS",
        default_value_t = windows::DEFAULT_GRACE.as_secs(),
        value_parser = clap::value_parser!(u64).range(0..=2_592_000)
    )]
    pub grace: u64,
    /// How far ahead of the clock a reading's time may be before it is skipped, in seconds, up to a day
    #[arg(
        long,
        env = "ANALYTICS_MAX_AHEAD_S",
        value_name = "SECONDS",
        default_value_t = 3_600,
        value_parser = clap::value_parser!(u64).range(0..=86_400)
    )]
    pub max_ahead: u64,
    /// The most windows kept on disk, about 100 bytes each; beyond it the oldest are closed before their grace is over
    #[arg(
        long,
        env = "ANALYTICS_MAX_WINDOWS",
        value_name = "COUNT",
        default_value_t = 5_000_000,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub max_windows: u64,
    /// The consumer group (default: aggregate leshan-simple-analytics, temperature leshan-maxper30sec-analytic)
    #[arg(long, env = "ANALYTICS_GROUP", value_name = "GROUP")]
    pub group: Option<String>,
    #[command(flatten)]
    pub kafka: KafkaArgs,
}

/// The analytics there are (contract, section 8).
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Analytic {
    /// Count readings per endpoint, and per endpoint and path, in windows of a minute; printed
    Aggregate,
    /// The maximum per endpoint and path in windows of 30 seconds, to a topic
    Temperature,
}

impl Analytic {
    fn name(self) -> &'static str {
        match self {
            Self::Aggregate => "aggregate",
            Self::Temperature => "temperature",
        }
    }
}

impl Args {
    /// The size of a window.
    pub fn window(&self) -> Duration {
        let usual = match self.analytic {
            Analytic::Aggregate => 60,
            Analytic::Temperature => 30,
        };
        Duration::from_secs(self.window.unwrap_or(usual))
    }

    /// The consumer group: the original's application ids.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(match self.analytic {
            Analytic::Aggregate => "leshan-simple-analytics",
            Analytic::Temperature => "leshan-maxper30sec-analytic",
        })
    }

    pub(crate) fn settings(&self) -> Result<windows::Settings, windows::SettingsError> {
        // Never more are open in memory than a batch touches; what is kept is bounded by `max_windows`, in the store.
        windows::Settings::new(self.window())?
            .with_grace(Duration::from_secs(self.grace))?
            .with_max_open(usize::MAX)
    }

    pub(crate) fn input_topic(&self) -> anyhow::Result<&str> {
        check_topic("--input-topic", &self.input_topic)?;
        Ok(&self.input_topic)
    }

    pub(crate) fn output_topic(&self) -> anyhow::Result<String> {
        let topic = match (&self.output_topic, parse_topic(&self.input_topic)) {
            (Some(topic), _) => topic.clone(),
            (None, Some((gateway, TopicKind::Observations))) => {
                TopicKind::MaxPer30Sec.topic(&gateway)
            }
            (None, _) => anyhow::bail!(
                "'{}' is no gateway's topic of observations, so --output-topic has to be given",
                self.input_topic
            ),
        };
        check_topic("--output-topic", &topic)?;
        ensure!(
            topic != self.input_topic,
            "--output-topic and --input-topic are both '{topic}': maxima would be read as readings"
        );
        Ok(topic)
    }

    /// Where the state of this input is: offsets and windows mean nothing for another cluster, topic or window size.
    pub(crate) fn state_file(&self, cluster_id: &str) -> PathBuf {
        let cluster: String = cluster_id
            .chars()
            .map(|c| match c {
                'A'..='Z' | 'a'..='z' | '0'..='9' | '-' => c,
                _ => '_',
            })
            .take(100)
            .collect();
        let file = format!("{}-{}s.db", self.analytic.name(), self.window().as_secs());
        Path::new(&self.data_dir)
            .join(format!("cluster-{cluster}"))
            .join(&self.input_topic)
            .join(file)
    }
}

/// Kafka's rule for topic names: it keeps regular expressions out, and makes the name one that a folder may have.
fn check_topic(option: &str, topic: &str) -> anyhow::Result<()> {
    let fits = !topic.is_empty()
        && topic.len() <= 249
        && topic
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !matches!(topic, "." | "..");
    fits.then_some(()).with_context(|| {
        format!("{option} '{topic}' is no topic's name: 1 to 249 letters, digits, '.', '_' and '-'")
    })
}
