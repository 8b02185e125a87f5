use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka::{DeadLetters, ProcessError};
use tokio::time::sleep;

use site::Kafka;

use crate::support::{Member, settings, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_offered_until_it_is_taken_and_then_never_again() {
    let kafka = Kafka::start().await;
    kafka.put("t", 0, &["a", "b"]).await;
    let attempts = AtomicUsize::new(0);
    let member = Member::start(&kafka, settings("g", &["t"]), move |_| {
        let first = attempts.fetch_add(1, Ordering::Relaxed) < 2;
        async move {
            if first {
                return Err(ProcessError::Retry("the database is away".to_owned()));
            }
            Ok(())
        }
    });
    assert_eq!(member.condition(true).await, "the database is away");
    member.condition(false).await;
    member.until("three attempts", |told| told.len() == 3).await;
    assert!(
        member
            .told
            .lock()
            .iter()
            .all(|batch| *batch == ["0:a", "0:b"])
    );
    member.stop().await;

    kafka.put("t", 0, &["c"]).await;
    let member = Member::content(&kafka, settings("g", &["t"]));
    member.has("0:c").await;
    assert_eq!(member.all(), ["0:c"]);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_taken_is_offered_to_the_next() {
    let kafka = Kafka::start().await;
    kafka.put("t", 0, &["a", "b"]).await;
    let member = Member::start(&kafka, settings("g", &["t"]), |_| async {
        Err(ProcessError::Retry("never".to_owned()))
    });
    member.has("0:b").await;
    member.stop().await;

    let mut limited = settings("g", &["t"]);
    limited.max_retries = Some(2);
    let member = Member::start(&kafka, limited, |_| async {
        Err(ProcessError::Retry("never".to_owned()))
    });
    let told = Arc::clone(&member.told);
    let message = member.error().await;
    assert_eq!(message, "gave up after 2 retries: never");
    assert_eq!(told.lock().len(), 3);

    let member = Member::start(&kafka, settings("g", &["t"]), |_| async {
        Err(ProcessError::Fatal(anyhow::anyhow!(
            "the producer is broken"
        )))
    });
    let message = member.error().await;
    assert_eq!(message, "the producer is broken");

    let member = Member::content(&kafka, settings("g", &["t"]));
    member.has("0:b").await;
    assert_eq!(member.all(), ["0:a", "0:b"]);
    member.stop().await;
}

/// A batch takes longer than the session and than a rebalance: the member stays, the group goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_batch_keeps_its_place_while_another_member_joins() {
    let kafka = Kafka::start().await;
    kafka.topic("t", 2, &[]).await;
    kafka.put("t", 0, &["a"]).await;
    kafka.put("t", 1, &["b"]).await;
    // Only the first batch takes long.
    let busy = Arc::new(AtomicBool::new(true));
    let working = Arc::clone(&busy);
    let mut both = settings("g", &["t"]);
    both.batch_wait = Duration::from_secs(2);
    let first = Member::start(&kafka, both, move |_| {
        let working = Arc::clone(&working);
        async move {
            if working.load(Ordering::Relaxed) {
                sleep(Duration::from_secs(7)).await;
                working.store(false, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    first
        .until("both records", |told| told.concat().len() == 2)
        .await;

    let second = Member::content(&kafka, settings("g", &["t"]));
    second
        .until("a partition of its own", |told| !told.is_empty())
        .await;
    assert!(
        busy.load(Ordering::Relaxed),
        "the rebalance did not wait for the batch"
    );
    let moved = second.all()[0].clone();
    let kept = first
        .all()
        .into_iter()
        .find(|record| *record != moved)
        .unwrap();

    kafka.put("t", 0, &["later"]).await;
    kafka.put("t", 1, &["later"]).await;
    let (moved_later, kept_later) = (
        format!("{}:later", &moved[..1]),
        format!("{}:later", &kept[..1]),
    );
    second.has(&moved_later).await;
    first.has(&kept_later).await;
    assert_eq!(second.all(), [moved, moved_later]);
    assert_eq!(
        first.all().len(),
        3,
        "its own partition went on where the batch had ended"
    );
    first.stop().await;
    second.stop().await;

    // Both had committed: a third has nothing to do.
    kafka.put("t", 0, &["last"]).await;
    let third = Member::content(&kafka, settings("g", &["t"]));
    third.has("0:last").await;
    assert_eq!(third.all(), ["0:last"]);
    third.stop().await;
}

/// Two members that process one partition could overtake each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_waits_gives_up_what_another_member_got() {
    let kafka = Kafka::start().await;
    kafka.topic("t", 2, &[]).await;
    kafka.put("t", 0, &["a"]).await;
    kafka.put("t", 1, &["b"]).await;
    let away = Arc::new(AtomicBool::new(true));
    let database = Arc::clone(&away);
    let mut both = settings("g", &["t"]);
    both.batch_wait = Duration::from_secs(2);
    let first = Member::start(&kafka, both, move |_| {
        let away = database.load(Ordering::Relaxed);
        async move {
            if away {
                return Err(ProcessError::Retry("the database is away".to_owned()));
            }
            Ok(())
        }
    });
    first
        .until("both in one batch", |told| {
            told.last().is_some_and(|last| last.len() == 2)
        })
        .await;
    let second = Member::content(&kafka, settings("g", &["t"]));
    second.until("one of them", |told| !told.is_empty()).await;
    first
        .until("the other alone", |told| {
            told.last().is_some_and(|last| last.len() == 1)
        })
        .await;
    let moved = second.all();
    let kept = first.told.lock().last().unwrap().clone();
    assert_ne!(moved, kept);

    away.store(false, Ordering::Relaxed);
    first.condition(false).await;
    first.stop().await;
    second.until("the whole topic", |_| true).await;
    kafka.put("t", 0, &["last"]).await;
    kafka.put("t", 1, &["last"]).await;
    second.has("0:last").await;
    second.has("1:last").await;
    assert_eq!(
        second.all().len(),
        3,
        "what the first had processed was committed: {:?}",
        second.all()
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_record_is_put_aside_with_its_reason() {
    let kafka = Kafka::start().await;
    kafka.put("t", 0, &["good", "bad", "fine"]).await;
    let dead_letters = DeadLetters::new(kafka.producer());
    let member = Member::start(&kafka, settings("g", &["t"]), move |batch| {
        let dead_letters = dead_letters.clone();
        async move {
            for record in batch.iter().filter(|record| text(record) == "0:bad") {
                let put = dead_letters
                    .put(record, "not_framed", &"because ".repeat(1_000))
                    .await;
                put.map_err(|error| ProcessError::Retry(error.to_string()))?;
            }
            Ok(())
        }
    });
    member.has("0:fine").await;
    let letters = kafka.read("t.dlq", 1).await;
    let header = |name: &str| String::from_utf8(letters[0].header(name).unwrap().to_vec()).unwrap();
    assert_eq!(letters[0].value.as_deref(), Some(&b"bad"[..]));
    assert_eq!(header("zeelos-dlq-reason"), "not_framed");
    assert_eq!(header("zeelos-dlq-topic"), "t");
    assert_eq!(header("zeelos-dlq-partition"), "0");
    assert_eq!(header("zeelos-dlq-offset"), "1");
    assert_eq!(
        header("zeelos-dlq-message").len(),
        1_000,
        "a bound, whatever the reason quotes"
    );
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_is_too_large_keeps_its_place() {
    let kafka = Kafka::start().await;
    kafka.put("t", 0, &[&"x".repeat(5_000)]).await;
    kafka
        .topic("t.dlq", 1, &[("max.message.bytes", "2000")])
        .await;
    let record = kafka.read("t", 1).await.remove(0);
    DeadLetters::new(kafka.producer())
        .put(&record, "not_framed", "why")
        .await
        .unwrap();
    let letter = kafka.read("t.dlq", 1).await.remove(0);
    assert_eq!(letter.value, None);
    assert_eq!(letter.header("zeelos-dlq-offset"), Some(&b"0"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_away_are_waited_for_and_said_so() {
    let mut kafka = Kafka::away();
    let member = Member::content(&kafka, settings("g", &["t"]));
    let why = member.condition(true).await;
    assert!(why.contains("no Kafka broker"), "{why}");
    kafka.come_back().await;
    member.condition(false).await;
    kafka.put("t", 0, &["a"]).await;
    member.has("0:a").await;

    kafka.go_away().await;
    member.condition(true).await;
    kafka.come_back().await;
    // Although there is nothing to read.
    member.condition(false).await;
    kafka.put("t", 0, &["b"]).await;
    member.has("0:b").await;
    // The group itself was gone with the broker, so what was not committed yet may have come again.
    let mut all = member.all();
    all.dedup();
    assert_eq!(all, ["0:a", "0:b"]);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_comes_later_is_found_within_seconds() {
    let kafka = Kafka::start().await;
    let named = Member::content(&kafka, settings("named", &["site.a"]));
    let matched = Member::content(&kafka, settings("matched", &[r"^site\..+"]));
    // Both are settled in their groups.
    kafka.put("site.z", 0, &["z"]).await;
    matched.has("0:z").await;
    sleep(Duration::from_secs(2)).await;
    let put = Instant::now();
    kafka.put("site.a", 0, &["a"]).await;
    let produced = put.elapsed();
    named.has("0:a").await;
    let by_name = put.elapsed();
    matched.has("0:a").await;
    let by_pattern = put.elapsed();
    kafka.put("site.b", 0, &["b"]).await;
    let put = Instant::now();
    matched.has("0:b").await;
    let new = put.elapsed();
    println!(
        "produced after {produced:?}, read by name after {by_name:?}, by pattern {by_pattern:?}; a new one {new:?}"
    );
    assert!(by_name < Duration::from_secs(5), "{by_name:?}");
    assert!(new < Duration::from_secs(5), "{new:?}");
    named.stop().await;
    matched.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_hangs_does_not_hold_the_end() {
    let kafka = Kafka::start().await;
    kafka.put("t", 0, &["a"]).await;
    let member = Member::start(&kafka, settings("g", &["t"]), |_| std::future::pending());
    member.has("0:a").await;
    let told = Instant::now();
    member.stop().await;
    assert!(
        told.elapsed() < Duration::from_secs(15),
        "{:?}",
        told.elapsed()
    );

    let member = Member::content(&kafka, settings("g", &["t"]));
    member.has("0:a").await;
    member.stop().await;
}
