//! What tests lean on without seeing it: failures that say why, ports nobody else gets, children that don't stay.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use testkit::{Launch, RunDir, free_port, wait_for};

#[tokio::test]
async fn a_wait_that_fails_tells_what_was_seen_last() {
    let mut looks = 0;
    let error = wait_for::<(), _, _>(Duration::from_millis(300), "the tide", || {
        looks += 1;
        std::future::ready(Err(anyhow::anyhow!("look {looks}: still low")))
    })
    .await
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("the tide") && error.contains(&format!("look {looks}: still low")),
        "{error}"
    );
    assert!(looks > 2);

    let hung = wait_for(Duration::from_millis(100), "an answer", async || {
        std::future::pending::<anyhow::Result<()>>().await
    })
    .await
    .unwrap_err();
    assert!(hung.to_string().contains("no answer at all"), "{hung}");
}

#[test]
fn a_free_port_is_given_once_and_can_be_bound_for_both() {
    let ports: BTreeSet<u16> = (0..200).map(|_| free_port()).collect();
    assert_eq!(ports.len(), 200);
    for port in ports {
        std::net::TcpListener::bind(("127.0.0.1", port)).expect("free for TCP");
        std::net::UdpSocket::bind(("127.0.0.1", port)).expect("free for UDP");
    }
}

#[tokio::test]
async fn a_program_that_ends_too_early_is_reported_at_once_with_its_last_words()
-> anyhow::Result<()> {
    let dir = RunDir::new("early")?;
    let mut child = Launch::new("the fragile one", "sh")
        .args(["-c", "echo no licence found >&2; exit 3"])
        .spawn(&dir.path().join("log"))?;
    let error = child
        .ready(Duration::from_secs(60), async || {
            anyhow::bail!("not yet") as anyhow::Result<()>
        })
        .await
        .unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.contains("the fragile one")
            && said.contains("exit status: 3")
            && said.contains("no licence found"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn a_dropped_child_and_its_directory_are_gone() -> anyhow::Result<()> {
    let dir = RunDir::new("dropped")?;
    let path = dir.path().to_owned();
    let child = Launch::new("the sleeper", "sleep")
        .arg("600")
        .spawn(&dir.path().join("log"))?;
    let entry = format!("/proc/{}", child.id());
    assert!(Path::new(&entry).exists());
    drop(child);
    drop(dir);
    assert!(!Path::new(&entry).exists());
    assert!(!path.exists());
    Ok(())
}

/// A child belongs to the process, not to the thread that asked for it: tests share servers across their threads.
#[tokio::test]
async fn a_child_outlives_the_thread_that_started_it() -> anyhow::Result<()> {
    let dir = RunDir::new("thread")?;
    let log = dir.path().join("log");
    let spawn = move || Launch::new("echo", "cat").spawn(&log);
    let mut child = std::thread::spawn(spawn)
        .join()
        .expect("the thread ends well")?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    child.write_line("still here")?;
    child
        .wait_for_line(Duration::from_secs(10), "an echo", |line| {
            line == "still here"
        })
        .await?;

    child.pause()?;
    child.write_line("while paused")?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!child.output().contains("while paused"));
    child.resume()?;
    child
        .wait_for_line(Duration::from_secs(10), "an echo", |line| {
            line == "while paused"
        })
        .await?;
    assert!(!child.terminate(Duration::from_secs(10)).await?.success());
    Ok(())
}

/// The kernel ends children of a test process that was killed and could not clean up.
#[tokio::test]
async fn no_child_outlives_a_killed_test_process() -> anyhow::Result<()> {
    let dir = RunDir::new("orphans")?;
    let note = dir.path().join("pid");
    // This very program again, as the test process that will be killed.
    let mut inner = Launch::new("inner test", std::env::current_exe()?)
        .args(["--exact", "inner_process_with_a_child", "--nocapture"])
        .env("TESTKIT_NOTE", &note)
        .spawn(&dir.path().join("log"))?;
    let entry = inner
        .ready(Duration::from_secs(20), async || {
            let pid = std::fs::read_to_string(&note)?;
            anyhow::ensure!(pid.ends_with('\n'), "half written");
            Ok(format!("/proc/{}", pid.trim()))
        })
        .await?;
    assert!(Path::new(&entry).exists());
    inner.kill();
    wait_for(
        Duration::from_secs(5),
        "the orphan to be gone",
        async || {
            // An orphan that nobody has collected yet is a zombie, without a command line.
            let line = std::fs::read(format!("{entry}/cmdline")).unwrap_or_default();
            anyhow::ensure!(line.is_empty(), "it still runs");
            Ok(())
        },
    )
    .await
}

/// Does something only when the test above runs it.
#[tokio::test]
async fn inner_process_with_a_child() -> anyhow::Result<()> {
    let Some(note) = std::env::var_os("TESTKIT_NOTE") else {
        return Ok(());
    };
    let dir = RunDir::new("inner")?;
    let child = Launch::new("the sleeper", "sleep")
        .arg("600")
        .spawn(&dir.path().join("log"))?;
    std::fs::write(note, format!("{}\n", child.id()))?;
    tokio::time::sleep(Duration::from_secs(600)).await;
    Ok(())
}

/// Starting servers side by side, as tasks of a runtime with several threads, needs futures that can move.
#[test]
fn servers_can_be_started_from_spawned_tasks() {
    fn can_move<T: Send>(_: T) {}
    can_move(testkit::RealKafka::start());
    can_move(testkit::RealKafka::shared());
    can_move(testkit::Apicurio::start());
    can_move(testkit::InfluxDb1::start());
    can_move(testkit::VictoriaMetrics::start());
    can_move(testkit::OrientDb::start());
    can_move(testkit::LeshanClient::start("coap://127.0.0.1:5683", "a"));
}
