//! The long run of `make soak`: MINUTES of faults from a SEED, then RECORDS piled up behind a link that is away.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use faults::{Settings, catch_up, run};
use serde_json::json;

/// A number from the environment.
fn setting(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .with_context(|| format!("{name} is to be a whole number, not '{text}'")),
        _ => Ok(default),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings {
        seed: setting("SEED", rand::random::<u32>().into())?,
        lasting: Duration::from_secs(60 * setting("MINUTES", 10)?),
        devices: usize::try_from(setting("DEVICES", 10)?)?,
    };
    let records = setting("RECORDS", 5_000_000)?;
    println!("seed {} for {:?}", settings.seed, settings.lasting);
    let verdict = Box::pin(run(settings)).await?;
    println!("{}", verdict.json());
    let caught_up = Box::pin(catch_up(records)).await?;
    println!(
        "{}",
        json!({"faults": verdict.json(), "offline": caught_up})
    );
    ensure!(verdict.is_good(), "{} kinds of fault", verdict.faults.len());
    Ok(())
}
