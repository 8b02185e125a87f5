//! Records, and what comes over a connection.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse},
    protocol::Decodable,
};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::text;
use crate::{
    raw::{Batch, Raw, data_of, fetch_request},
    support::{PATIENCE, client, now_ms, reader, take, unique},
};

pub(crate) async fn each_codec_is_stored_and_read(bootstrap: &str) {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = unique(codec);
        let sender: FutureProducer = client(bootstrap)
            .set("compression.type", codec)
            .set("linger.ms", "50")
            .set("enable.idempotence", "true")
            .create()
            .unwrap();
        let values: Vec<String> = (0..50)
            .map(|n| format!("{n} {}", "the same words again ".repeat(20)))
            .collect();
        let sent = values.iter().map(|value| {
            let record = FutureRecord::<str, str>::to(&topic)
                .partition(0)
                .key("k")
                .payload(value);
            sender.send(record, PATIENCE)
        });
        let placed = futures::future::join_all(sent).await;
        let offsets: Vec<i64> = placed
            .into_iter()
            .map(|placed| placed.unwrap().offset)
            .collect();
        assert_eq!(offsets, (0..50).collect::<Vec<_>>(), "{codec}");

        let consumer = reader(bootstrap, &topic, 0, 0);
        assert_eq!(take(&consumer, 50).await, values, "{codec}");
        // From the middle of a batch on, too.
        let consumer = reader(bootstrap, &topic, 0, 33);
        assert_eq!(take(&consumer, 17).await, values[33..], "{codec}");
    }
}

pub(crate) async fn a_batch_sent_twice_is_stored_once(bootstrap: &str) {
    let topic = unique("twice");
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 1).await;
    let id = raw.producer_id().await;
    assert_ne!(raw.producer_id().await, id, "no id is given twice");

    let first = Batch::of(&["a", "b", "c"]).by(id, 0, 0).bytes();
    let stored = raw.produce(&topic, 0, first.clone()).await;
    assert_eq!((stored.error_code, stored.base_offset), (0, 0));
    let next = raw
        .produce(&topic, 0, Batch::of(&["d"]).by(id, 0, 3).bytes())
        .await;
    assert_eq!((next.error_code, next.base_offset), (0, 3));

    // The answer to the first was lost, say: the client sends it again, and is told where it is.
    let again = raw.produce(&topic, 0, first.clone()).await;
    assert_eq!((again.error_code, again.base_offset), (0, 0));
    let gap = raw
        .produce(&topic, 0, Batch::of(&["x"]).by(id, 0, 9).bytes())
        .await;
    assert_eq!(gap.error_code, 45, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    let goes_on = raw
        .produce(&topic, 0, Batch::of(&["e"]).by(id, 0, 4).bytes())
        .await;
    assert_eq!((goes_on.error_code, goes_on.base_offset), (0, 4));
    assert_eq!(raw.offset(&topic, 0, -1).await.0, 5);

    // Five batches are remembered; what is older can't be told from a gap.
    for sequence in 5..8 {
        assert_eq!(
            raw.produce(&topic, 0, Batch::of(&["f"]).by(id, 0, sequence).bytes())
                .await
                .error_code,
            0
        );
    }
    let forgotten = raw.produce(&topic, 0, first).await;
    assert!(
        matches!(forgotten.error_code, 45 | 46),
        "got {}",
        forgotten.error_code
    );
    assert_eq!(raw.offset(&topic, 0, -1).await.0, 8);
}

pub(crate) async fn an_old_instance_of_a_producer_is_fenced(bootstrap: &str) {
    let topic = unique("fenced");
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 1).await;
    let id = raw.producer_id().await;
    assert_eq!(
        raw.produce(&topic, 0, Batch::of(&["a"]).by(id, 0, 0).bytes())
            .await
            .error_code,
        0
    );
    let skips = raw
        .produce(&topic, 0, Batch::of(&["b"]).by(id, 1, 5).bytes())
        .await;
    assert_eq!(skips.error_code, 45, "a new epoch starts at sequence 0");
    assert_eq!(
        raw.produce(&topic, 0, Batch::of(&["b"]).by(id, 1, 0).bytes())
            .await
            .error_code,
        0
    );
    let old = raw
        .produce(&topic, 0, Batch::of(&["c"]).by(id, 0, 1).bytes())
        .await;
    assert_eq!(old.error_code, 47, "INVALID_PRODUCER_EPOCH");
}

pub(crate) async fn an_outstanding_fetch_gets_a_new_record(bootstrap: &str) {
    let topic = unique("poll");
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 1).await;
    let nothing = data_of(
        raw.call(11, &fetch_request(&topic, 0, 0, 1 << 20, 50))
            .await,
    );
    assert!(
        nothing.records.unwrap_or_default().is_empty(),
        "an empty log answers when the wait is over"
    );

    let mut waiting = Raw::connect(bootstrap).await;
    waiting
        .send(11, &fetch_request(&topic, 0, 0, 1 << 20, 60_000))
        .await;
    let started = std::time::Instant::now();
    tokio::time::sleep(Duration::from_millis(200)).await;
    raw.produce(&topic, 0, Batch::of(&["news"]).bytes()).await;
    let data = data_of(
        waiting
            .answer::<kafka_protocol::messages::FetchRequest>(11)
            .await,
    );
    assert!(data.records.unwrap().ends_with(b"news\0"));
    assert_eq!(data.high_watermark, 1);
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "the record woke the fetch, not the end of its wait"
    );
}

pub(crate) async fn offsets_are_found_by_time(bootstrap: &str) {
    let topic = unique("time");
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 1).await;
    assert_eq!(
        raw.offset(&topic, 0, 0).await,
        (-1, -1),
        "nothing is in an empty log"
    );
    let start = now_ms() - 600_000;
    let at = |n: i64| start + n * 1_000;
    raw.produce(
        &topic,
        0,
        Batch::of(&["0", "1", "2"])
            .at(&[at(0), at(1), at(2)])
            .bytes(),
    )
    .await;
    raw.produce(
        &topic,
        0,
        Batch::of(&["3", "4"]).at(&[at(9), at(5)]).bytes(),
    )
    .await;
    raw.produce(&topic, 0, Batch::of(&["5"]).at(&[at(7)]).bytes())
        .await;

    assert_eq!(raw.offset(&topic, 0, 0).await, (0, at(0)));
    assert_eq!(raw.offset(&topic, 0, at(1)).await, (1, at(1)));
    assert_eq!(raw.offset(&topic, 0, at(1) + 1).await, (2, at(2)));
    assert_eq!(raw.offset(&topic, 0, at(3)).await, (3, at(9)));
    assert_eq!(
        raw.offset(&topic, 0, at(9) + 1).await,
        (-1, -1),
        "nothing is that late"
    );
    assert_eq!(raw.offset(&topic, 0, -2).await.0, 0);
    assert_eq!(raw.offset(&topic, 0, -1).await.0, 6);
    assert_eq!(
        raw.offset(&topic, 0, -3).await,
        (3, at(9)),
        "the record with the largest timestamp"
    );
}

pub(crate) async fn bad_batches_are_refused_and_the_next_is_stored(bootstrap: &str) {
    let topic = unique("bad");
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 1).await;
    let good = Batch::of(&["good"]).bytes();

    let mut flipped = BytesMut::from(&good[..]);
    *flipped.last_mut().unwrap() ^= 1;
    let refused = raw.produce(&topic, 0, flipped.freeze()).await;
    assert_eq!(refused.error_code, 2, "CORRUPT_MESSAGE");
    let mut old = BytesMut::from(&good[..]);
    old[16] = 1;
    let refused = raw.produce(&topic, 0, old.freeze()).await;
    assert_eq!(
        refused.error_code, 87,
        "INVALID_RECORD for message format 1"
    );
    let two = [&good[..], &good[..]].concat();
    let refused = raw.produce(&topic, 0, two.into()).await;
    assert_eq!(refused.error_code, 87, "INVALID_RECORD for two batches");
    let large = "x".repeat((1 << 20) + 100);
    let refused = raw.produce(&topic, 0, Batch::of(&[&large]).bytes()).await;
    assert_eq!(refused.error_code, 10, "MESSAGE_TOO_LARGE");

    let stored = raw.produce(&topic, 0, good).await;
    assert_eq!(
        (stored.error_code, stored.base_offset),
        (0, 0),
        "nothing that was refused took an offset"
    );
}

pub(crate) async fn fetch_honours_its_limits(bootstrap: &str) {
    let topic = unique("limits");
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 1).await;
    let value = "v".repeat(10_000);
    for _ in 0..10 {
        raw.produce(&topic, 0, Batch::of(&[&value]).bytes()).await;
    }
    let batch = Batch::of(&[&value]).bytes().len();
    let first = raw.fetch(&topic, 0, 0, 1).await;
    assert_eq!(
        first.records.unwrap().len(),
        batch,
        "the first batch comes whatever its size"
    );
    let some = raw.fetch(&topic, 0, 4, 3 * batch as i32).await;
    assert_eq!(some.records.unwrap().len(), 3 * batch);
    let all = raw.fetch(&topic, 0, 0, 1 << 20).await;
    assert_eq!(all.records.unwrap().len(), 10 * batch);
    assert_eq!(all.log_start_offset, 0);
    for outside in [11, -1] {
        assert_eq!(
            raw.fetch(&topic, 0, outside, 1 << 20).await.error_code,
            1,
            "OFFSET_OUT_OF_RANGE at {outside}"
        );
    }
    let end = raw.fetch(&topic, 0, 10, 1 << 20).await;
    assert_eq!(
        (end.error_code, end.records.unwrap_or_default().len()),
        (0, 0)
    );
    assert_eq!(raw.fetch(&topic, 5, 0, 1 << 20).await.error_code, 3);
}

pub(crate) async fn an_unknown_api_version_is_answered_in_version_0(bootstrap: &str) {
    let mut raw = Raw::connect(bootstrap).await;
    let mut frame = crate::raw::header(ApiKey::ApiVersions, 99);
    // No tagged fields in the header; then a body nobody knows.
    frame.put_u8(0);
    frame.put_slice(b"whatever a version from the future holds");
    raw.send_frame(&frame).await;
    let mut answer = raw.frame().await.unwrap().split_off(4);
    let response = ApiVersionsResponse::decode(&mut answer, 0).unwrap();
    assert_eq!(response.error_code, 35, "UNSUPPORTED_VERSION");
    let own = response
        .api_keys
        .iter()
        .find(|api| api.api_key == ApiKey::ApiVersions as i16)
        .unwrap();
    assert!(own.max_version >= 3);
    // The same connection goes on, in a version both know.
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("raw"))
        .with_client_software_version(text("1"));
    raw.send(3, &request).await;
    assert_eq!(raw.answer::<ApiVersionsRequest>(3).await.error_code, 0);
}

pub(crate) async fn garbage_on_a_connection_does_not_disturb_others(bootstrap: &str) {
    let topic = unique("garbage");
    let mut good = Raw::connect(bootstrap).await;
    good.create_topic(&topic, 1).await;
    let mut truncated = crate::raw::header(ApiKey::Fetch, 4);
    truncated.put_slice(&[0, 0]);
    let mut huge = crate::raw::header(ApiKey::Metadata, 1);
    huge.put_i32(i32::MAX);
    let garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n".to_vec(),
        vec![0xff; 64],
        framed(&[]),
        framed(&[0; 3]),
        framed(&[0x7f; 200]),
        framed(&truncated),
        framed(&huge),
    ];
    for bytes in garbage {
        let mut bad = Raw::connect(bootstrap).await;
        bad.send_bytes(&bytes).await;
        assert_eq!(
            bad.frame().await,
            None,
            "the connection is closed after {bytes:?}"
        );
        let stored = good
            .produce(&topic, 0, Batch::of(&["still here"]).bytes())
            .await;
        assert_eq!(stored.error_code, 0);
    }
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes()[..], bytes].concat()
}

pub(crate) async fn kcat_produces_and_consumes(bootstrap: &str) {
    // Installed where that is possible, else the story fails and says how.
    testkit::ensure_command("kcat", &["kcat"])
        .await
        .expect("apt-get install kcat");
    let topic = unique("kcat");
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 1).await;
    let run = |args: &[&str], input: &str| {
        use std::{
            io::Write,
            process::{Command, Stdio},
        };
        let spawned = Command::new("kcat")
            .args(["-b", bootstrap, "-t", &topic])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.expect("kcat is not installed: apt-get install kcat");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let lines: String = (0..20).map(|n| format!("key{n}:value {n}\n")).collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        run(&["-P", "-K:", "-z", codec], &lines);
    }
    assert_eq!(run(&["-C", "-K:", "-e", "-q"], ""), lines.repeat(5));
    assert_eq!(
        run(&["-C", "-o", "-2", "-e", "-q"], ""),
        "value 18\nvalue 19\n"
    );
    assert!(run(&["-L"], "").contains(&topic));
}
