//! Our server, with its events produced to Kafka.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bench::{Fleet, Gateway, Outcome, Pace, Work};

use crate::{Cpu, Memory, PATH, Sizes, WINDOW, observed, said};

const WHO: &str = "ours";

/// CPU per operation of a server that has been at work for a while.
pub(crate) async fn cpu(program: &Path, sizes: Sizes) -> anyhow::Result<Cpu> {
    let mut site = Gateway::start(program, &[]).await?;
    let devices = sizes.warm_up + sizes.registrations;
    let mut fleet = Fleet::new(site.coap(), "cpu-", devices)?;
    let warm = sizes.warm_up;
    let go = Pace::window(WINDOW);
    fleet
        .run(Work::Register, 0..warm, warm, go)?
        .whole("warming up")?;
    let register = measured(&mut site, "registrations", || {
        fleet.run(Work::Register, warm..devices, devices - warm, go)
    })?;
    let update = measured(&mut site, "updates", || {
        fleet.run(Work::Update, warm..devices, devices - warm, go)
    })?;
    let mut fleet = observed(
        fleet,
        sizes.observed,
        site.observe(PATH, "cpu-", sizes.observed),
    )
    .await?;
    let (registered, notified) = site.records().await?;
    ensure!(
        registered == (devices + sizes.registrations) as u64,
        "Kafka has {registered} registration events"
    );
    let observed = 0..sizes.observed;
    let warming = sizes.warming_notifications;
    fleet
        .run(Work::Notify, observed.clone(), warming, go)?
        .whole("warming up")?;
    let notify = measured(&mut site, "confirmable notifications", || {
        fleet.run(Work::Notify, observed, sizes.notifications, go)
    })?;
    let all = (warming + sizes.notifications) as u64;
    site.await_records(registered, notified + all).await?;
    Ok(Cpu {
        register,
        update,
        notify,
    })
}

/// Memory with so many registrations, then over a long run of notifications, and the way back after a crash.
pub(crate) async fn memory(program: &Path, sizes: Sizes) -> anyhow::Result<Memory> {
    let mut site = Gateway::start(program, &[]).await?;
    println!(
        "{WHO}: {:.1} MB resident at start",
        site.server.usage()?.rss_mb()
    );
    let [few, many] = sizes.memory;
    let mut fleet = Fleet::new(site.coap(), "memory-", many)?;
    let mut memory = Memory::default();
    let mut from = 0;
    for (at, until) in [few, many].into_iter().enumerate() {
        let outcome = fleet
            .run(
                Work::Register,
                from..until,
                until - from,
                Pace::window(WINDOW),
            )?
            .whole("registering")?;
        said(WHO, "registrations", &outcome);
        site.await_records(until as u64, 0).await?;
        let usage = site.server.usage()?;
        memory.0[at] = usage.rss_mb();
        println!(
            "{WHO}: {:.1} MB resident with {until} registrations (peak {:.1} MB)",
            usage.rss_mb(),
            usage.rss_peak as f64 / 1e6
        );
        from = until;
    }
    let mut fleet = observed(
        fleet,
        sizes.observed,
        site.observe(PATH, "memory-", sizes.observed),
    )
    .await?;
    let tenth = sizes.long_run / 10;
    let mut resident = Vec::new();
    for _ in 0..10 {
        fleet
            .run(Work::Notify, 0..sizes.observed, tenth, Pace::window(WINDOW))?
            .whole("notifying")?;
        resident.push(site.server.usage()?.rss_mb());
    }
    let shown: Vec<String> = resident.iter().map(|mb| format!("{mb:.0}")).collect();
    println!(
        "{WHO}: MB resident over {} notifications: {}",
        sizes.long_run,
        shown.join(" ")
    );
    let begun = Instant::now();
    site.server.kill();
    site.server.start_again().await?;
    println!(
        "{WHO}: after kill -9 with {many} registrations ready in {:.2} s, {:.1} MB resident",
        begun.elapsed().as_secs_f64(),
        site.server.usage()?.rss_mb()
    );
    let outcome = fleet.run(
        Work::Notify,
        0..sizes.observed,
        sizes.observed,
        Pace::window(WINDOW),
    )?;
    // Devices notice nothing: no RST to a notification that is known.
    outcome.whole("notifying after the crash")?;
    let outcome = fleet.run(Work::Update, 0..many, many, Pace::window(WINDOW))?;
    said(
        WHO,
        "updates after the crash",
        &outcome.whole("updating after the crash")?,
    );
    Ok(memory)
}

/// 100,000 devices that register within a minute, whatever the answers do.
pub(crate) async fn storm(program: &Path, sizes: Sizes) -> anyhow::Result<()> {
    let site = Gateway::start(program, &[]).await?;
    let devices = sizes.memory[1];
    let mut fleet = Fleet::new(site.coap(), "storm-", devices)?;
    let pace = Pace {
        window: devices,
        per_second: Some(u32::try_from(devices / 30)?),
    };
    let outcome = fleet.run(Work::Register, 0..devices, devices, pace)?;
    said(WHO, "registrations in a storm", &outcome);
    let share = outcome.succeeded as f64 / devices as f64;
    ensure!(
        share >= 0.999 && outcome.took < Duration::from_secs(60),
        "{:.3} % of the devices registered, in {:.1} s",
        share * 100.0,
        outcome.took.as_secs_f64()
    );
    println!(
        "{WHO}: {:.1} MB resident at most in it",
        site.server.usage()?.rss_peak as f64 / 1e6
    );
    Ok(())
}

/// From a notification's sending to its acknowledgement, which says that Kafka has it; at 10,000 a second.
pub(crate) async fn latency(program: &Path, sizes: Sizes) -> anyhow::Result<f64> {
    const RATE: u32 = 10_000;
    let site = Gateway::start(program, &[]).await?;
    let fleet = {
        let mut fleet = Fleet::new(site.coap(), "latency-", sizes.observed)?;
        let observed = sizes.observed;
        fleet
            .run(Work::Register, 0..observed, observed, Pace::window(WINDOW))?
            .whole("registering")?;
        fleet
    };
    let mut fleet = observed(
        fleet,
        sizes.observed,
        site.observe(PATH, "latency-", sizes.observed),
    )
    .await?;
    let (registered, before) = site.records().await?;
    let observed = 0..sizes.observed;
    let pace = Pace::per_second(RATE);
    fleet
        .run(Work::Notify, observed.clone(), RATE as usize, pace)?
        .whole("warming up")?;
    let total = (RATE * sizes.latency_seconds) as usize;
    let earlier = site.server.usage()?;
    let outcome = fleet
        .run(Work::Notify, observed, total, pace)?
        .whole("notifying")?;
    let used = site.server.usage()?.since(earlier);
    site.await_records(registered, before + u64::from(RATE) + total as u64)
        .await?;
    said(WHO, "notifications at 10,000/s", &outcome);
    println!(
        "{WHO}: {:.1} CPU µs each at that rate",
        used.cpu_us_each(total as u64)
    );
    Ok(outcome.latency_ms(0.99))
}

/// What an operation costs the server.
fn measured(
    site: &mut Gateway,
    what: &str,
    work: impl FnOnce() -> anyhow::Result<Outcome>,
) -> anyhow::Result<f64> {
    let before = site.server.usage()?;
    let outcome = work()?.whole(what)?;
    // What the server still does after its last answer belongs to it.
    std::thread::sleep(Duration::from_millis(300));
    let used = site.server.usage()?.since(before);
    said(WHO, what, &outcome);
    let each = used.cpu_us_each(outcome.succeeded);
    println!("{WHO}: {each:.2} CPU µs each");
    Ok(each)
}
