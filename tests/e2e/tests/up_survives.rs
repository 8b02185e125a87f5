//! `zeelos up` under bad luck: every child killed in turn, itself killed, stopped, and started again on its data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use e2e::{Outcome, Process, Service, Site, Tap, Up, Zeelos, is_running, kill_9, signal};
use influxdb_sink::embedded::{Filter, StoredPoint, query};
use testkit::{RunDir, free_port, wait_for};
use tokio::sync::Mutex;

/// One `up` at a time: each wants the contract's ports first.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const SENSORS: [&str; 3] = ["demo-sensor-1", "demo-sensor-2", "demo-sensor-3"];
const PATHS: [&str; 2] = ["/3303/0/5700", "/3303/1/5700"];

/// Time for all that is behind a crash: restart with back-off, a session of the consumer group, and the way to the store.
const RECOVERY: Duration = Duration::from_secs(60);

/// Every child: its place in the plan's order does not matter here, but what words its command line has.
const CHILDREN: [(&str, &[&str]); 11] = [
    ("demo-leshan-server-kafka", &["leshan-server-kafka"]),
    ("demo-mirror-cloud-to-edge", &["mirror", "cloud-to-edge"]),
    ("demo-mirror-edge-to-cloud", &["mirror", "edge-to-cloud"]),
    ("demo-kafka", &["embedded-kafka", "/demo/kafka"]),
    ("demo-schema-registry", &["schema-registry", "EDGE"]),
    ("cloud-kafka", &["embedded-kafka", "/cloud/kafka"]),
    ("cloud-schema-registry", &["schema-registry", "CLOUD"]),
    ("cloud-influxdb-sink", &["influxdb-sink"]),
    ("cloud-asset-sink", &["asset-sink"]),
    (
        "demo-analytics-temperature",
        &["stream-analytics", "temperature"],
    ),
    ("demo-sensor-2", &["client-demo", "demo-sensor-2"]),
];

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

fn points(store: &Path, ep: &str, path: &str) -> anyhow::Result<Vec<StoredPoint>> {
    let filter = Filter {
        ep: Some(ep),
        path: Some(path),
        ..Filter::default()
    };
    Ok(query(store, &filter)?)
}

/// Waits until the store has a value of every temperature that was measured after `since`.
async fn values_arrive(up: &Up, since: i64) -> anyhow::Result<()> {
    wait_for(RECOVERY, "new values in the store", async || {
        for sensor in SENSORS {
            for path in PATHS {
                let latest = points(&up.time_series(), sensor, path)?.into_iter().next();
                let latest = latest.with_context(|| format!("no value of {sensor} {path}"))?;
                ensure!(
                    latest.time_ms > since && latest.value.is_some(),
                    "{sensor} {path}: the last one is {} ms old",
                    now_ms() - latest.time_ms
                );
            }
        }
        Ok(())
    })
    .await
}

/// Waits for the maximum of a reading that is later than `since`; at the latest a new window has one.
async fn maxima_arrive(up: &Up, since: i64) -> anyhow::Result<()> {
    let mut maxima = Tap::open(&up.edge, "analytics.demo.observations.maxper30sec").await?;
    maxima
        .wait(RECOVERY, "a new maximum", |seen| {
            seen.value["timestamp"].as_i64() > Some(since)
        })
        .await
        .map(drop)
}

/// A read from the cloud, by ticket.
fn read(site: &Site, endpoint: &str, ticket: &str) -> Zeelos {
    Zeelos::new(&format!(
        "send demo {endpoint} read /3/0/0 --timeout 50 --ticket {ticket}"
    ))
    .at(site)
}

fn is_answered(outcome: &Outcome, ticket: &str) -> anyhow::Result<()> {
    ensure!(outcome.status.success(), "{ticket}: {outcome}");
    let reply = outcome.json()?;
    assert_eq!(reply["ticket"], ticket, "{outcome}");
    assert_eq!(reply["rep"]["code"], "CONTENT", "{outcome}");
    Ok(())
}

/// What is listened on tells one registry from the other.
fn words_of<'a>(up: &'a Up, words: &[&'a str]) -> Vec<&'a str> {
    words
        .iter()
        .map(|word| match *word {
            "EDGE" => up.edge.registry.trim_start_matches("http://"),
            "CLOUD" => up.cloud.registry.trim_start_matches("http://"),
            other => other,
        })
        .collect()
}

async fn gone(processes: &[Process]) -> anyhow::Result<()> {
    wait_for(Duration::from_secs(15), "all children to end", async || {
        let left: Vec<&Process> = processes
            .iter()
            .filter(|child| is_running(child.id))
            .collect();
        ensure!(left.is_empty(), "still there: {left:?}");
        Ok(())
    })
    .await
}

/// One after the other, every child is killed while a request is on its way; each time the request is answered and
/// values flow again, and at the end nobody had to ask twice.
#[tokio::test]
async fn any_child_may_be_killed() -> anyhow::Result<()> {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = RunDir::new("up-survives")?;
    let mut up = Up::start(&dir.path().join("data"), &[]).await?;
    values_arrive(&up, 0).await.with_context(|| up.logs())?;

    let mut tickets = Vec::new();
    for (name, words) in CHILDREN {
        let words = words_of(&up, words);
        let ticket = format!("after-{name}");
        let victim = up.child(&words)?;
        // A client of the cloud's own broker or registry fails at once without it, as any client would.
        let waits = name.starts_with("cloud-kafka") || name.starts_with("cloud-schema");
        let asking = read(&up.cloud, "demo-sensor-1", &ticket);
        let started = now_ms();
        let crash = async {
            if !waits {
                // The request is somewhere between the cloud and the device now.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            kill_9(victim.id)?;
            up.replaced(&words, victim.id).await
        };
        let outcome = if waits {
            crash.await.with_context(|| up.log_of(name))?;
            asking.run().await?
        } else {
            let (crash, outcome) = tokio::join!(crash, asking.run());
            crash.with_context(|| up.log_of(name))?;
            outcome?
        };
        is_answered(&outcome, &ticket)
            .with_context(|| format!("{name} was killed; its log ends:\n{}", up.log_of(name)))?;
        let answered = now_ms() - started;
        values_arrive(&up, now_ms())
            .await
            .with_context(|| format!("{name} was killed; its log ends:\n{}", up.log_of(name)))?;
        if name.contains("temperature") {
            maxima_arrive(&up, started)
                .await
                .with_context(|| up.log_of(name))?;
        }
        println!(
            "{name}: answered after {answered} ms, values again after {} ms",
            now_ms() - started
        );
        tickets.push(ticket);
    }
    assert!(up.process().exited()?.is_none(), "up itself runs on");

    nobody_asked_twice(&up, &tickets).await
}

async fn nobody_asked_twice(up: &Up, tickets: &[String]) -> anyhow::Result<()> {
    // Every request that was accepted has its reply, and no two replies to a ticket say different things.
    let mut replies = Tap::open(&up.cloud, "iot.demo.management.rep").await?;
    let mut by_ticket: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for ticket in tickets {
        replies.ticket(Duration::from_secs(10), ticket).await?;
    }
    let all = replies.records();
    for reply in &all {
        let ticket = reply.value["ticket"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        by_ticket
            .entry(ticket)
            .or_default()
            .insert(reply.value.to_string());
    }
    for (ticket, different) in &by_ticket {
        assert_eq!(different.len(), 1, "{ticket}: {different:?}");
    }
    println!(
        "{} replies to {} tickets; repeated ones are the same",
        all.len(),
        by_ticket.len()
    );

    // The requests are those that were made, once each: `up` asks for what it observes once, we for the rest.
    let mut requests = Tap::open(&up.cloud, "iot.demo.management.req").await?;
    let last = tickets.last().context("something was killed")?;
    requests.ticket(Duration::from_secs(10), last).await?;
    let asked: Vec<String> = requests
        .records()
        .iter()
        .filter(|request| request.value["payload"]["kind"] == "observe")
        .map(|request| request.value["ticket"].to_string())
        .collect();
    let different: BTreeSet<&String> = asked.iter().collect();
    assert_eq!(asked.len(), SENSORS.len() * PATHS.len(), "{asked:?}");
    assert_eq!(different.len(), asked.len(), "{asked:?}");

    // Devices that were not killed have registered once, and every temperature has one observation throughout.
    let mut registrations = Tap::open(&up.cloud, "iot.demo.registrations").await?;
    let killed = "demo-sensor-2";
    registrations
        .wait(
            Duration::from_secs(10),
            "the killed sensor's second registration",
            |seen| seen.key.contains(killed) && seen.value["kind"] == "NEW" && seen.offset > 0,
        )
        .await?;
    for sensor in SENSORS {
        // (A mirror that was killed repeats what it had not committed.)
        let new: BTreeSet<String> = registrations
            .records()
            .iter()
            .filter(|event| event.value["kind"] == "NEW" && event.key.contains(sensor))
            .map(|event| event.value.to_string())
            .collect();
        let expected = if sensor == killed { 2 } else { 1 };
        assert_eq!(new.len(), expected, "registrations of {sensor}: {new:?}");
        for path in PATHS.iter().filter(|_| sensor != killed) {
            let tokens: BTreeSet<String> = points(&up.time_series(), sensor, path)?
                .into_iter()
                .map(|point| point.observation_id)
                .filter(|token| !token.is_empty())
                .collect();
            assert_eq!(tokens.len(), 1, "{sensor} {path}: {tokens:?}");
        }
        let vertex = asset_sink::embedded::endpoint(&up.graph(), sensor)?;
        let vertex = vertex.with_context(|| format!("{sensor} is not in the graph"))?;
        assert!(
            vertex.online && vertex.objects.contains(&(3303, 1)),
            "{vertex:?}"
        );
    }
    Ok(())
}

/// However it ends, no child outlives it.
#[tokio::test]
async fn it_takes_its_children_with_it() -> anyhow::Result<()> {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = RunDir::new("up-ends")?;

    let mut up = Up::start(&dir.path().join("killed"), &["--sensors", "1"]).await?;
    let children = up.children();
    assert!(children.len() >= 9, "{children:?}");
    up.process().kill();
    let killed = Instant::now();
    gone(&children).await.context("after kill -9 of up")?;
    println!("kill -9: all gone after {:?}", killed.elapsed());

    for interrupt in ["INT", "TERM"] {
        let data = dir.path().join(interrupt);
        let mut up = Up::start(&data, &["--sensors", "1"]).await?;
        wait_for(RECOVERY, "a value in the store", async || {
            let found = points(&up.time_series(), "demo-sensor-1", PATHS[0])?;
            ensure!(!found.is_empty(), "none");
            Ok(())
        })
        .await
        .with_context(|| up.logs())?;
        let children = up.children();
        let id = up.process().id();
        signal(id, interrupt)?;
        let told = Instant::now();
        let code = up.ended(Duration::from_secs(30)).await?;
        println!("SIG{interrupt}: all gone after {:?}", told.elapsed());
        assert_eq!(
            code.code(),
            Some(0),
            "SIG{interrupt}: {}",
            up.process().output()
        );
        let left: Vec<&Process> = children
            .iter()
            .filter(|child| is_running(child.id))
            .collect();
        assert!(left.is_empty(), "SIG{interrupt} left {left:?}");
        let said = up.process().output();
        assert!(
            !said.contains("killed"),
            "a child did not stop in time: {said}"
        );
    }
    Ok(())
}

/// A device of its own stays away from `up` while that is killed and started again: it is registered still, answers,
/// and its observation goes on, though neither it nor anybody else said a word.
#[tokio::test]
async fn its_data_outlives_it() -> anyhow::Result<()> {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = RunDir::new("up-again")?;
    let data = dir.path().join("data");
    let mut up = Up::start(&data, &["--sensors", "1"]).await?;
    let device_at = format!("127.0.0.1:{}", free_port());
    let coap = up.coap.clone();
    let device = [
        "-u",
        &coap,
        "-n",
        "outsider",
        "--lifetime",
        "600",
        "--bind",
        &device_at,
    ];
    let mut outsider = Service::spawn("client-demo", device)?;

    let mut registrations = Tap::open(&up.cloud, "iot.demo.registrations").await?;
    registrations
        .wait(RECOVERY, "the outsider's registration", |seen| {
            seen.key.contains("outsider")
        })
        .await?;
    let observe = format!("send demo outsider observe {} --ticket lasting", PATHS[0]);
    Zeelos::new(&observe).at(&up.cloud).succeed().await?;
    let first = wait_for(RECOVERY, "an observation of the outsider", async || {
        let found = points(&up.time_series(), "outsider", PATHS[0])?;
        let found = found
            .into_iter()
            .find(|point| !point.observation_id.is_empty());
        found.context("none")
    })
    .await?;
    let children = up.children();
    let site = (up.cloud.clone(), up.edge.clone());
    up.process().kill();
    drop(registrations);

    // At once: the children of the one that was killed are ending still, and what they hold is waited for.
    let killed_at = now_ms();
    let up = Up::start(&data, &["--sensors", "1"]).await?;
    gone(&children).await?;
    assert_eq!(up.coap, coap, "devices find it where it was");
    assert_eq!((up.cloud.clone(), up.edge.clone()), site);
    up.ready().await?;
    let again = Zeelos::new("send demo outsider read /3/0/0 --ticket second-life");
    is_answered(&again.at(&up.cloud).run().await?, "second-life")
        .with_context(|| up.log_of("demo-leshan-server-kafka"))?;

    let next = wait_for(RECOVERY, "the observation to go on", async || {
        let found = points(&up.time_series(), "outsider", PATHS[0])?;
        let found = found.into_iter().next().context("none")?;
        ensure!(found.time_ms > killed_at, "nothing new");
        Ok(found)
    })
    .await
    .with_context(|| outsider.process().tail())?;
    assert_eq!(next.observation_id, first.observation_id);
    assert_eq!(next.ticket, "lasting");

    // What was there is there: one registration of the device, and the observations of before.
    let mut registrations = Tap::open(&up.cloud, "iot.demo.registrations").await?;
    registrations
        .wait(RECOVERY, "the outsider's registration", |seen| {
            seen.key.contains("outsider")
        })
        .await?;
    registrations
        .wait(RECOVERY, "the sensor's second registration", |seen| {
            seen.key.contains("demo-sensor-1") && seen.timestamp_ms > killed_at
        })
        .await?;
    // (A mirror that was killed repeats what it had not committed: the same registration may stand there twice.)
    let of_outsider: BTreeSet<String> = registrations
        .records()
        .into_iter()
        .filter(|seen| seen.key.contains("outsider"))
        .map(|seen| seen.value.to_string())
        .collect();
    assert_eq!(of_outsider.len(), 1, "{of_outsider:?}");
    let mut history = Tap::open(&up.cloud, "iot.demo.observations").await?;
    history
        .wait(RECOVERY, "an observation of before", |seen| {
            seen.value["timestamp"].as_i64() == Some(first.time_ms)
                && seen.value["ep"] == "outsider"
        })
        .await?;
    Ok(())
}

/// Two gateways, each with its own broker, registry and server, and one cloud.
#[tokio::test]
async fn gateways_share_a_cloud() -> anyhow::Result<()> {
    let _turn = ONE_AT_A_TIME.lock().await;
    let dir = RunDir::new("up-two")?;
    let two = ["--sensors", "1", "--gateway", "demo", "--gateway", "second"];
    let up = Up::start(&dir.path().join("data"), &two).await?;
    up.ready().await?;
    for gateway in ["demo", "second"] {
        let sensor = format!("{gateway}-sensor-1");
        wait_for(RECOVERY, "a value in the store", async || {
            let found = points(&up.time_series(), &sensor, PATHS[0])?;
            let found = found.into_iter().next().context("none")?;
            ensure!(found.server_id == gateway, "{found:?}");
            Ok(())
        })
        .await
        .with_context(|| up.logs())?;
        let ticket = format!("at-{gateway}");
        let words = format!("send {gateway} {sensor} read /3/0/0 --ticket {ticket}");
        is_answered(&Zeelos::new(&words).at(&up.cloud).run().await?, &ticket)?;
        let elsewhere = if gateway == "demo" { "second" } else { "demo" };
        let words = format!("send {elsewhere} {sensor} read /3/0/0");
        let lost = Zeelos::new(&words).at(&up.cloud).run().await?;
        assert_eq!(lost.json()?["rep"]["code"], "NOT_FOUND", "{lost}");
    }
    Ok(())
}
