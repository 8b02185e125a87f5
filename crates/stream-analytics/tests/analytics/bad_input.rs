//! What does not count is counted elsewhere, and the next good record goes through.

use kafka::dead_letters;

use crate::support::{INPUT, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_decoded_is_put_aside_and_the_next_good_one_counts() {
    let site = Site::start().await;
    let running = site.run("temperature");
    site.reads("sensor", "/3303/0/5700", 0, 20.0).await;
    let good = site.records(INPUT).await[0].value.clone().unwrap();
    let (id, _) = good.split_at(5);
    let bad: [(&[u8], &str); 5] = [
        (b"21.5", "not_framed"),
        (&[0, 0, 0], "not_framed"),
        (&[0, 0x7f, 0xff, 0xff, 0xff, 2, 0x61], "unknown_schema"),
        (&good[..good.len() - 3], "not_avro"),
        (id, "not_avro"),
    ];
    for (value, _) in bad {
        site.put("sensor", Some(value), None).await;
    }
    // The input's key schema where a value is due.
    let key = site.records(INPUT).await[0].key.clone().unwrap();
    site.put("sensor", Some(&key), None).await;
    site.reads("sensor", "/3303/0/5700", 1, 21.0).await;

    let maxima = site.settled_maxima().await;
    let values: Vec<f64> = maxima.iter().map(|m| m.value()).collect();
    assert_eq!(values, [20.0, 21.0]);
    let letters = site.records("iot.demo.observations.dlq").await;
    let seen: Vec<(&[u8], &str)> = letters
        .iter()
        .map(|letter| {
            let reason = letter.header(dead_letters::HEADER_REASON).unwrap();
            let reason = std::str::from_utf8(reason).unwrap();
            (letter.value.as_deref().unwrap(), reason)
        })
        .collect();
    assert_eq!(seen[..5], bad);
    assert_eq!(seen[5], (&key[..], "other_record"));
    assert_eq!(seen.len(), 6);
    let third = letters[2].header(dead_letters::HEADER_OFFSET).unwrap();
    assert_eq!(third, b"3");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_away_is_waited_for_at_start_and_later() {
    let mut site = Site::start().await;
    let listen = site.registry_url().trim_start_matches("http://").to_owned();
    site.reads("sensor", "/3303/0/5700", 0, 20.0).await;
    site.servers().registry.go_away().await;

    let running = site.run("temperature");
    let reason = running.fails("flow").await;
    assert!(reason.contains(&listen), "{reason}");
    site.servers().registry.come_back().await;
    assert_eq!(site.settled_maxima().await.len(), 1);

    // Away later: what it has answered is known, so what needs no new answer goes on.
    site.servers().registry.go_away().await;
    site.reads("sensor", "/3303/0/5700", 1, 21.0).await;
    testkit::wait_for(site::PATIENCE, "the maximum", async || {
        let records = site
            .records("analytics.demo.observations.maxper30sec")
            .await;
        anyhow::ensure!(records.len() == 3, "{} maxima", records.len());
        Ok(())
    })
    .await
    .unwrap();
    running.stop().await;
}
