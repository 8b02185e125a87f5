//! What arrives in the databases, and what happens when one is away.

mod support;

use std::collections::BTreeMap;

use influxdb_sink::embedded::{self, Filter};
use kafka::{LagProbe, TopicMatch};
use records::{
    AvroInstanceResource, AvroMultipleResource, ReadContent, RequestKind, ResourceKind,
    ResourceType, ResourceValue, ResponseBody,
};
use serde_json::{Value, json};
use site::{PATIENCE, Site};
use support::{OBSERVATIONS, REPLIES, observed, observed_body, replied, resource, start};
use testkit::{InfluxDb1, VictoriaMetrics, wait_for};

const NOON: i64 = 1_700_000_000_123;
/// An endpoint that would like to be a second point, a statement, a tag.
const HOSTILE: &str = "a b,c=d\"'\n\\evil,ep=x value=666 1\\";

/// The points of a query as rows of column name and value.
async fn rows(influx: &InfluxDb1, query: &str) -> anyhow::Result<Vec<BTreeMap<String, Value>>> {
    let answer = influx.query("zeelosdb", query).await?;
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for series in all(&answer["results"][0]["series"]) {
        let names = all(&series["columns"]);
        for values in all(&series["values"]) {
            let names = names
                .iter()
                .map(|name| name.as_str().unwrap_or_default().to_owned());
            rows.push(names.zip(all(&values)).collect());
        }
    }
    Ok(rows)
}

async fn wait_rows(
    influx: &InfluxDb1,
    count: usize,
) -> anyhow::Result<Vec<BTreeMap<String, Value>>> {
    wait_for(PATIENCE, "points in InfluxDB", async || {
        let found = rows(influx, "SELECT * FROM resources").await?;
        anyhow::ensure!(found.len() == count, "{} points: {found:?}", found.len());
        Ok(found)
    })
    .await
}

/// One record of each kind there is.
async fn produce_all(site: &Site) {
    site.produce(
        OBSERVATIONS,
        &observed("sensor", "/3303/0/5700", NOON, 21.5),
    )
    .await;
    let integer = resource(
        "/3303/1/5700",
        ResourceType::Integer,
        ResourceValue::Long(21),
    );
    site.produce(
        OBSERVATIONS,
        &observed_body(
            "sensor",
            "/3303/1/5700",
            NOON,
            ReadContent::Resource(integer),
        ),
    )
    .await;
    site.produce(OBSERVATIONS, &observed(HOSTILE, "/3303/0/5700", NOON, 1.0))
        .await;
    site.produce(
        OBSERVATIONS,
        &observed("sensor", "/3303/0/5700", NOON + 1, f64::NAN),
    )
    .await;
    let instance = AvroInstanceResource {
        id: 0,
        kind: ResourceKind::Instance,
        resources: vec![
            resource(
                "/3/0/0",
                ResourceType::String,
                ResourceValue::String("say \"hi\" \\ é\n".to_owned()),
            ),
            resource(
                "/3/0/11",
                ResourceType::Boolean,
                ResourceValue::Boolean(true),
            ),
        ],
        multiple_resources: Some(vec![AvroMultipleResource {
            id: 7,
            path: "/3/0/7".to_owned(),
            kind: ResourceKind::MultipleResource,
            r#type: ResourceType::Integer,
            resources: BTreeMap::from([(
                "1".to_owned(),
                resource("/3/0/7/1", ResourceType::Integer, ResourceValue::Long(5000)),
            )]),
        }]),
    };
    let read = ResponseBody::Read(ReadContent::Instance(instance));
    site.produce(
        REPLIES,
        &replied("sensor", "/3/0", NOON, RequestKind::Read, read),
    )
    .await;
    let message = ResponseBody::Generic("CHANGED".to_owned());
    site.produce(
        REPLIES,
        &replied("sensor", "/3/0/4", NOON, RequestKind::Execute, message),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn influxdb_gets_the_contracts_points_and_a_replay_changes_nothing() -> anyhow::Result<()> {
    let (site, influx) = (Site::start().await, InfluxDb1::start().await?);
    influx.create_database("zeelosdb").await?;
    let sink = start(&site).await?;
    let keys = json!({"connect.influx.url": influx.url(), "connect.influx.username": "root", "connect.influx.password": "secret", "connect.influx.retention.policy": "autogen"});
    sink.create("one", &keys).await?;
    produce_all(&site).await;

    let found = wait_rows(&influx, 7).await?;
    let at = |ep: &str, path: &str| {
        let row = found
            .iter()
            .find(|row| row["ep"] == ep && row["path"] == path);
        row.unwrap_or_else(|| panic!("{ep} {path} is not in {found:?}"))
    };
    let number = at("sensor", "/3303/0/5700");
    assert_eq!(number["time"], NOON);
    assert_eq!(number["value"], 21.5);
    assert_eq!(number["ticket"], "ticket#1");
    assert_eq!(number["observationId"], "a1b2c3d4");
    assert_eq!(number["serverId"], "demo");
    assert_eq!(number["kind"], "observe");
    assert_eq!(at("sensor", "/3303/1/5700")["value"], 21);
    assert_eq!(at("sensor", "/3/0/0")["svalue"], "say \"hi\" \\ é\n");
    assert_eq!(at("sensor", "/3/0/11")["bvalue"], true);
    let one_of_many = at("sensor", "/3/0/7/1");
    assert_eq!(one_of_many["value"], 5000);
    assert_eq!(one_of_many["kind"], "read");
    assert_eq!(one_of_many["observationId"], Value::Null);
    assert_eq!(at("sensor", "/3/0/4")["svalue"], "CHANGED");
    let hostile = found
        .iter()
        .find(|row| row["ep"].as_str().unwrap().contains("evil"))
        .unwrap();
    assert_eq!(hostile["value"], 1);
    assert_eq!(hostile["path"], "/3303/0/5700");
    assert_eq!(hostile["ep"], "a b,c=d\"'\\n\\evil,ep=x value=666 1\\x5c");

    // Another connector reads everything again, from the first record on.
    sink.create("two", &keys).await?;
    let marker = observed("marker", "/3303/0/5700", NOON, 1.0);
    site.produce(OBSERVATIONS, &marker).await;
    wait_for(PATIENCE, "the replay", async || {
        let topics = TopicMatch::Names(vec![OBSERVATIONS.to_owned(), REPLIES.to_owned()]);
        let lag = LagProbe::new(&site.cluster(), "connect-two", topics)?
            .lag()
            .await?;
        anyhow::ensure!(lag == 0, "lag {lag}");
        Ok(())
    })
    .await?;
    let mut again = wait_rows(&influx, 8).await?;
    again.retain(|row| row["ep"] != "marker");
    assert_eq!(again, found);
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_influxdb_that_is_away_is_waited_for_and_nothing_is_lost() -> anyhow::Result<()> {
    let (site, mut influx) = (Site::start().await, InfluxDb1::start().await?);
    influx.create_database("zeelosdb").await?;
    influx.stop();
    let sink = start(&site).await?;
    let keys = json!({"connect.influx.url": influx.url(), "connect.influx.max.retries": "1000"});
    sink.create("patient", &keys).await?;
    for n in 0..3 {
        site.produce(OBSERVATIONS, &observed("ep", "/3303/0/5700", NOON + n, 1.0))
            .await;
    }
    let trouble = wait_for(PATIENCE, "the trouble to show", async || {
        let (_, answer) = sink.get("/connectors/patient/status").await?;
        let task = &answer["tasks"][0];
        anyhow::ensure!(
            task["state"] == "RUNNING" && task["trace"].is_string(),
            "{answer}"
        );
        Ok(task["trace"].to_string())
    })
    .await?;
    assert!(trouble.contains("does not answer"), "{trouble}");
    wait_for(PATIENCE, "not being ready", async || {
        let failing = sink.context().health.failing();
        anyhow::ensure!(failing.contains_key("connectors"), "{failing:?}");
        Ok(())
    })
    .await?;
    influx.restart().await?;
    wait_rows(&influx, 3).await?;

    // Away later on, in the middle.
    influx.stop();
    site.produce(OBSERVATIONS, &observed("ep", "/3303/0/5700", NOON + 3, 1.0))
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    influx.restart().await?;
    wait_rows(&influx, 4).await?;
    sink.wait_task("patient", "RUNNING").await?;

    // And one that gives up: FAILED with its reason, until it is restarted.
    influx.stop();
    let keys = json!({"connect.influx.url": influx.url(), "connect.influx.max.retries": "2"});
    sink.create("hasty", &keys).await?;
    let trace = sink.wait_task("hasty", "FAILED").await?.unwrap_or_default();
    assert!(trace.contains("gave up after 2 retries"), "{trace}");
    influx.restart().await?;
    site.produce(OBSERVATIONS, &observed("later", "/3303/0/5700", NOON, 1.0))
        .await;
    let path = "/connectors/hasty/restart?includeTasks=true&onlyFailed=true";
    assert_eq!(sink.post(path, "").await?.0, 202);
    sink.wait_task("hasty", "RUNNING").await?;
    wait_rows(&influx, 5).await?;
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_the_database_refuses_is_put_aside_and_its_neighbours_are_written()
-> anyhow::Result<()> {
    let (site, influx) = (Site::start().await, InfluxDb1::start().await?);
    influx.create_database("zeelosdb").await?;
    let sink = start(&site).await?;
    let long_name = "n".repeat(70_000);
    for n in 0..20 {
        let ep = if n == 11 {
            long_name.clone()
        } else {
            format!("ep{n}")
        };
        site.produce(
            OBSERVATIONS,
            &observed(&ep, "/3303/0/5700", NOON, f64::from(n)),
        )
        .await;
    }
    site.produce_bytes(OBSERVATIONS, Some(b"plain text")).await;
    site.produce_bytes(OBSERVATIONS, Some(b"\0\0\x0f\xff\xffxyz"))
        .await;
    site.produce_bytes(OBSERVATIONS, None).await;
    site.produce(
        OBSERVATIONS,
        &records::AvroKey {
            ep: "not a reading".to_owned(),
        },
    )
    .await;
    site.produce(
        OBSERVATIONS,
        &observed("far", "/3303/0/5700", i64::MAX, 1.0),
    )
    .await;
    site.produce(OBSERVATIONS, &observed("last", "/3303/0/5700", NOON, 1.0))
        .await;
    sink.create("one", &json!({"connect.influx.url": influx.url()}))
        .await?;
    let found = wait_rows(&influx, 20).await?;
    assert!(found.iter().any(|row| row["ep"] == "last"));
    let aside = site.read(&format!("{OBSERVATIONS}.dlq"), 6).await;
    let reasons: Vec<String> = aside
        .iter()
        .map(|record| {
            String::from_utf8_lossy(record.header("zeelos-dlq-reason").unwrap()).into_owned()
        })
        .collect();
    let expected = [
        "refused_by_database",
        "not_framed",
        "unknown_schema",
        "no_value",
        "other_record",
        "bad_timestamp",
    ];
    assert_eq!(reasons, expected);
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_v2_api_is_written_too() -> anyhow::Result<()> {
    let (site, metrics) = (Site::start().await, VictoriaMetrics::start().await?);
    let sink = start(&site).await?;
    let keys = json!({"connect.influx.url": metrics.url(), "influx.api": "v2", "influx.token": "t", "influx.org": "zeelos", "timestamp.disambiguate": "content"});
    sink.create("v2", &keys).await?;
    site.produce(
        OBSERVATIONS,
        &observed("sensor", "/3303/0/5700", NOON, 21.5),
    )
    .await;
    let series = wait_for(PATIENCE, "the series", async || {
        let found = metrics.export("resources_value").await?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| anyhow::anyhow!("no series"))
    })
    .await?;
    assert_eq!(series["metric"]["ep"], "sensor");
    assert_eq!(series["metric"]["path"], "/3303/0/5700");
    assert_eq!(series["values"], json!([21.5]));
    assert_eq!(series["timestamps"], json!([NOON]));
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_gets_the_same_points() -> anyhow::Result<()> {
    let site = Site::start().await;
    let store = site.folder().join("series.db");
    let keys = json!({"connect.influx.url": format!("sqlite:{}", store.display()), "influx.sqlite.retention.ms": "0"});
    let sink = start(&site).await?;
    sink.create("one", &keys).await?;
    produce_all(&site).await;
    let all = Filter::default();
    let wait = async |count: usize| {
        wait_for(PATIENCE, "points", async || {
            let found = embedded::query(&store, &all)?;
            anyhow::ensure!(found.len() == count, "{found:?}");
            Ok(found)
        })
        .await
    };
    let once = wait(7).await?;
    let hostile = embedded::query_latest(&store, HOSTILE, "/3303/0/5700")?.unwrap();
    assert_eq!(hostile.value, Some(1.0));
    assert_eq!(
        embedded::query_latest(&store, "sensor", "/3/0/4")?
            .unwrap()
            .kind,
        "execute"
    );

    sink.create("two", &keys).await?;
    site.produce(OBSERVATIONS, &observed("marker", "/3303/0/5700", NOON, 1.0))
        .await;
    wait_for(PATIENCE, "the replay", async || {
        let topics = TopicMatch::Names(vec![OBSERVATIONS.to_owned(), REPLIES.to_owned()]);
        let lag = LagProbe::new(&site.cluster(), "connect-two", topics)?
            .lag()
            .await?;
        anyhow::ensure!(lag == 0, "lag {lag}");
        Ok(())
    })
    .await?;
    let mut again = wait(8).await?;
    again.retain(|point| point.ep != "marker");
    assert_eq!(again, once);

    // Two readings of a millisecond: one overwrites the other, unless they are to be kept apart.
    let apart = site.folder().join("apart.db");
    let keys = json!({"connect.influx.url": format!("sqlite:{}", apart.display()), "influx.sqlite.retention.ms": "0", "timestamp.disambiguate": "content"});
    sink.create("apart", &keys).await?;
    for value in [1.0, 2.0, 1.0] {
        site.produce(
            OBSERVATIONS,
            &observed("twice", "/3303/0/5700", NOON, value),
        )
        .await;
    }
    wait_for(PATIENCE, "both", async || {
        let filter = Filter {
            ep: Some("twice"),
            ..Filter::default()
        };
        let found = (
            embedded::query(&store, &filter)?.len(),
            embedded::query(&apart, &filter)?.len(),
        );
        anyhow::ensure!(found == (1, 2), "{found:?}");
        Ok(())
    })
    .await?;
    sink.stop().await;
    Ok(())
}
