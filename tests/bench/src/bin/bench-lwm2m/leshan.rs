//! Leshan's server, with everything in memory.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::ensure;
use bench::{Fleet, Outcome, Pace, Usage, Work};
use testkit::LeshanServer;

use crate::{Cpu, Memory, PATH, Sizes, WINDOW, observed, said};

const WHO: &str = "Leshan";

fn address(server: &LeshanServer) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.port())
}

/// CPU per operation of a JVM that has compiled its hot paths.
pub(crate) async fn cpu(sizes: Sizes) -> anyhow::Result<Cpu> {
    let mut server = LeshanServer::start(None).await?;
    let devices = sizes.warm_up + sizes.registrations;
    let mut fleet = Fleet::new(address(&server), "cpu-", devices)?;
    let warm = sizes.warm_up;
    let go = Pace::window(WINDOW);
    fleet
        .run(Work::Register, 0..warm, warm, go)?
        .whole("warming up")?;
    let register = measured(&mut server, "registrations", || {
        fleet.run(Work::Register, warm..devices, devices - warm, go)
    })?;
    let update = measured(&mut server, "updates", || {
        fleet.run(Work::Update, warm..devices, devices - warm, go)
    })?;
    let mut fleet = observed(
        fleet,
        sizes.observed,
        server.observe(PATH, "cpu-", sizes.observed),
    )
    .await?;
    let observed = 0..sizes.observed;
    let warming = sizes.warming_notifications;
    fleet
        .run(Work::Notify, observed.clone(), warming, go)?
        .whole("warming up")?;
    let notify = measured(&mut server, "confirmable notifications", || {
        fleet.run(Work::Notify, observed, sizes.notifications, go)
    })?;
    let counts = server.counts().await?;
    let (notified, updated) = (warming + sizes.notifications, sizes.registrations);
    ensure!(
        (counts.registered, counts.updated, counts.notified)
            == (devices as u64, updated as u64, notified as u64),
        "Leshan was told of {counts:?}, and answered {devices} registrations, {updated} updates and {notified} notifications"
    );
    Ok(Cpu {
        register,
        update,
        notify,
    })
}

/// Memory with so many registrations, the JVM at its defaults.
pub(crate) async fn memory(sizes: Sizes) -> anyhow::Result<Memory> {
    let mut server = LeshanServer::start(None).await?;
    let [few, many] = sizes.memory;
    let mut fleet = Fleet::new(address(&server), "memory-", many)?;
    let mut memory = Memory::default();
    let mut from = 0;
    for (at, until) in [few, many].into_iter().enumerate() {
        let resident = registered(&mut server, &mut fleet, from..until).await?;
        println!("{WHO}: {resident:.0} MB resident with {until} registrations");
        memory.0[at] = resident;
        from = until;
    }
    let mut fleet = observed(
        fleet,
        sizes.observed,
        server.observe(PATH, "memory-", sizes.observed),
    )
    .await?;
    let fifth = sizes.notifications / 5;
    let mut resident = Vec::new();
    for _ in 0..5 {
        fleet
            .run(Work::Notify, 0..sizes.observed, fifth, Pace::window(WINDOW))?
            .whole("notifying")?;
        resident.push(format!("{:.0}", Usage::of(server.process().id())?.rss_mb()));
    }
    println!(
        "{WHO}: MB resident over {} notifications: {}",
        sizes.notifications,
        resident.join(" ")
    );
    Ok(memory)
}

/// The same with the smallest heap of a list that all devices can register with, for each number of them.
pub(crate) async fn smallest_memory(sizes: Sizes) -> anyhow::Result<Memory> {
    let mut memory = Memory::default();
    for (at, devices) in sizes.memory.into_iter().enumerate() {
        // About 3 KB of live heap a registration, and the same again for what a collector needs.
        let least = devices / 400;
        let heaps = [1, 2, 3, 4, 6, 8, 12, 16].map(|times| (least * times).max(12));
        let mut last = None;
        for heap_mb in heaps {
            match with_heap(u32::try_from(heap_mb)?, devices).await {
                Ok(resident) => {
                    println!(
                        "{WHO}: {resident:.0} MB resident with {devices} registrations and -Xmx{heap_mb}m"
                    );
                    memory.0[at] = resident;
                    last = None;
                    break;
                }
                Err(error) => last = Some(error),
            }
        }
        if let Some(error) = last {
            return Err(error.context("Leshan does not run with any heap of the list"));
        }
    }
    Ok(memory)
}

async fn with_heap(heap_mb: u32, devices: usize) -> anyhow::Result<f64> {
    let mut server = LeshanServer::start(Some(heap_mb)).await?;
    let mut fleet = Fleet::new(address(&server), "memory-", devices)?;
    registered(&mut server, &mut fleet, 0..devices).await
}

/// Registers devices; the megabytes then resident.
async fn registered(
    server: &mut LeshanServer,
    fleet: &mut Fleet,
    devices: std::ops::Range<usize>,
) -> anyhow::Result<f64> {
    let (count, until) = (devices.len(), devices.end);
    let outcome = fleet.run(Work::Register, devices, count, Pace::window(WINDOW))?;
    let outcome = outcome.whole("registering")?;
    let told = server.counts().await?.registered;
    ensure!(
        told == until as u64,
        "Leshan was told of {told} registrations, not {until}"
    );
    said(WHO, "registrations", &outcome);
    Ok(Usage::of(server.process().id())?.rss_mb())
}

fn measured(
    server: &mut LeshanServer,
    what: &str,
    work: impl FnOnce() -> anyhow::Result<Outcome>,
) -> anyhow::Result<f64> {
    let process = server.process().id();
    let before = Usage::of(process)?;
    let outcome = work()?.whole(what)?;
    std::thread::sleep(Duration::from_millis(300));
    let used = Usage::of(process)?.since(before);
    said(WHO, what, &outcome);
    let each = used.cpu_us_each(outcome.succeeded);
    println!("{WHO}: {each:.2} CPU µs each");
    Ok(each)
}
