//! What is refused, and what the operator is told.

use crate::support::{Site, counted};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_can_not_be_meant_end_it_at_once() {
    let site = Site::start().await;
    for (line, says) in [
        (
            "temperature --input-topic readings",
            "--output-topic has to be given",
        ),
        (
            "temperature --input-topic readings --output-topic readings",
            "maxima would be read as readings",
        ),
        ("aggregate --input-topic ^iot.*", "is no topic's name"),
        ("aggregate --input-topic ..", "is no topic's name"),
        ("temperature --output-topic a/b", "is no topic's name"),
    ] {
        let error = site.run(line).error().await;
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_instance_on_the_same_state_is_refused() {
    let site = Site::start().await;
    let first = site.run("aggregate");
    site.reads("sensor", "/3303/0/5700", 0, 20.0).await;
    let line = counted("sensor", 0, 1);
    first.console.wait_for(&line).await;
    let error = site.run("aggregate").error().await;
    assert!(error.contains("another instance"), "{error}");
    // The other analytic has a state of its own.
    let other = site.run("temperature");
    assert_eq!(site.settled_maxima().await.len(), 1);
    other.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_state_is_named() {
    let site = Site::start().await;
    let first = site.run("aggregate");
    site.reads("sensor", "/3303/0/5700", 0, 20.0).await;
    let line = counted("sensor", 0, 1);
    first.console.wait_for(&line).await;
    first.stop().await;

    let mut folder = site.folder().join("analytics");
    while let Some(Ok(entry)) = std::fs::read_dir(&folder).unwrap().next() {
        folder = entry.path();
        if folder.is_file() {
            break;
        }
    }
    assert!(folder.ends_with("aggregate-60s.db"), "{folder:?}");
    std::fs::write(&folder, "not a database, not even nearly one".repeat(100)).unwrap();
    let error = site.run("aggregate").error().await;
    assert!(error.contains("aggregate-60s.db"), "{error}");
}
