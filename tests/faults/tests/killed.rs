//! A minute of kill -9 on real clusters, from a fixed seed.

use std::time::Duration;

use faults::{Settings, run};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_nothing_is_lost_and_no_command_runs_twice() -> anyhow::Result<()> {
    let settings = Settings {
        seed: 5,
        lasting: Duration::from_secs(40),
        devices: 5,
    };
    let verdict = Box::pin(run(settings)).await?;
    println!("{}", verdict.json());
    assert!(verdict.is_good(), "{:#}", verdict.json());
    assert!(
        verdict.acknowledged > 500 && verdict.requests > 100,
        "it means nothing: {:#}",
        verdict.json()
    );
    Ok(())
}
