use std::sync::Arc;
use std::time::Duration;

use kafka::{ConsumeSettings, Process, ProcessError, Record, consume};
use parking_lot::Mutex;
use site::{Kafka, PATIENCE, Running};

/// What one member of a group did, as it told by and by.
pub(crate) type Told = Arc<Mutex<Vec<Vec<String>>>>;

/// A running [`consume`] that tells each batch it is offered, then does as it is told.
pub(crate) struct Member {
    pub(crate) told: Told,
    running: Running,
}

pub(crate) struct Tell<F> {
    pub(crate) told: Told,
    pub(crate) then: F,
}

impl<F, Fut> Process for Tell<F>
where
    F: FnMut(Vec<Record>) -> Fut + Send,
    Fut: Future<Output = Result<(), ProcessError>> + Send,
{
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        self.told.lock().push(batch.iter().map(text).collect());
        (self.then)(batch.to_vec()).await
    }
}

/// `partition:value`
pub(crate) fn text(record: &Record) -> String {
    let value = record.value.as_deref().unwrap_or_default();
    format!("{}:{}", record.partition, String::from_utf8_lossy(value))
}

/// A group and its topics, noticing lost members soon.
pub(crate) fn settings(group: &str, topics: &[&str]) -> ConsumeSettings {
    let mut settings = ConsumeSettings::new(group, topics.iter().map(|&t| t.to_owned()).collect());
    settings.retry_first = Duration::from_millis(100);
    settings.retry_longest = Duration::from_millis(200);
    for (key, value) in [
        ("session.timeout.ms", "2000"),
        ("heartbeat.interval.ms", "300"),
    ] {
        settings.properties.push((key.to_owned(), value.to_owned()));
    }
    settings
}

impl Member {
    pub(crate) fn start<F, Fut>(kafka: &Kafka, settings: ConsumeSettings, then: F) -> Self
    where
        F: FnMut(Vec<Record>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), ProcessError>> + Send + 'static,
    {
        let told = Told::default();
        let mut process = Tell {
            told: Arc::clone(&told),
            then,
        };
        let cluster = kafka.cluster();
        let running = Running::start(|context| async move {
            context.health.set_ready();
            let condition = context.health.condition("flow");
            consume(
                &cluster,
                &settings,
                &mut process,
                &condition,
                &context.shutdown,
            )
            .await
        });
        Self { told, running }
    }

    /// One that takes whatever comes.
    pub(crate) fn content(kafka: &Kafka, settings: ConsumeSettings) -> Self {
        Self::start(kafka, settings, |_| async { Ok(()) })
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.told.lock().concat()
    }

    pub(crate) async fn until(&self, what: &str, enough: impl Fn(&[Vec<String>]) -> bool) {
        let look = async || {
            let told = self.told.lock();
            anyhow::ensure!(enough(&told), "{told:?}");
            Ok(())
        };
        testkit::wait_for(PATIENCE, what, look).await.unwrap();
    }

    pub(crate) async fn has(&self, value: &str) {
        self.until(value, |told| {
            told.iter().flatten().any(|text| text == value)
        })
        .await;
    }

    pub(crate) async fn condition(&self, fails: bool) -> String {
        let look = async || {
            let failing = self.running.context.health.failing();
            anyhow::ensure!(failing.contains_key("flow") == fails, "{failing:?}");
            Ok(failing.get("flow").cloned().unwrap_or_default())
        };
        testkit::wait_for(PATIENCE, "the condition to change", look)
            .await
            .unwrap()
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }

    pub(crate) async fn error(self) -> String {
        self.running.error().await
    }
}
