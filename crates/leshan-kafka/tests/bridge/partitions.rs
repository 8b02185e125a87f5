//! A broker that is away, and one whose clock is not ours.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka::ensure_topic;
use records::{
    AvroRecord as _, RegistrationResponse, RequestKind, ResponseCode, ResponseObserve, frame,
};

use super::records::number;
use super::site::{self, Device, Site};

/// By device: which partition its values go to.
const DEVICES: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_a_leader_holds_nobody_elses_values() {
    let mut site = Site::with_real_kafka(&[("broker.session.timeout.ms", "3000")]).await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let mut device = Device::start(site.coap, &format!("dev{number}")).await;
        device.registered().await;
        devices.push(device);
    }
    // All else is on the first broker by now.
    desk.ask("dev0", "t", RequestKind::Read, "/3/0/0", None)
        .await;
    let mut other = site.real_kafka().another_broker().await.unwrap();
    let topic = "iot.gw.observations";
    ensure_topic(&site.cluster(), topic, 2, &[]).await.unwrap();
    let mut observations = site.topic::<ResponseObserve>(topic).await;
    let mut partition_of: BTreeMap<String, i32> = BTreeMap::new();
    for (number, device) in devices.iter().enumerate() {
        let (ep, ticket) = (format!("dev{number}"), format!("t{number}"));
        let reply = desk
            .ask(&ep, &ticket, RequestKind::Observe, "/3303/0/5700", None)
            .await;
        assert_eq!(reply.rep.code, ResponseCode::Content);
        device.temperature(1.0);
        let record = observations.next_record().await;
        partition_of.insert(ep, record.partition);
    }
    let in_partition = |wanted: i32| {
        let found = partition_of.values().position(|at| *at == wanted);
        found.expect("devices in both partitions")
    };
    // Opened as long as both have a leader.
    let mut straight = site.topic::<ResponseObserve>(topic).await;
    // Which of the two is the other broker's shows when it is away.
    other.stop();
    let away = Instant::now();
    let condition = || server.context.health.failing().get("observations").cloned();
    let mut value = 1.0;
    let said = loop {
        value += 1.0;
        for device in &devices {
            device.temperature(value);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Some(said) = condition() {
            break said;
        }
        assert!(away.elapsed() < site::PATIENCE, "nothing is said");
    };
    assert!(said.contains("in partition "), "{said}");
    let stuck: i32 = if said.contains("in partition 1 ") {
        1
    } else {
        0
    };
    let (held, flows) = (in_partition(stuck), in_partition(1 - stuck));

    // Whose partition has a leader: straight through, all the time.
    let flowing = format!("dev{flows}");
    for value in 100..110 {
        devices[flows].temperature(f64::from(value));
        devices[held].temperature(f64::from(value));
        let sent = Instant::now();
        straight
            .find(|seen| {
                seen.ep == flowing
                    && number(seen.rep.body.as_ref()).to_bits() == f64::from(value).to_bits()
            })
            .await;
        assert!(
            sent.elapsed() < Duration::from_millis(1_500),
            "{value}: {:?}",
            sent.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // And the others have their acknowledgements: from the disk. None is sent again and again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = devices[held].stats().await.retransmissions;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(devices[held].stats().await.retransmissions, before);

    other.restart().await.unwrap();
    let waits = format!("dev{held}");
    let mut last = 1.0;
    while last < 109.0 {
        let seen = observations.next().await;
        if seen.ep == waits {
            let value = number(seen.rep.body.as_ref());
            assert!(value >= last, "{value} came after {last}");
            last = value;
        }
    }
    let healthy = async || match condition() {
        None => Ok(()),
        Some(said) => anyhow::bail!("{said}"),
    };
    testkit::wait_for(site::PATIENCE, "all is well again", healthy)
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_take_our_clock_costs_no_record() {
    let site = Site::with_real_kafka(&[]).await;
    // As with clocks that differ by more than the topic allows: what waits for company is too old then.
    let strict = [("message.timestamp.before.max.ms", "100")];
    for topic in [
        "iot.gw.registrations",
        "iot.gw.observations",
        "iot.gw.management.rep",
    ] {
        ensure_topic(&site.cluster(), topic, 1, &strict)
            .await
            .unwrap();
    }
    let server = site.start_server_with(&["--kafka-producer-linger-ms=250"]);
    let mut desk = site.desk().await;
    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    let new = registrations.next_record().await;
    assert_eq!(new.timestamp_ms, None);
    let reply = desk
        .ask("dev1", "t1", RequestKind::Observe, "/3303/0/5700", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::Content, "{reply:?}");
    for value in 1..=20 {
        device.temperature(f64::from(value));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let mut last = 0.0;
    while last < 20.0 {
        let record = observations.next_record().await;
        let (_, datum) = frame::split(record.value.as_deref().unwrap()).unwrap();
        let seen = ResponseObserve::from_datum(datum).unwrap();
        let value = number(seen.rep.body.as_ref());
        assert!(value > last, "{value} came after {last}");
        last = value;
    }
    let reply = desk
        .ask("dev1", "t2", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(reply.rep.code, ResponseCode::Content, "{reply:?}");
    assert!(desk.replies.is_quiet().await, "a second reply");
    server.stop().await;
}
