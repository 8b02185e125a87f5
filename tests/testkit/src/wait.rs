use std::time::{Duration, Instant};

use anyhow::bail;

/// How long a probe rests between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Calls `probe` every 50 ms until it answers `Ok`, and returns that.
///
/// The probe's `Err` says what it saw instead; when `timeout` passes, the last one is in the error, so that a failed
/// test tells how far things came. A probe that hangs is cut off at the timeout as well.
pub async fn wait_for<T, P, F>(timeout: Duration, what: &str, mut probe: P) -> anyhow::Result<T>
where
    P: FnMut() -> F,
    F: Future<Output = anyhow::Result<T>>,
{
    let end = Instant::now() + timeout;
    let mut last = None;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            // The probe hung: what it said before is still the best account.
            Err(_) => {}
        }
        // Looked at here as well, since a probe that never waits is never cut off.
        if Instant::now() >= end {
            let seen = last.map_or_else(
                || "the probe gave no answer at all".to_owned(),
                |error| format!("{error:#}"),
            );
            bail!("waited {timeout:?} for {what}; last seen: {seen}");
        }
        tokio::time::sleep(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
    }
}
