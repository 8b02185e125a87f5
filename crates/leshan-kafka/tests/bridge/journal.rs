//! The journal's promises, one by one.

use std::time::Duration;

use kafka::{TRACE_HEADER, TraceParent};
use lwm2m::client::Event;
use records::{AvroRecord as _, Request, RequestBody, RequestKind, ResponseCode, SchemaId, frame};

use super::records::message;
use super::site::{self, Device, Site, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_can_be_followed_by_its_trace() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut observations = site
        .topic::<records::ResponseObserve>("iot.gw.observations")
        .await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;

    let begun = TraceParent::start();
    let observe = request("dev1", "t1", RequestKind::Observe, "/3303/0/5700", None);
    desk.send(&observe, &[(TRACE_HEADER, &begun.to_string())])
        .await;
    let trace_of = |record: &kafka::Record| {
        let value = record.header(TRACE_HEADER).unwrap().to_vec();
        let trace: TraceParent = String::from_utf8(value).unwrap().parse().unwrap();
        trace
    };
    let reply = desk.replies.next_record().await;
    let replied = trace_of(&reply);
    assert_eq!(replied.trace_id().to_string(), begun.trace_id().to_string());
    assert_ne!(replied, begun, "the same step of the trace");
    // The reply says which request it answers.
    let answers = reply.header("zeelos-request").unwrap();
    assert!(
        answers.ends_with(b"/iot.gw.management.req/0/0"),
        "{answers:?}"
    );

    device.temperature(21.0);
    let notification = observations.next_record().await;
    let notified = trace_of(&notification);
    assert_eq!(
        notified.trace_id().to_string(),
        begun.trace_id().to_string()
    );
    let seen = records::ResponseObserve::from_datum(
        frame::split(notification.value.as_deref().unwrap())
            .unwrap()
            .1,
    );
    assert_eq!(seen.unwrap().ticket, "t1");

    // Without one, or with nonsense, a trace begins at the server.
    let read = request("dev1", "t2", RequestKind::Read, "/3/0/0", None);
    desk.send(&read, &[(TRACE_HEADER, "nonsense")]).await;
    let other = trace_of(&desk.replies.next_record().await);
    assert_ne!(other.trace_id().to_string(), begun.trace_id().to_string());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_request_whose_ticket_can_be_read_is_answered() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let whole = request("dev1", "t1", RequestKind::Read, "/3/0/0", None);
    let id = site
        .schema_registry()
        .register("iot.gw.management.req-value", Request::schema().text())
        .await
        .unwrap();
    let framed = whole.to_framed(SchemaId(id));
    // Cut off behind the ticket.
    desk.send_raw(Some(&framed[..framed.len() - 4]), &[]).await;
    let reply = desk.replies.next().await;
    assert_eq!((reply.ep.as_str(), reply.ticket.as_str()), ("dev1", "t1"));
    assert_eq!(reply.rep.code, ResponseCode::BadRequest);
    assert!(message(&reply).contains("can't be read"), "{reply:?}");
    // Cut off in it: nobody can be told, so it is put aside.
    let mut dead = site
        .topic::<records::Response>("iot.gw.management.req.dlq")
        .await;
    desk.send_raw(Some(&framed[..18]), &[]).await;
    let letter = dead.next_record().await;
    assert_eq!(letter.header("zeelos-dlq-reason"), Some(&b"not_avro"[..]));
    assert_eq!(letter.header("zeelos-dlq-partition"), Some(&b"0"[..]));
    assert_eq!(letter.header("zeelos-dlq-offset"), Some(&b"1"[..]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_of_a_command_in_work_is_answered_with_it() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    device.vanish();
    let body = Some(RequestBody::Execute("0".to_owned()));
    let command = request("dev1", "t1", RequestKind::Execute, "/3/0/4", body);
    let soon = (site::unix_ms() + 2_500).to_string();
    for _ in 0..2 {
        desk.send(&command, &[("expires-at", &soon)]).await;
    }
    let first = desk.replies.next().await;
    assert!(
        message(&first).starts_with("outcome unknown: "),
        "{first:?}"
    );
    assert_eq!(desk.replies.next().await, first);
    // And one that comes later gets the stored one.
    desk.send(&command, &[]).await;
    assert_eq!(desk.replies.next().await, first);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_never_left_is_run_after_a_crash() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    device.hear(false);
    // The first is in the air; the second waits behind it, and no device has seen it.
    for ticket in ["t1", "t2"] {
        let body = Some(RequestBody::Execute(ticket.to_owned()));
        let command = request("dev1", ticket, RequestKind::Execute, "/3/0/4", body);
        desk.send(&command, &[]).await;
    }
    site.until_committed().await;
    server.kill().await;

    device.hear(true);
    let server = site.start_server();
    let first = desk.replies.next().await;
    assert_eq!(first.ticket, "t1");
    assert!(
        message(&first).starts_with("outcome unknown: "),
        "{first:?}"
    );
    let executed = device
        .wait_for(|event| matches!(event, Event::Executed { .. }))
        .await;
    assert!(
        matches!(&executed, Event::Executed { arguments, .. } if arguments == "t2"),
        "{executed:?}"
    );
    let second = desk.replies.next().await;
    assert_eq!(
        (second.ticket.as_str(), second.rep.code),
        ("t2", ResponseCode::Changed)
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        !device
            .drain()
            .iter()
            .any(|event| matches!(event, Event::Executed { .. })),
        "executed twice"
    );
    server.stop().await;
}
