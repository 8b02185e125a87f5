use anyhow::anyhow;
use service::Context;
use testkit::wait_for;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PATIENCE;

/// A service in a task of this process.
pub struct Running {
    task: JoinHandle<anyhow::Result<()>>,
    pub context: Context,
}

impl Running {
    /// Runs what `service` makes of a context of its own.
    pub fn start<F>(service: impl FnOnce(Context) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let context = Context::detached();
        Self {
            task: tokio::spawn(service(context.clone())),
            context,
        }
    }

    /// The same with a context that the service has been bound with.
    pub fn with(
        context: Context,
        service: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> Self {
        Self {
            task: tokio::spawn(service),
            context,
        }
    }

    /// As SIGTERM does; it must end without an error.
    pub async fn stop(self) {
        self.context.shutdown.cancel();
        self.ended().await.unwrap();
    }

    /// As kill -9 does: nothing is finished, nothing committed.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// The service's own.
    pub async fn ended(self) -> anyhow::Result<()> {
        let ended = timeout(PATIENCE, self.task).await;
        ended.expect("the service ends").unwrap()
    }

    /// Why it ended by itself.
    pub async fn error(self) -> String {
        format!("{:#}", self.ended().await.unwrap_err())
    }

    /// Waits until the condition fails, and tells why.
    pub async fn fails(&self, condition: &str) -> String {
        let look = async || {
            let failing = self.context.health.failing();
            let why = failing.get(condition).cloned();
            why.ok_or_else(|| anyhow!("failing: {failing:?}"))
        };
        let what = format!("the condition '{condition}' to fail");
        wait_for(PATIENCE, &what, look).await.unwrap()
    }

    /// Waits until no condition fails.
    pub async fn is_well(&self) {
        let look = async || {
            let failing = self.context.health.failing();
            anyhow::ensure!(failing.is_empty(), "failing: {failing:?}");
            Ok(())
        };
        wait_for(PATIENCE, "the service to be ready", look)
            .await
            .unwrap();
    }
}
