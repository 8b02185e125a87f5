//! The whole path on real parts: Apache Kafka twice, Apicurio twice with clashing ids, InfluxDB, OrientDB, and
//! Eclipse Leshan's client, joined by our services as an operator would run them.

mod parts;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::{Seen, Site, Tap, Zeelos};
use serde_json::{Value, json};
use testkit::{LeshanClient, wait_for};

use parts::{
    Parts, Services, call, client, line, paste, produce_raw, rows, schema_id, send, series,
    tags_of_value, topic,
};

/// The walkthrough's own gateway.
const GATEWAY: &str = "upboard";
const SERVER: &str = "upboard";
const ENDPOINT: &str = "leshan-device";
const TEMPERATURE: &str = "/3303/0/5700";

/// The longest that anything may take on a machine of two cores that runs all this.
const SOON: Duration = Duration::from_secs(60);

const INFLUXDB_SINK: &str = include_str!("../walkthrough/upboard_influxdb_sink.json");
const ASSET_SINK: &str = include_str!("../walkthrough/upboard_leshan_asset_sink.json");
const REQUESTS: &str = include_str!("../walkthrough/requests.jsonl");

/// One story, as the parts take most of a minute to start.
#[tokio::test]
async fn the_whole_path() -> anyhow::Result<()> {
    let parts = Parts::start().await?;
    create_topics(&parts.cloud).await?;
    let mut services = Box::pin(Services::start(&parts)).await?;
    services.connect(&parts).await?;
    let mut device = LeshanClient::start(&format!("coap://{}", services.coap), ENDPOINT).await?;
    device.registered(SOON).await?;

    its_registration_is_in_the_graph(&parts).await?;
    let mut replies = Tap::open(&parts.cloud, &topic("management.rep")).await?;
    let observation = its_values_are_observed(&parts, &mut device, &mut replies).await?;
    ids_clash(&parts).await?;
    commands_are_answered(&parts, &mut device, &mut replies).await?;
    bad_input_stops_nobody(&parts, &mut device, &mut replies).await?;
    its_server_may_crash(&parts, &mut services, &mut device, &observation).await?;
    the_observation_ends(&parts, &mut device, &mut replies).await?;
    up_checks_itself_here(&parts).await
}

/// As in the walkthrough: one partition for requests, two for the rest; the edge's make themselves.
async fn create_topics(cloud: &Site) -> anyhow::Result<()> {
    let with_two = ["management.rep", "observations", "registrations"];
    let all = with_two.map(|name| (name, 2)).into_iter();
    for (name, partitions) in all.chain([("management.req", 1)]) {
        Zeelos::new(&format!(
            "topics create {} --partitions {partitions}",
            topic(name)
        ))
        .arg("--kafka-bootstrap-server")
        .arg(&cloud.bootstrap)
        .succeed()
        .await?;
    }
    Ok(())
}

async fn its_registration_is_in_the_graph(parts: &Parts) -> anyhow::Result<()> {
    wait_for(
        SOON,
        "the endpoint with its objects in the graph",
        async || {
            let objects = rows(
                parts,
                &format!(
                    "select expand(out('hasObject')) from Endpoints where name = '{ENDPOINT}'"
                ),
            )
            .await?;
            let ids: Vec<i64> = objects
                .iter()
                .filter_map(|row| row["id"].as_i64())
                .collect();
            ensure!(
                ids.contains(&3) && ids.iter().filter(|id| **id == 3303).count() == 2,
                "objects {ids:?}"
            );
            Ok(())
        },
    )
    .await?;
    let endpoints = rows(
        parts,
        &format!("select expand(out('hasEndpoint')) from Servers where name = '{SERVER}'"),
    )
    .await?;
    assert_eq!(endpoints.len(), 1, "{endpoints:?}");
    let endpoint = &endpoints[0];
    assert_eq!(endpoint["name"], ENDPOINT);
    assert_eq!(endpoint["online"], true);
    assert_eq!(endpoint["lt"], 300);
    assert_eq!(endpoint["address"], "127.0.0.1");
    let instances = rows(
        parts,
        &format!("select instance, in.id as object from hasObject where out.name = '{ENDPOINT}' and in.id = 3303"),
    )
    .await?;
    let mut numbers: Vec<String> = instances
        .iter()
        .map(|row| row["instance"].to_string())
        .collect();
    numbers.sort();
    assert_eq!(numbers.len(), 2, "{instances:?}");
    assert!(
        numbers[0].contains('0') && numbers[1].contains('1'),
        "{instances:?}"
    );
    let resources = rows(
        parts,
        "select expand(out('hasResource')) from Objects where id = 3303",
    )
    .await?;
    assert!(
        resources.iter().any(|row| row["id"] == 5700),
        "{resources:?}"
    );
    Ok(())
}

/// Observes as the walkthrough does, and follows one value to InfluxDB and into the maximum; the observation's id.
async fn its_values_are_observed(
    parts: &Parts,
    device: &mut LeshanClient,
    replies: &mut Tap,
) -> anyhow::Result<String> {
    paste(&parts.cloud, &line("ticket#1", "observe")?).await?;
    let first = replies.ticket(SOON, "ticket#1").await?;
    assert_eq!(first.code(), Some("CONTENT"), "{first:?}");
    assert_eq!(first.value["rep"]["kind"], "observe");
    assert_eq!(first.value["path"], TEMPERATURE);
    assert!(first.number().is_some(), "{first:?}");

    device.set("3303/0/5700", 777.125)?;
    let tags = tags_of_value(parts, TEMPERATURE, 777.125).await?;
    let observation = tags["observationId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        !observation.is_empty() && observation.chars().all(|c| "0123456789abcdef".contains(c)),
        "{tags}"
    );
    assert_eq!(
        tags,
        json!({
            "ticket": "ticket#1", "observationId": observation, "serverId": SERVER, "ep": ENDPOINT,
            "kind": "observe", "path": TEMPERATURE,
        })
    );

    let mut observations = Tap::open(&parts.cloud, &topic("observations")).await?;
    let seen = observations
        .wait(SOON, "the value at the cloud", |seen| {
            seen.number() == Some(777.125)
        })
        .await?;
    assert_eq!(seen.key, format!("{{\"ep\":\"{ENDPOINT}\"}}"));
    assert_eq!(seen.value["observationId"], observation.as_str());
    let at = seen.value["timestamp"].as_i64().context("a timestamp")?;
    let times: Vec<i64> = series(parts, "value", TEMPERATURE)
        .await?
        .into_iter()
        .flat_map(|(_, rows)| rows)
        .filter(|row| row[1].as_f64() == Some(777.125))
        .filter_map(|row| row[0].as_i64())
        .collect();
    assert!(times.contains(&at), "{at} is not among {times:?}");

    let topic = format!("analytics.{GATEWAY}.observations.maxper30sec");
    let mut maxima = Tap::open(&parts.edge, &topic).await?;
    let maximum = maxima
        .wait(SOON, "the maximum at the edge", |seen| {
            seen.number() == Some(777.125)
        })
        .await?;
    assert_eq!(maximum.value["path"], format!("{TEMPERATURE}-max"));
    assert_eq!(maximum.resource()["path"], format!("{TEMPERATURE}-max"));
    assert_eq!(maximum.value["ep"], ENDPOINT);
    let (key, start) = maximum.key.rsplit_once('@').context("a windowed key")?;
    let key: Value = serde_json::from_str(key)?;
    assert_eq!(key["ep"], format!("{ENDPOINT}.{TEMPERATURE}"));
    let start: i64 = start.parse()?;
    let of = maximum.value["timestamp"].as_i64().context("a timestamp")?;
    assert!(
        start % 30_000 == 0 && (start..start + 30_000).contains(&of),
        "{of} in {start}"
    );
    Ok(observation)
}

/// The test means something: an edge id is another schema at the cloud.
async fn ids_clash(parts: &Parts) -> anyhow::Result<()> {
    for name in [
        "observations-value",
        "management.rep-value",
        "registrations-value",
    ] {
        let subject = topic(name);
        let (edge, cloud) = (
            schema_id(&parts.edge, &subject).await?,
            schema_id(&parts.cloud, &subject).await?,
        );
        assert_ne!(edge, cloud, "{subject}");
        let url = format!("{}/schemas/ids/{cloud}", parts.edge.registry);
        let there = call(client().get(url)).await?["schema"].to_string();
        assert!(there.contains("Decoy"), "{cloud} at the edge is {there}");
    }
    Ok(())
}

/// The walkthrough's commands, and the rest of what a device can be asked for.
async fn commands_are_answered(
    parts: &Parts,
    device: &mut LeshanClient,
    replies: &mut Tap,
) -> anyhow::Result<()> {
    let all = [
        ("ticket#2", "read"),
        ("ticket#3", "read"),
        ("ticket#4", "write"),
        ("ticket#5", "execute"),
    ];
    let mut lines = String::new();
    for (ticket, kind) in all {
        lines.push_str(&line(ticket, kind)?);
        lines.push('\n');
    }
    paste(&parts.cloud, &lines).await?;
    // Arguments go to the device as they are, and today's Leshan takes LwM2M's own form only: it says so, and so do we.
    let codes = ["CONTENT", "CONTENT", "CHANGED", "BAD_REQUEST"];
    for ((ticket, kind), code) in all.into_iter().zip(codes) {
        let reply = replies.ticket(SOON, ticket).await?;
        assert_eq!(reply.code(), Some(code), "{reply:?}");
        assert_eq!(reply.value["rep"]["kind"], kind);
        assert_eq!(reply.value["ep"], ENDPOINT);
        assert_eq!(reply.value["serverId"], SERVER);
        assert_eq!(reply.key, format!("{{\"ep\":\"{ENDPOINT}\"}}"));
    }
    let read = replies.ticket(SOON, "ticket#2").await?;
    assert_eq!(read.text(), Some("zeelos testkit"), "{read:?}");
    let refused = replies.ticket(SOON, "ticket#5").await?;
    let message = refused.message().unwrap_or_default();
    assert!(message.contains("param1,param2"), "{refused:?}");
    let executed = send(&parts.cloud, &["execute", "/3/0/4", "0='later',1"]).await?;
    assert_eq!(executed["rep"]["code"], "CHANGED", "{executed}");
    device
        .wait_for_line(SOON, "executed /3/0/4 0='later',1")
        .await?;
    let written = send(&parts.cloud, &["read", "/1/0/6"]).await?;
    assert!(
        written.to_string().contains("{\"boolean\":false}"),
        "{written}"
    );

    let changed = send(&parts.cloud, &["write", "/3/0/15", "Europe/Berlin"]).await?;
    assert_eq!(changed["rep"]["code"], "CHANGED", "{changed}");
    device
        .wait_for_line(SOON, "written /3/0/15 Europe/Berlin")
        .await?;
    let discovered = send(&parts.cloud, &["discover", "/3"]).await?;
    assert_eq!(discovered["rep"]["kind"], "discover");
    let links = discovered.to_string();
    assert!(
        links.contains("</3/0>") && links.contains("</3/0/15>"),
        "{links}"
    );
    let instance = send(&parts.cloud, &["read", "/3/0"]).await?;
    let instance = instance.to_string();
    assert!(
        instance.contains("AvroInstanceResource") && instance.contains("Europe/Berlin"),
        "{instance}"
    );

    // What was read is in InfluxDB too, as a text of its own kind.
    wait_for(SOON, "the manufacturer in InfluxDB", async || {
        let all = series(parts, "svalue", "/3/0/0").await?;
        let found = all.iter().find(|(tags, rows)| {
            tags["ticket"] == "ticket#2" && rows.iter().any(|row| row[1] == "zeelos testkit")
        });
        let (tags, _) = found.with_context(|| format!("there is {all:?}"))?;
        ensure!(
            tags["kind"] == "read" && tags["serverId"] == SERVER,
            "{tags}"
        );
        Ok(())
    })
    .await
}

async fn bad_input_stops_nobody(
    parts: &Parts,
    device: &mut LeshanClient,
    replies: &mut Tap,
) -> anyhow::Result<()> {
    // An endpoint that is not registered.
    let unknown = line("ticket#2", "read")?
        .replace(ENDPOINT, "nobody")
        .replace("ticket#2", "ticket-of-nobody");
    paste(&parts.cloud, &unknown).await?;
    let reply = replies.ticket(SOON, "ticket-of-nobody").await?;
    assert_eq!(reply.code(), Some("NOT_FOUND"), "{reply:?}");
    assert_eq!(reply.value["ep"], "nobody");
    assert_eq!(reply.key, "{\"ep\":\"nobody\"}");
    assert_eq!(
        reply.message(),
        Some("No registration for this endpoint 'nobody'")
    );

    // A body that does not fit its kind: an answer, as the ticket can be read.
    let odd = line("ticket#5", "execute")?
        .replace("\"execute\"", "\"write\"")
        .replace("ticket#5", "ticket-of-an-odd-one");
    paste(&parts.cloud, &odd).await?;
    let reply = replies.ticket(SOON, "ticket-of-an-odd-one").await?;
    assert_eq!(reply.code(), Some("BAD_REQUEST"), "{reply:?}");

    // No Avro at all, and Avro by a schema that no registry has: dead letters, and the next request is answered.
    let requests = topic("management.req");
    produce_raw(&parts.cloud, &requests, b"this is not Avro").await?;
    produce_raw(&parts.cloud, &requests, &unknown_schema()).await?;
    let next = line("ticket#2", "read")?.replace("ticket#2", "ticket-after-rubbish");
    paste(&parts.cloud, &next).await?;
    let reply = replies.ticket(SOON, "ticket-after-rubbish").await?;
    assert_eq!(reply.code(), Some("CONTENT"), "{reply:?}");
    let mut dead = Tap::open(&parts.cloud, &format!("{requests}.dlq")).await?;
    let letter = dead
        .wait(SOON, "the record that is not Avro", |seen| {
            seen.value == "this is not Avro"
        })
        .await?;
    assert_eq!(
        letter.headers.get("zeelos-dlq-topic"),
        Some(&requests),
        "{letter:?}"
    );
    let letter = dead
        .wait(SOON, "the record of an unknown schema", is_unknown_schema)
        .await?;
    assert!(
        letter.headers.contains_key("zeelos-dlq-reason"),
        "{letter:?}"
    );

    // The same from the edge upwards: the mirror goes on.
    let observations = topic("observations");
    produce_raw(&parts.edge, &observations, &unknown_schema()).await?;
    device.set("3303/0/5700", 778.25)?;
    tags_of_value(parts, TEMPERATURE, 778.25).await?;
    let mut dead = Tap::open(&parts.cloud, &format!("{observations}.dlq")).await?;
    dead.wait(
        SOON,
        "the observation of an unknown schema",
        is_unknown_schema,
    )
    .await
    .map(drop)
}

fn unknown_schema() -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(987_654_u32.to_be_bytes());
    bytes.extend(b"unknown");
    bytes
}

fn is_unknown_schema(seen: &Seen) -> bool {
    seen.value
        .as_str()
        .is_some_and(|text| text.contains("987654") || text.contains("unknown"))
}

/// Killed and started again, the server knows its device and its observation, though neither is asked again.
async fn its_server_may_crash(
    parts: &Parts,
    services: &mut Services,
    device: &mut LeshanClient,
    observation: &str,
) -> anyhow::Result<()> {
    let registered = |device: &LeshanClient| {
        let lines = device.lines();
        lines
            .iter()
            .filter(|line| line.starts_with("registered"))
            .count()
    };
    let before = registered(device);
    services.server.crash_and_restart().await?;
    device.set("3303/0/5700", 779.5)?;
    let tags = tags_of_value(parts, TEMPERATURE, 779.5).await?;
    assert_eq!(tags["observationId"], observation);
    assert_eq!(tags["ticket"], "ticket#1");
    assert_eq!(
        registered(device),
        before,
        "it did not have to register again"
    );
    Ok(())
}

async fn the_observation_ends(
    parts: &Parts,
    device: &mut LeshanClient,
    replies: &mut Tap,
) -> anyhow::Result<()> {
    paste(&parts.cloud, &line("ticket#1", "observeCancel")?).await?;
    let reply = replies
        .wait(SOON, "the reply to the cancel", |seen| {
            seen.value["ticket"] == "ticket#1" && seen.value["rep"]["kind"] == "observeCancel"
        })
        .await?;
    assert_eq!(reply.code(), Some("DELETED"), "{reply:?}");
    // A value from now on arrives nowhere; the one that is read behind it says when to look.
    device.set("3303/0/5700", 780.75)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let read = send(&parts.cloud, &["read", TEMPERATURE, "--ticket", "the-last"]).await?;
    assert!(read.to_string().contains("780.75"), "{read}");
    let tags = tags_of_value(parts, TEMPERATURE, 780.75).await?;
    assert_eq!(tags["kind"], "read", "{tags}");
    let observed = series(parts, "value", TEMPERATURE).await?;
    let late = observed
        .iter()
        .filter(|(tags, _)| tags["kind"] == "observe")
        .any(|(_, rows)| rows.iter().any(|row| row[1].as_f64() == Some(780.75)));
    assert!(!late, "{observed:?}");
    Ok(())
}

/// The same program checks itself on these clusters.
async fn up_checks_itself_here(parts: &Parts) -> anyhow::Result<()> {
    let outcome = Zeelos::new("up --check --output json --gateway second")
        .args(["--kafka-cloud", &parts.cloud.bootstrap])
        .args(["--kafka-gateway", &parts.edge.bootstrap])
        .args(["--registry-cloud", &parts.cloud.registry])
        .args(["--registry-gateway", &parts.edge.registry])
        .limit(Duration::from_secs(120))
        .run()
        .await?;
    ensure!(outcome.status.success(), "{outcome}");
    println!("{}", outcome.stdout);
    assert_eq!(outcome.json()?["ok"], true);
    Ok(())
}
