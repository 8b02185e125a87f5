//! Topics that are deleted and made anew, and schemas that the registry does not take.

use std::time::Duration;

use kafka::{delete_topic, ensure_topic};
use lwm2m::client::Event;
use records::{RegistrationResponse, RequestBody, RequestKind, ResponseCode, ResponseObserve};

use super::records::number;
use super::site::{self, Device, REQUESTS, Site, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_topic_that_was_made_anew_are_answered_as_others_are() {
    let site = Site::with_kafka().await;
    let server = site.start_server_with(&["--duplicate-window-s=2"]);
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    let read = request("dev1", "t1", RequestKind::Read, "/3/0/0", None);
    let execute = |arguments: &str| {
        let body = Some(RequestBody::Execute(arguments.to_owned()));
        request("dev1", "t2", RequestKind::Execute, "/3/0/4", body)
    };
    desk.send(&read, &[]).await;
    desk.send(&execute("once"), &[]).await;
    for ticket in ["t1", "t2"] {
        assert_eq!(desk.replies.next().await.ticket, ticket);
    }
    site.until_committed().await;
    server.stop().await;

    delete_topic(&site.cluster(), REQUESTS).await.unwrap();
    ensure_topic(&site.cluster(), REQUESTS, 1, &[])
        .await
        .unwrap();
    // Another desk: the old one's producer knows the topic that is gone.
    let mut desk = site.desk().await;
    for _ in 0..2 {
        desk.replies.next().await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    device.drain();
    let reused = || site::metric("zeelos_requests_position_reused_total");
    let before = reused();
    // Word for word what stood at the first position, and another command at the second.
    desk.send(&read, &[]).await;
    desk.send(&execute("twice"), &[]).await;
    let server = site.start_server_with(&["--duplicate-window-s=2"]);
    for (ticket, code) in [("t1", ResponseCode::Content), ("t2", ResponseCode::Changed)] {
        let reply = desk.replies.next().await;
        assert_eq!((reply.ticket.as_str(), reply.rep.code), (ticket, code));
    }
    let executed = device
        .wait_for(|event| matches!(event, Event::Executed { .. }))
        .await;
    assert!(
        matches!(&executed, Event::Executed { arguments, .. } if arguments == "twice"),
        "{executed:?}"
    );
    assert_eq!((reused() - before).round() as i64, 2, "it is counted");

    // The same records once more, as after a crash before the offsets were committed: known still.
    let origin = [("zeelos-origin", "cloud/iot.gw.management.req/0/7")];
    let command = execute("by the mirror");
    desk.send(&command, &origin).await;
    desk.replies.next().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    desk.send(&command, &origin).await;
    assert!(desk.replies.is_quiet().await, "answered twice");
    // Another request under it is another one: the cloud's topic was made anew.
    desk.send(&execute("another"), &origin).await;
    assert_eq!(desk.replies.next().await.rep.code, ResponseCode::Changed);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_the_registry_does_not_take_holds_its_own_topic_only() {
    let site = Site::with_kafka().await;
    let subject = "iot.gw.registrations-value";
    let strange = r#"{"type":"record","name":"Other","fields":[{"name":"x","type":"string"}]}"#;
    let registry = site.schema_registry();
    registry.register(subject, strange).await.unwrap();
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    let reply = desk
        .ask("dev1", "t1", RequestKind::Observe, "/3303/0/5700", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::Content);
    device.temperature(1.0);
    let seen = observations.next().await;
    assert_eq!(number(seen.rep.body.as_ref()).to_bits(), 1.0_f64.to_bits());
    let said = server.context.health.failing();
    assert!(
        said.get("registry")
            .is_some_and(|said| said.contains("iot.gw.registrations")
                && !said.contains("iot.gw.observations")),
        "{said:?}"
    );
    assert!(registrations.is_quiet().await);
    server.stop().await;
}
