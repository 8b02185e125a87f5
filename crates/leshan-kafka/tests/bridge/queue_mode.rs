//! Devices that sleep: their requests wait, over a restart too, and are answered in time.

use std::time::Duration;

use lwm2m::Binding;
use lwm2m::client::Event;
use records::{RequestBody, RequestKind, ResponseCode};

use super::raw::Raw;
use super::records::message;
use super::site::{self, Device, Site, request};

/// How long the devices here listen after they were heard of.
const WINDOW: Duration = Duration::from_secs(1);

async fn sleeper(site: &Site) -> Device {
    let mut device = Device::start_with(site.coap, "dev1", |config| {
        config.binding = Binding::parse("UQ", false).unwrap();
        config.version = lwm2m::Version::V1_0;
        config.awake_window = WINDOW;
    })
    .await;
    device.registered().await;
    device
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_a_sleeper_over_a_restart_and_go_out_in_order_when_it_wakes() {
    let site = Site::with_kafka().await;
    let server = site.start_server_with(&["--awake-window-s=1"]);
    let mut desk = site.desk().await;
    let mut device = sleeper(&site).await;
    tokio::time::sleep(WINDOW * 2).await;

    for ticket in ["t1", "t2", "t3"] {
        let body = Some(RequestBody::Execute(ticket.to_owned()));
        let command = request("dev1", ticket, RequestKind::Execute, "/3/0/4", body);
        desk.send(&command, &[]).await;
    }
    let read = request("dev1", "t4", RequestKind::Read, "/3/0/0", None);
    desk.send(&read, &[]).await;
    site.until_committed().await;
    assert!(desk.replies.is_quiet().await, "answered while it sleeps");
    // Somebody else's requests do not wait for it.
    let reply = desk
        .ask("nobody", "t5", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::NotFound);

    server.kill().await;
    let server = site.start_server_with(&["--awake-window-s=1"]);
    assert!(desk.replies.is_quiet().await, "answered after the restart");
    device.update();
    for ticket in ["t1", "t2", "t3", "t4"] {
        let reply = desk.replies.next().await;
        assert_eq!(reply.ticket, ticket);
        assert!(reply.rep.code.is_success(), "{reply:?}");
    }
    let executed: Vec<_> = device
        .drain()
        .into_iter()
        .filter_map(|event| match event {
            Event::Executed { arguments, .. } => Some(arguments),
            _ => None,
        })
        .collect();
    assert_eq!(executed, ["t1", "t2", "t3"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_follows_the_device_into_its_next_registration_and_ends_at_its_deadline() {
    let site = Site::with_kafka().await;
    let args = ["--awake-window-s=1", "--sleeper-request-timeout-s=6"];
    let server = site.start_server_with(&args);
    let mut desk = site.desk().await;
    let device = sleeper(&site).await;
    tokio::time::sleep(WINDOW * 2).await;
    // It goes, as a device does that restarts; what waits for it stays.
    let body = Some(RequestBody::Execute("t1".to_owned()));
    let command = request("dev1", "t1", RequestKind::Execute, "/3/0/4", body);
    desk.send(&command, &[]).await;
    site.until_committed().await;
    drop(device);
    let mut device = sleeper(&site).await;
    let reply = desk.replies.next().await;
    assert_eq!(
        (reply.ticket.as_str(), reply.rep.code),
        ("t1", ResponseCode::Changed)
    );
    device
        .wait_for(|event| matches!(event, Event::Executed { arguments, .. } if arguments == "t1"))
        .await;

    tokio::time::sleep(WINDOW * 2).await;
    let asked = std::time::Instant::now();
    let body = Some(RequestBody::Execute("t2".to_owned()));
    let reply = desk
        .ask("dev1", "t2", RequestKind::Execute, "/3/0/4", body)
        .await;
    assert!(message(&reply).contains("expired"), "{reply:?}");
    let took = asked.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(12),
        "{took:?}"
    );
    device.update();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        !device
            .drain()
            .iter()
            .any(|event| matches!(event, Event::Executed { .. })),
        "an expired command was executed"
    );
    server.stop().await;
}

/// What a process has in memory now, MiB.
fn resident_mb(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kb / 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_requests_that_wait_are_on_the_disk_and_not_in_memory() {
    const SLEEPERS: usize = 200;
    const EACH: usize = 500;
    const BYTES: usize = 2_000;
    let site = Site::with_kafka().await;
    let args = ["--awake-window-s=1", "--request-timeout-s=600"];
    let mut server = site.start_process(&args);
    testkit::wait_for(site::PATIENCE, "the server", async || {
        tokio::net::TcpStream::connect(site.web).await?;
        Ok(())
    })
    .await
    .unwrap();
    let desk = site.desk().await;
    let coap = site.coap;
    let registering = tokio::task::spawn_blocking(move || {
        for number in 0..SLEEPERS {
            Raw::register(coap, &format!("ep=s{number}&lt=86400&lwm2m=1.0&b=UQ"));
        }
    });
    registering.await.unwrap();
    tokio::time::sleep(WINDOW * 2).await;
    let arguments = "x".repeat(BYTES);
    let all: Vec<_> = (0..SLEEPERS * EACH)
        .map(|number| {
            let body = Some(RequestBody::Execute(arguments.clone()));
            let (ep, ticket) = (format!("s{}", number % SLEEPERS), format!("t{number}"));
            request(&ep, &ticket, RequestKind::Execute, "/3/0/4", body)
        })
        .collect();
    desk.send_all(&all).await;
    site.until_committed_within(site::PATIENCE * 3).await;
    let before = resident_mb(server.id());
    server.kill();

    let mut server = site.start_process(&args);
    let mut desk = site.desk().await;
    // It serves others, and knows what waits.
    let reply = desk
        .ask("nobody", "other", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::NotFound);
    let after = resident_mb(server.id());
    println!("{before} MiB before the restart, {after} MiB after it");
    // All of them are 200 MB.
    assert!(after < 100, "{after} MiB");
    assert!(before < 130, "{before} MiB");
    server.kill();
}
