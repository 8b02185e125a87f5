//! A device's life as records, and requests as what devices do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::site::{self, Device, Site, request};
use lwm2m::client::Event;
use records::{
    AvroResource, ReadContent, RegistrationResponse, RequestBody, RequestKind, ResourceKind,
    ResourceType, ResourceValue, Response, ResponseBody, ResponseCode, ResponseObserve, WriteMode,
    WriteNode, WriteRequest,
};

pub(crate) fn message(reply: &Response) -> &str {
    match &reply.rep.body {
        Some(ResponseBody::Generic(message)) => message,
        other => panic!("no message in {other:?}"),
    }
}

pub(crate) fn number(body: Option<&ResponseBody>) -> f64 {
    match body {
        Some(ResponseBody::Read(ReadContent::Resource(AvroResource {
            value: ResourceValue::Double(value),
            ..
        }))) => *value,
        other => panic!("no number in {other:?}"),
    }
}

pub(crate) fn write(value: &str) -> RequestBody {
    RequestBody::Write(WriteRequest {
        mode: WriteMode::Replace,
        node: WriteNode::Resource(AvroResource {
            id: 15,
            path: "/3/0/15".to_owned(),
            kind: ResourceKind::SingleResource,
            r#type: ResourceType::String,
            value: ResourceValue::String(value.to_owned()),
        }),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_devices_life_as_records() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut desk = site.desk().await;

    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    let RegistrationResponse::New(new) = registrations.next().await else {
        panic!("not NEW");
    };
    assert_eq!((new.ep.as_str(), new.server_id.as_str()), ("dev1", "gw"));
    assert_eq!((new.lt, new.ver.as_str()), (300, "1.1"));
    assert_eq!(new.attributes.unwrap()["b"], "U");
    let urls: Vec<_> = new.links.iter().map(|link| link.url.as_str()).collect();
    assert!(urls.contains(&"/3303/0"), "{urls:?}");

    // The first value of an observation is the reply, the next ones are observations with its ticket.
    let reply = desk
        .ask("dev1", "t1", RequestKind::Observe, "3303/0/5700", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::Content);
    assert_eq!(reply.path, "/3303/0/5700");
    assert_eq!(
        number(reply.rep.body.as_ref()).to_bits(),
        20.0_f64.to_bits()
    );
    device.temperature(21.5);
    let seen = observations.next().await;
    assert_eq!(
        (seen.ticket.as_str(), seen.path.as_str()),
        ("t1", "/3303/0/5700")
    );
    assert_eq!(number(seen.rep.body.as_ref()).to_bits(), 21.5_f64.to_bits());
    assert!(seen.observation_id.len() >= 2 && seen.observation_id.len() <= 16);

    let reply = desk
        .ask("dev1", "t2", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(
        (reply.ep.as_str(), reply.rep.code),
        ("dev1", ResponseCode::Content)
    );
    let reply = desk
        .ask(
            "dev1",
            "t3",
            RequestKind::Write,
            "/3/0/15",
            Some(write("CET")),
        )
        .await;
    assert_eq!(
        (reply.rep.code, message(&reply)),
        (ResponseCode::Changed, "CHANGED")
    );
    let body = Some(RequestBody::Execute("param1,param2".to_owned()));
    let reply = desk
        .ask("dev1", "t4", RequestKind::Execute, "/3/0/4", body)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::Changed, "{reply:?}");
    device
        .wait_for(|event| matches!(event, Event::Executed { arguments, .. } if arguments == "param1,param2"))
        .await;
    let reply = desk
        .ask("dev1", "t5", RequestKind::Discover, "/3303", None)
        .await;
    assert!(
        matches!(&reply.rep.body, Some(ResponseBody::Discover(links)) if links.contains("</3303/0/5700>")),
        "{reply:?}"
    );

    // What the device refuses comes back as its own code.
    let reply = desk
        .ask("dev1", "t6", RequestKind::Read, "/99/0/0", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::NotFound);
    assert_eq!(message(&reply), "NOT_FOUND");

    // A cancel says how many observations it ended.
    let reply = desk
        .ask(
            "dev1",
            "t7",
            RequestKind::ObserveCancel,
            "/3303/0/5700",
            None,
        )
        .await;
    assert_eq!(
        (reply.rep.code, message(&reply)),
        (ResponseCode::Deleted, "1")
    );
    let reply = desk
        .ask(
            "dev1",
            "t8",
            RequestKind::ObserveCancel,
            "/3303/0/5700",
            None,
        )
        .await;
    assert_eq!(reply.rep.code, ResponseCode::NotFound);
    device.temperature(22.0);
    device
        .wait_for(|event| matches!(event, Event::ObservationEnded { .. }))
        .await;

    device.deregister();
    let gone = registrations
        .find(|event| matches!(event, RegistrationResponse::Delete(_)))
        .await;
    assert!(
        matches!(gone, RegistrationResponse::Delete(delete) if delete.ep == "dev1" && !delete.expired)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_an_answer_or_a_place_and_the_next_good_one_passes() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut dead = site.topic::<Response>("iot.gw.management.req.dlq").await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;

    let reply = desk
        .ask("nobody", "t1", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(
        (reply.ep.as_str(), reply.rep.code),
        ("nobody", ResponseCode::NotFound)
    );
    assert_eq!(
        message(&reply),
        "No registration for this endpoint 'nobody'"
    );

    let reply = desk
        .ask("dev1", "t2", RequestKind::Read, "/no/path", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::BadRequest);
    assert!(message(&reply).contains("/no/path"), "{reply:?}");
    let body = Some(RequestBody::Execute(String::new()));
    let reply = desk
        .ask("dev1", "t3", RequestKind::Write, "/3/0/15", body)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::BadRequest);
    let reply = desk
        .ask("dev1", "t4", RequestKind::Write, "/3/0/15", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::BadRequest);

    let before = service::metrics::dead_letters("not_framed").get();
    desk.send_raw(Some(b"{\"not\": \"avro\"}"), &[]).await;
    let letter = dead.next_record().await;
    assert_eq!(letter.value.as_deref(), Some(&b"{\"not\": \"avro\"}"[..]));
    assert_eq!(letter.header("zeelos-dlq-reason"), Some(&b"not_framed"[..]));
    assert_eq!(
        letter.header("zeelos-dlq-topic"),
        Some(site::REQUESTS.as_bytes())
    );
    desk.send_raw(Some(&[0, 0, 0, 0x12, 0x34, 1, 2]), &[]).await;
    let letter = dead.next_record().await;
    assert_eq!(
        letter.header("zeelos-dlq-reason"),
        Some(&b"unknown_schema"[..])
    );
    desk.send_raw(None, &[]).await;
    let letter = dead.next_record().await;
    assert_eq!(letter.header("zeelos-dlq-reason"), Some(&b"tombstone"[..]));

    // The next letter came after this one was counted.
    assert!(service::metrics::dead_letters("not_framed").get() > before);

    // Datagrams that are nothing.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in 0..200_usize {
        let noise: Vec<u8> = (0..length).map(|i| (i * 37 + length * 11) as u8).collect();
        socket.send_to(&noise, site.coap).unwrap();
    }

    let reply = desk
        .ask("dev1", "t5", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::Content);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_away_at_start_and_later_loses_nothing() {
    let mut site = Site::new();
    // Nothing to connect to: devices register all the same.
    let server = site.start_server();
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    let failing = testkit::wait_for(site::PATIENCE, "the health says what fails", || {
        let failing = server.context.health.failing();
        async move {
            let said = failing.get("registry").cloned();
            said.ok_or_else(|| anyhow::anyhow!("{failing:?}"))
        }
    });
    let said = failing.await.unwrap();
    assert!(said.contains(&site.registry_url()), "{said}");

    site.start_broker().await;
    site.start_registry().await;
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let new = registrations.next().await;
    assert!(matches!(new, RegistrationResponse::New(new) if new.ep == "dev1"));

    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut desk = site.desk().await;
    desk.ask("dev1", "t1", RequestKind::Observe, "/3303/0/5700", None)
        .await;

    // While the broker is away the spool takes the values, and the device has its acknowledgements.
    site.stop_broker().await;
    for value in 1..=20 {
        device.temperature(f64::from(value));
        device
            .wait_for(|event| matches!(event, Event::Notified { .. }))
            .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // None is left unacknowledged: it would be sent again and again.
    let settled = testkit::wait_for(site::PATIENCE, "the last value is acknowledged", || async {
        let seen = server.context.health.failing();
        anyhow::ensure!(
            seen.contains_key("observations"),
            "Kafka's absence is not noticed: {seen:?}"
        );
        Ok(())
    });
    settled.await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = device.stats().await.retransmissions;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(device.stats().await.retransmissions, before);
    site.start_broker().await;
    let mut last = 0.0;
    while last < 20.0 {
        let value = number(observations.next().await.rep.body.as_ref());
        assert!(value >= last, "{value} came after {last}");
        assert!(
            value - last <= 1.0,
            "between {last} and {value} one is missing"
        );
        last = value;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_goes_on_where_it_was() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    desk.ask("dev1", "t1", RequestKind::Observe, "/3303/0/5700", None)
        .await;
    device.temperature(1.0);
    let first = observations.next().await;
    server.kill().await;

    let server = site.start_server();
    device.drain();
    // The registration and the observation stand: the device notices nothing, its token is known.
    device.temperature(2.0);
    let second = observations
        .find(|seen| number(seen.rep.body.as_ref()).to_bits() == 2.0_f64.to_bits())
        .await;
    assert_eq!(second.observation_id, first.observation_id);
    assert_eq!(second.ticket, "t1");
    let reply = desk
        .ask("dev1", "t2", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::Content);
    let again = device.drain().into_iter().any(|event| {
        matches!(
            event,
            Event::Registered { .. } | Event::ObservationEnded { .. }
        )
    });
    assert!(!again, "the device had to register again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_in_the_air_at_a_crash_is_not_sent_twice() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    // The device is gone: the command stays in the air.
    device.vanish();
    let execute = Some(RequestBody::Execute(String::new()));
    let command = request("dev1", "t1", RequestKind::Execute, "/3/0/4", execute);
    desk.send(&command, &[]).await;
    let behind = request("dev1", "t2", RequestKind::Read, "/3/0/0", None);
    desk.send(&behind, &[]).await;
    site.until_committed().await;
    server.kill().await;

    let server = site.start_server();
    let reply = desk.replies.find(|reply| reply.ticket == "t1").await;
    assert_eq!(reply.rep.code, ResponseCode::InternalServerError);
    assert!(
        message(&reply).starts_with("outcome unknown: "),
        "{reply:?}"
    );
    // The read behind it changes nothing and is tried again: with the device gone it ends in its own time-out.
    server.kill().await;
    let reply_again = desk.replies.is_quiet().await;
    assert!(reply_again, "a second reply");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_command_runs_once() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    let executions = |events: Vec<Event>| {
        events
            .iter()
            .filter(|event| matches!(event, Event::Executed { .. }))
            .count()
    };
    let execute = Some(RequestBody::Execute("0".to_owned()));
    let command = request(
        "dev1",
        "t1",
        RequestKind::Execute,
        "/3/0/4",
        execute.clone(),
    );

    // The mirror brought the same record twice: one execution, one reply.
    let origin = [("zeelos-origin", "cloud/iot.gw.management.req/0/7")];
    desk.send(&command, &origin).await;
    let first = desk.replies.next().await;
    assert_eq!(
        (first.ticket.as_str(), first.rep.code),
        ("t1", ResponseCode::Changed)
    );
    desk.send(&command, &origin).await;
    assert!(desk.replies.is_quiet().await);

    // An operator pasted it again: answered with the stored reply, not run.
    desk.send(&command, &[]).await;
    assert_eq!(desk.replies.next().await, first);
    assert_eq!(executions(device.drain()), 1);

    // Another ticket is another command; a read always runs.
    let other = request("dev1", "t2", RequestKind::Execute, "/3/0/4", execute);
    desk.send(&other, &[]).await;
    assert_eq!(desk.replies.next().await.ticket, "t2");
    assert_eq!(executions(device.drain()), 1);
    for _ in 0..2 {
        desk.ask("dev1", "t3", RequestKind::Read, "/3/0/0", None)
            .await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_request_is_answered_and_not_sent() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    device.drain();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let execute = Some(RequestBody::Execute(String::new()));
    let late = request("dev1", "t1", RequestKind::Execute, "/3/0/4", execute);
    desk.send(&late, &[("expires-at", &(now - 1).to_string())])
        .await;
    let reply = desk.replies.next().await;
    assert_eq!(reply.rep.code, ResponseCode::InternalServerError);
    assert!(message(&reply).contains("expired"), "{reply:?}");
    desk.ask("dev1", "t2", RequestKind::Read, "/3/0/0", None)
        .await;
    assert!(
        !device
            .drain()
            .iter()
            .any(|event| matches!(event, Event::Executed { .. }))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_is_answered_when_its_time_is_over() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    // The device hangs, and the first request has all the time there is: nobody behind it waits for that.
    device.vanish();
    let first = request("dev1", "t1", RequestKind::Read, "/3/0/0", None);
    desk.send(&first, &[("expires-at", &i64::MAX.to_string())])
        .await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let soon = (now + Duration::from_millis(1_500)).as_millis();
    let behind = request("dev1", "t2", RequestKind::Read, "/3/0/1", None);
    desk.send(&behind, &[("expires-at", &soon.to_string())])
        .await;
    let asked = std::time::Instant::now();
    let reply = desk.replies.next().await;
    assert_eq!(reply.ticket, "t2");
    assert!(message(&reply).contains("expired"), "{reply:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "answered late");

    // A deadline out of this world is over, and nothing worse.
    let odd = request("nobody", "t3", RequestKind::Read, "/3/0/2", None);
    desk.send(&odd, &[("expires-at", &i64::MIN.to_string())])
        .await;
    let reply = desk.replies.next().await;
    assert_eq!(reply.ticket, "t3");
    assert!(message(&reply).contains("expired"), "{reply:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_leaves_nothing_to_be_produced_again() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    registrations.next().await;
    desk.ask("dev1", "t1", RequestKind::Read, "/3/0/0", None)
        .await;
    // At once: the acknowledged records are still in the store.
    server.stop().await;

    let server = site.start_server();
    desk.ask("dev1", "t2", RequestKind::Read, "/3/0/0", None)
        .await;
    assert!(registrations.is_quiet().await, "a registration twice");
    assert!(desk.replies.is_quiet().await, "a reply twice");
    server.stop().await;
}
