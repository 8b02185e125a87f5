//! Kafka away, Kafka that refuses, and a spool that is full.

use std::time::Duration;

use records::{RequestKind, ResponseCode, ResponseObserve};

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
