//! Which topics are carried, and which not: other flows than a gateway's, loops, limits, and what operators see and say.

use std::time::{Duration, Instant};

use kafka::{OutRecord, Record};
use mirror::Direction;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::world::{PATIENCE, World, args, gateway};

fn put<'a>(topic: &'a str, key: &'a str, value: &'a str) -> OutRecord<'a> {
    OutRecord {
        topic,
        key: Some(key.as_bytes()),
        value: Some(value.as_bytes()),
        ..OutRecord::default()
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.value.clone().unwrap()).unwrap();
    records.iter().map(text).collect()
}

pub(crate) async fn any_topics_are_carried_by_pattern_either_way(world: &mut World) {
    let name = gateway("plant");
    let (kept, left) = (format!("{name}.a"), format!("{name}.b"));
    world.cloud.put(put(&kept, "k", "1")).await;
    world.cloud.put(put(&left, "k", "2")).await;
    let (topics, exclude) = (format!(r"{name}\..*"), format!(r"{name}\.b"));
    let flow = format!("flow-{name}");
    let more = [
        "--topics",
        &topics,
        "--exclude-topics",
        &exclude,
        "--flow",
        &flow,
        "--transfer",
        "push",
    ];
    let mirror = world.start(args(&world.cloud, &world.edge, &more));
    assert_eq!(texts(&world.edge.read(&kept, 1).await), ["1"]);
    // A topic that comes later.
    let later = format!("{name}.later");
    world.cloud.put(put(&later, "k", "3")).await;
    assert_eq!(texts(&world.edge.read(&later, 1).await), ["3"]);
    mirror.stop().await;
    assert!(!world.edge.has_topic(&left).await);
}

pub(crate) async fn topics_that_would_go_round_are_refused(world: &mut World) {
    let gateway = gateway("round");
    let requests = format!("iot.{gateway}.management.req");
    world.cloud.put(put(&requests, "k", "1")).await;
    let down = world.mirror(Direction::CloudToEdge, &gateway);
    world.edge.read(&requests, 1).await;

    // Everything of the gateway's, requests too: they would come back to where they are from.
    let (topics, flow) = (format!(r"iot\.{gateway}\..*"), format!("all-{gateway}"));
    let more = ["--topics", &topics, "--flow", &flow];
    let refused = world
        .start(args(&world.edge, &world.cloud, &more))
        .ended()
        .await;
    let message = format!("{:#}", refused.unwrap_err());
    assert!(message.contains(&requests), "{message}");
    assert!(
        message.contains(&format!("mirrormaker_edge_{gateway}")),
        "{message}"
    );
    assert_eq!(world.cloud.read(&requests, 1).await.len(), 1);
    // The gateway's own flow leaves them out.
    let up = world.mirror(Direction::EdgeToCloud, &gateway);
    up.is_well().await;
    up.stop().await;
    down.stop().await;
}

pub(crate) async fn what_came_from_the_target_does_not_go_back(world: &mut World) {
    let gateway = gateway("origin-loop");
    let topic = format!("iot.{gateway}.anything");
    let origin = format!("{}/{topic}/0/7", world.cloud.cluster_id().await);
    let headers = [("zeelos-origin".to_owned(), Some(origin.into_bytes()))];
    let returning = OutRecord {
        headers: &headers,
        ..put(&topic, "k", "from the cloud")
    };
    world.edge.put(returning).await;
    world.edge.put(put(&topic, "k", "from the edge")).await;
    // Put aside at the edge, with the headers it came with: the cloud has the record, but not the dead letter.
    let letters = format!("{topic}.dlq");
    let letter = OutRecord {
        headers: &headers,
        ..put(&letters, "k", "put aside")
    };
    world.edge.put(letter).await;
    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    assert_eq!(texts(&world.cloud.read(&topic, 1).await), ["from the edge"]);
    assert_eq!(texts(&world.cloud.read(&letters, 1).await), ["put aside"]);
    mirror.stop().await;
    assert_eq!(dropped(&topic, "loop"), 1.0);
}

pub(crate) async fn what_is_too_old_too_large_or_too_much_is_left_out_and_counted(
    world: &mut World,
) {
    let gateway = gateway("limits");
    let of = |name: &str| format!("iot.{gateway}.{name}");
    let (aged, sized, piled) = (of("aged"), of("sized"), of("piled"));
    let old = Some(1_520_000_000_000);
    let mut all = Vec::new();
    for _ in 0..30 {
        all.push(OutRecord {
            timestamp_ms: old,
            ..put(&aged, "k", "old")
        });
    }
    all.push(put(&aged, "k", "young"));
    // Out of turn, as from a clock that was set.
    all.push(OutRecord {
        timestamp_ms: old,
        ..put(&aged, "k", "old")
    });
    all.push(put(&aged, "k", "young too"));
    let large = "x".repeat(2_000);
    all.extend([
        put(&sized, "k", "small"),
        put(&sized, "k", &large),
        put(&sized, "k", "small too"),
    ]);
    let numbers: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    all.extend(numbers.iter().map(|n| put(&piled, "k", n)));
    world.edge.put_all(&all).await;

    let age = format!(r"iot\.{gateway}\.aged=1h");
    let size = format!(r"iot\.{gateway}\.sized=1000");
    let backlog = format!(r"iot\.{gateway}\.piled=10");
    let more = [
        "--gateway",
        &gateway,
        "--direction",
        "edge-to-cloud",
        "--max-age",
        &age,
        "--max-record-bytes",
        &size,
        "--max-backlog",
        &backlog,
    ];
    let mirror = world.start(args(&world.edge, &world.cloud, &more));
    assert_eq!(
        texts(&world.cloud.read(&aged, 2).await),
        ["young", "young too"]
    );
    assert_eq!(
        texts(&world.cloud.read(&sized, 2).await),
        ["small", "small too"]
    );
    assert_eq!(texts(&world.cloud.read(&piled, 10).await), numbers[40..]);
    mirror.is_well().await;
    mirror.stop().await;
    assert_eq!(dropped(&aged, "age"), 31.0);
    assert_eq!(dropped(&sized, "size"), 1.0);
    assert_eq!(dropped(&piled, "backlog"), 40.0);
}

/// The counter of a topic and reason.
pub(crate) fn dropped(topic: &str, reason: &str) -> f64 {
    let line =
        format!("zeelos_mirror_dropped_records_total{{reason=\"{reason}\",topic=\"{topic}\"}} ");
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&prometheus::gather())
        .unwrap();
    let found = text.lines().find_map(|found| found.strip_prefix(&line));
    found.map_or(0.0, |number| number.parse().unwrap())
}

pub(crate) async fn operators_see_pause_and_resume_a_flow(world: &mut World) {
    let gateway = gateway("rest");
    let topic = format!("iot.{gateway}.observations");
    let listen = format!("127.0.0.1:{}", testkit::free_port());
    let more = [
        "--gateway",
        &gateway,
        "--direction",
        "edge-to-cloud",
        "--rest-listen",
        &listen,
    ];
    let mirror = world.start(args(&world.edge, &world.cloud, &more));
    world.edge.put(put(&topic, "k", "1")).await;
    world.cloud.read(&topic, 1).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let call = async |method: reqwest::Method, path: &str| -> Value {
        let request = client.request(method, format!("http://{listen}{path}"));
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    };
    let (get, set) = (reqwest::Method::GET, reqwest::Method::PUT);
    let status = call(get.clone(), "/status").await;
    assert_eq!(
        status["flow"],
        json!(format!("mirrormaker_cloud_{gateway}"))
    );
    assert_eq!(status["state"], "running");
    assert!(["exactly-once", "at-least-once"].contains(&status["delivery"].as_str().unwrap()));
    assert_eq!(
        status["source"]["cluster"],
        json!(world.edge.cluster_id().await)
    );

    assert_eq!(call(set.clone(), "/pause").await["state"], "paused");
    sleep(Duration::from_millis(500)).await;
    world.edge.put(put(&topic, "k", "2")).await;
    let look = async || {
        let status = call(get.clone(), "/status").await;
        let topic = &status["topics"][0];
        anyhow::ensure!(topic["lag_records"] == 1, "{status}");
        Ok(())
    };
    testkit::wait_for(PATIENCE, "a lag of 1", look)
        .await
        .unwrap();
    assert_eq!(world.cloud.read(&topic, 1).await.len(), 1);
    assert_eq!(call(set, "/resume").await["state"], "running");
    assert_eq!(texts(&world.cloud.read(&topic, 2).await), ["1", "2"]);
    mirror.stop().await;
}

pub(crate) async fn schemas_take_what_they_refer_to_along(world: &mut World) {
    let gateway = gateway("references");
    let topic = format!("iot.{gateway}.orders");
    let post = async |url: &str, subject: &str, body: Value| {
        let request = reqwest::Client::new()
            .post(format!("{url}/subjects/{subject}/versions"))
            .header("content-type", "application/vnd.schemaregistry.v1+json");
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        u32::try_from(answer["id"].as_u64().unwrap()).unwrap()
    };
    let (inner, outer) = (format!("inner-{gateway}"), format!("{topic}-value"));
    let unit = r#"{"type":"record","name":"Unit","namespace":"a","fields":[{"name":"u","type":"string"}]}"#;
    let order = r#"{"type":"record","name":"Order","namespace":"a","fields":[{"name":"unit","type":"Unit"}]}"#;
    let url = world.edge.registry_url.clone();
    post(&url, &inner, json!({"schema": unit})).await;
    let reference = json!([{"name": "a.Unit", "subject": inner, "version": 1}]);
    let id = post(
        &url,
        &outer,
        json!({"schema": order, "references": reference}),
    )
    .await;
    let value = records::frame::join(records::SchemaId(id), b"\x04kg");
    let record = OutRecord {
        topic: &topic,
        value: Some(&value),
        ..OutRecord::default()
    };
    world.edge.put(record).await;

    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    let arrived = world.cloud.read(&topic, 1).await;
    mirror.stop().await;
    let framed = arrived[0].value.as_ref().unwrap();
    let there = world
        .cloud
        .registry()
        .document(crate::world::schema_id(framed))
        .await
        .unwrap();
    let here: Value = serde_json::from_str(there.text()).unwrap();
    assert_eq!(here, serde_json::from_str::<Value>(order).unwrap());
    assert_eq!(there.references().collect::<Vec<_>>(), [inner.as_str()]);
    assert_eq!(framed[5..], value[5..]);
}

pub(crate) async fn a_second_process_takes_the_flow_over(world: &mut World) {
    let gateway = gateway("takeover");
    let topic = format!("iot.{gateway}.observations");
    let first = world.mirror(Direction::EdgeToCloud, &gateway);
    world.edge.put(put(&topic, "k", "1")).await;
    world.cloud.read(&topic, 1).await;
    let second = world.mirror(Direction::EdgeToCloud, &gateway);
    second.is_well().await;
    // With transactions the first one finds out when it has something to carry, else by the offsets.
    let ended = tokio::spawn(first.ended());
    let mut count = 1;
    let began = Instant::now();
    while !ended.is_finished() {
        assert!(began.elapsed() < PATIENCE, "the first one goes on");
        count += 1;
        world.edge.put(put(&topic, "k", &count.to_string())).await;
        sleep(Duration::from_millis(300)).await;
    }
    let message = format!("{:#}", ended.await.unwrap().unwrap_err());
    assert!(message.contains("has taken over the flow"), "{message}");
    let arrived = world.cloud.read(&topic, count).await;
    let mut numbers = texts(&arrived);
    numbers.dedup();
    let wanted: Vec<String> = (1..=count).map(|n| n.to_string()).collect();
    for number in &wanted {
        assert!(numbers.contains(number), "{number} of {count} is missing");
    }
    second.is_well().await;
    second.stop().await;
}

/// A thousand bytes each, random, so that no compression makes them less.
pub(crate) fn random_values(count: usize) -> Vec<Vec<u8>> {
    let mut seed = 11_u64;
    let mut byte = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8 | 1
    };
    let mut value = || (0..1_000).map(|_| byte()).collect();
    (0..count).map(|_| value()).collect()
}

pub(crate) async fn a_capped_link_carries_no_more_and_replies_first(world: &mut World) {
    const CAP: usize = 200_000;
    const BULK: usize = 1_500;
    let gateway = gateway("capped");
    let (bulk, reply) = (
        format!("iot.{gateway}.observations"),
        format!("iot.{gateway}.management.rep"),
    );
    let values = random_values(BULK);
    world.edge.put(put(&reply, "k", "first")).await;
    let records: Vec<_> = values
        .iter()
        .map(|value| OutRecord {
            topic: &bulk,
            value: Some(value),
            ..OutRecord::default()
        })
        .collect();
    // In batches as a gateway makes them, not one for all.
    for some in records.chunks(20) {
        world.edge.put_all(some).await;
    }
    let cap = CAP.to_string();
    let more = [
        "--gateway",
        &gateway,
        "--direction",
        "edge-to-cloud",
        "--bandwidth-limit",
        &cap,
    ];
    let began = Instant::now();
    let mirror = world.start(args(&world.edge, &world.cloud, &more));
    world.cloud.read(&bulk, 100).await;
    let asked = Instant::now();
    world.edge.put(put(&reply, "k", "urgent")).await;
    world.cloud.read(&reply, 2).await;
    let urgent = asked.elapsed();
    let so_far = world.cloud.read(&bulk, 100).await.len();
    assert!(so_far < BULK, "the bulk was through before the reply");
    assert!(urgent < Duration::from_secs(4), "{urgent:?}");
    world.cloud.read(&bulk, BULK).await;
    let took = began.elapsed().as_secs_f64();
    // 1.5 MB at 200 kB/s; what is queued and saved up at the end is less than two seconds of it.
    let least = (BULK * 1_000) as f64 / CAP as f64 - 2.0;
    assert!(took > least, "{took} s");
    mirror.stop().await;
}
