//! What devices report of their own accord.

use std::collections::{BTreeMap, BTreeSet};

use lwm2m::client::Event;
use lwm2m_codec::Timestamped;
use lwm2m_model::{Node, Value};
use records::ResponseObserve;

use super::records::number;
use super::site::{Device, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_is_a_record_for_each_path_and_time() {
    let site = Site::with_kafka().await;
    let server = site.start_server();
    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    let value = |id, value| Node::single(id, Value::Float(value));
    let group = |time_s: f64, nodes: Vec<(&str, Node)>| Timestamped {
        time_s: Some(time_s),
        content: nodes
            .into_iter()
            .map(|(path, node)| (path.parse().unwrap(), node))
            .collect::<BTreeMap<_, _>>(),
    };
    let at = 1_700_000_000.0;
    device.send(vec![
        group(
            at,
            vec![
                ("/3303/0/5700", value(5700, 20.5)),
                ("/3303/0/5601", value(5601, 1.0)),
            ],
        ),
        group(at + 60.0, vec![("/3303/0/5700", value(5700, 21.5))]),
    ]);
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let record = observations.next().await;
        assert_eq!(
            (record.ticket.as_str(), record.ep.as_str()),
            ("unset", "dev1")
        );
        let tenths = (number(record.rep.body.as_ref()) * 10.0).round() as i64;
        seen.insert((record.path, record.timestamp, tenths));
    }
    let expected = [
        ("/3303/0/5601", 1_700_000_000_000, 10),
        ("/3303/0/5700", 1_700_000_000_000, 205),
        ("/3303/0/5700", 1_700_000_060_000, 215),
    ];
    let expected = expected.map(|(path, at, tenths)| (path.to_owned(), at, tenths));
    assert_eq!(seen, BTreeSet::from(expected));
    // Told that they are safe.
    device
        .wait_for(|event| matches!(event, Event::SendAnswered { code, .. } if code.is_success()))
        .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_while_kafka_is_away_is_kept_and_answered() {
    let mut site = Site::with_kafka().await;
    let server = site.start_server();
    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    site.stop_broker().await;
    let nodes = [5700, 5601].map(|id| {
        let path = format!("/3303/0/{id}").parse().unwrap();
        (path, Node::single(id, Value::Float(7.0)))
    });
    device.send(vec![Timestamped {
        time_s: None,
        content: BTreeMap::from(nodes),
    }]);
    device
        .wait_for(|event| matches!(event, Event::SendAnswered { code, .. } if code.is_success()))
        .await;
    server.kill().await;
    site.start_broker().await;
    let server = site.start_server();
    let mut paths = BTreeSet::new();
    while paths.len() < 2 {
        paths.insert(observations.next().await.path);
    }
    assert_eq!(
        paths,
        BTreeSet::from(["/3303/0/5601", "/3303/0/5700"].map(str::to_owned))
    );
    server.stop().await;
}
