//! Devices that sleep: their requests wait, over a restart too, and are answered in time.

use std::time::Duration;

use lwm2m::Binding;
use lwm2m::client::Event;
use records::{RequestBody, RequestKind, ResponseCode};

use super::records::message;
use super::site::{Device, Site, request};

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
