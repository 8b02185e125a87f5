use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use kafka::ProcessError;
use prometheus::IntCounter;
use service::metrics::{Stage, records};
use windows::Count;

use crate::fold::{Change, Item, SeriesKey};
use crate::worker::{Analytic, Emitted, Observed};

/// Counts per endpoint and per endpoint and path, printed.
pub(crate) struct Aggregate<W> {
    output: Arc<Mutex<W>>,
    passed: IntCounter,
}

impl<W: Write + Send + 'static> Aggregate<W> {
    pub(crate) fn new(output: W) -> Self {
        Self {
            output: Arc::new(Mutex::new(output)),
            passed: records(Stage::Analytics),
        }
    }
}

impl<W: Write + Send + 'static> Analytic for Aggregate<W> {
    type Aggregate = Count;

    fn items(&self, reading: usize, observed: &Observed, items: &mut Vec<Item<()>>) {
        let ep = &observed.reading.ep;
        for path in ["", &observed.reading.path] {
            items.push(Item {
                reading,
                key: SeriesKey {
                    ep: ep.clone(),
                    path: path.to_owned(),
                },
                timestamp_ms: observed.reading.timestamp_ms,
                input: (),
            });
        }
    }

    /// One line for each window that changed, with its latest count: a busy minute is not a line for each reading.
    async fn emit(
        &mut self,
        _observed: &[Observed],
        changes: &[Change<Count>],
    ) -> Result<Emitted, ProcessError> {
        let mut seen = HashSet::new();
        let mut lines: Vec<String> = changes
            .iter()
            .rev()
            .filter(|change| seen.insert((&change.key, change.window)))
            .map(line)
            .collect();
        lines.reverse();
        if lines.is_empty() {
            return Ok(Emitted::default());
        }
        let printed = lines.len() as u64;
        let output = Arc::clone(&self.output);
        // A console that is not read blocks its writers, so off the runtime's threads.
        let written = tokio::task::spawn_blocking(move || print(&output, &lines)).await;
        written
            .map_err(|panicked| ProcessError::Fatal(panicked.into()))?
            .map_err(|error| {
                ProcessError::Fatal(anyhow::anyhow!("can't print on standard output: {error}"))
            })?;
        self.passed.inc_by(printed);
        Ok(Emitted::default())
    }
}

fn print(output: &Mutex<impl Write>, lines: &[String]) -> io::Result<()> {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.write_all(lines.concat().as_bytes())?;
    output.flush()
}

/// `[ep@start/end], n` or `[ep:path@start/end], n`: as Kafka Streams shows a windowed key.
fn line(change: &Change<Count>) -> String {
    let SeriesKey { ep, path } = &change.key;
    let colon = if path.is_empty() { "" } else { ":" };
    format!(
        "[{}{colon}{}@{}/{}], {}\n",
        printable(ep),
        printable(path),
        change.window.start_ms,
        change.window.end_ms,
        change.aggregate.0
    )
}

/// A name with its control characters escaped: a device must not be able to write to the operator's terminal.
fn printable(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}
