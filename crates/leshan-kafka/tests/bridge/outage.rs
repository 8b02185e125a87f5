//! Kafka away, Kafka that refuses, and a spool that is full.

use std::collections::BTreeMap;
use std::time::Duration;

use lwm2m::client::Event;
use lwm2m_codec::Timestamped;
use lwm2m_model::{Node, Value};
use records::{RegistrationResponse, RequestKind, ResponseCode, ResponseObserve};

use super::raw::{CHANGED, Raw};
use super::records::number;
use super::site::{self, Device, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_spool_full_a_value_is_not_acknowledged_and_asked_for_again_when_there_is_room() {
    let mut site = Site::with_kafka().await;
    // Room for one record.
    let server = site.start_server_with(&["--spool-mb=0"]);
    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    desk.ask("dev1", "t1", RequestKind::Observe, "/3303/0/5700", None)
        .await;
    let spooled = || site::metric("zeelos_spool_bytes");
    let settled = || async {
        anyhow::ensure!(
            spooled() == 0.0,
            "{} bytes are left in the spool",
            spooled()
        );
        Ok(())
    };
    testkit::wait_for(site::PATIENCE, "Kafka has everything", settled)
        .await
        .unwrap();
    site.stop_broker().await;
    device.temperature(1.0);
    let in_spool = || async {
        anyhow::ensure!(spooled() > 0.0, "the value is not in the spool");
        Ok(())
    };
    testkit::wait_for(site::PATIENCE, "the value is on the disk", in_spool)
        .await
        .unwrap();
    let refused = || site::metric("zeelos_spool_refused_total{type=\"confirmable\"}");
    let before = refused();
    device.temperature(2.0);
    let counted = || async {
        anyhow::ensure!(refused() > before, "no refusal is counted");
        Ok(())
    };
    testkit::wait_for(site::PATIENCE, "the next one is refused", counted)
        .await
        .unwrap();
    // The device sends it again and again: nobody says that it is safe.
    let at_first = device.stats().await.retransmissions;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(device.stats().await.retransmissions > at_first);

    site.start_broker().await;
    let last = observations
        .find(|seen| number(seen.rep.body.as_ref()).to_bits() == 2.0_f64.to_bits())
        .await;
    assert_eq!(last.ticket, "t1");
    device.temperature(3.0);
    let next = observations
        .find(|seen| number(seen.rep.body.as_ref()).to_bits() == 3.0_f64.to_bits())
        .await;
    assert_eq!(next.observation_id, last.observation_id);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_kafka_does_not_have_stops_nothing_and_is_named() {
    let site = Site::with_real_kafka(&[("auto.create.topics.enable", "false")]).await;
    let cluster = site.cluster();
    for topic in [
        "iot.gw.management.req",
        "iot.gw.management.rep",
        "iot.gw.registrations",
    ] {
        kafka::ensure_topic(&cluster, topic, 1, &[]).await.unwrap();
    }
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    desk.ask("dev1", "t1", RequestKind::Observe, "/3303/0/5700", None)
        .await;
    for value in [1.0, 2.0, 3.0] {
        device.temperature(value);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let said = || async {
        let failing = server.context.health.failing();
        let said = failing.get("observations").cloned();
        said.filter(|said| said.contains("zeelos topics create"))
            .ok_or_else(|| anyhow::anyhow!("{failing:?}"))
    };
    // librdkafka waits 30 s for a topic that may be on its way.
    let patience = Duration::from_secs(60);
    let said = testkit::wait_for(patience, "the health names the topic and what to do", said).await;
    assert!(
        said.as_ref()
            .is_ok_and(|said| said.contains("iot.gw.observations")),
        "{said:?}"
    );
    // The other topics are served all the same.
    let reply = desk
        .ask("dev1", "t2", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::Content);

    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    for value in [1.0_f64, 2.0, 3.0] {
        let seen = observations.next().await;
        assert_eq!(number(seen.rep.body.as_ref()).to_bits(), value.to_bits());
    }
    let healthy = || async {
        let failing = server.context.health.failing();
        anyhow::ensure!(failing.is_empty(), "{failing:?}");
        Ok(())
    };
    testkit::wait_for(site::PATIENCE, "all is well again", healthy)
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_registration_is_told_when_there_is_room_however_long_kafka_was_away() {
    let mut site = Site::with_kafka().await;
    let server = site.start_process(&["--spool-mb=0"]);
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let coap = site.coap;
    // As soon as it listens.
    testkit::wait_for(site::PATIENCE, "the server", async || {
        tokio::net::TcpStream::connect(site.web).await?;
        Ok(())
    })
    .await
    .unwrap();
    let mut device = Raw::register(coap, "ep=dev1&lt=300&lwm2m=1.0&b=U");
    let mut other = Raw::register(coap, "ep=dev2&lt=300&lwm2m=1.0&b=U");
    for _ in 0..2 {
        let new = registrations.next().await;
        assert!(matches!(new, RegistrationResponse::New(_)), "{new:?}");
    }
    site.stop_broker().await;
    // The first one uses all the bytes there are; the next ones are two that change something and many that do not.
    assert_eq!(device.update(""), CHANGED);
    for _ in 0..20 {
        assert_eq!(other.update(""), CHANGED);
    }
    assert_eq!(device.update("lt=4000"), CHANGED);
    assert_eq!(device.update("batch=7"), CHANGED);
    assert_eq!(device.update(""), CHANGED);
    // What is owed outlives the server.
    let mut server = {
        let mut server = server;
        server.kill();
        site.start_process(&["--spool-mb=0"])
    };
    site.start_broker().await;
    let told = loop {
        match registrations.next().await {
            RegistrationResponse::Update(update) if update.lt.is_some() => break update,
            RegistrationResponse::Update(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((told.ep.as_str(), told.lt), ("dev1", Some(4_000)));
    assert_eq!(told.attributes.unwrap()["batch"], "7");
    assert!(told.links.is_some_and(|links| !links.is_empty()));
    let mut more = 0;
    while !registrations.is_quiet().await {
        more += 1;
    }
    assert_eq!(more, 0, "told again");
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_and_found_no_room_is_said_to_the_device() {
    let site = Site::with_kafka().await;
    // No record fits, so that each goes to Kafka, comes back, and looks for room in the spool, which has it for one.
    let topic = "iot.gw.observations";
    let tight = [("max.message.bytes", "100")];
    kafka::ensure_topic(&site.cluster(), topic, 1, &tight)
        .await
        .unwrap();
    let server = site.start_server_with(&["--spool-mb=0", "--kafka-producer-linger-ms=400"]);
    let mut devices = Vec::new();
    for name in ["dev1", "dev2", "dev3"] {
        let mut device = Device::start(site.coap, name).await;
        device.registered().await;
        devices.push(device);
    }
    let settled = || async {
        let left = site::metric("zeelos_spool_bytes");
        anyhow::ensure!(left == 0.0, "{left} bytes are left in the spool");
        Ok(())
    };
    testkit::wait_for(site::PATIENCE, "Kafka has the registrations", settled)
        .await
        .unwrap();
    for device in &devices {
        let path = "/3303/0/5700".parse().unwrap();
        let node = Node::single(5700, Value::Float(7.0));
        device.send(vec![Timestamped {
            time_s: None,
            content: BTreeMap::from([(path, node)]),
        }]);
    }
    let mut refused = 0;
    for device in &mut devices {
        let answer = device
            .wait_for(|event| {
                matches!(event, Event::SendAnswered { .. } | Event::SendFailed { .. })
            })
            .await;
        match answer {
            Event::SendAnswered { code, .. } if code.is_success() => {}
            Event::SendAnswered { code, .. } => {
                assert_eq!(code, coap::Code::SERVICE_UNAVAILABLE);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0, "nobody was told");
    server.stop().await;
}
