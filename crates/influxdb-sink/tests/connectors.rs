//! Connectors and their REST, as Kafka Connect's users know them.

mod support;

use std::fs;

use influxdb_sink::embedded;
use serde_json::{Value, json};
use site::{PATIENCE, Site};
use support::{OBSERVATIONS, observed, start, start_with};
use testkit::wait_for;

const WALKTHROUGH: &str = include_str!("walkthrough/upboard_influxdb_sink.json");

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_connector_file_is_posted_unchanged() -> anyhow::Result<()> {
    let site = Site::start().await;
    let sink = start(&site).await?;

    let (status, created) = sink.post("/connectors", WALKTHROUGH).await?;
    assert_eq!(status, 201, "{created}");
    assert_eq!(created["name"], "upboard_influxdb_sink");
    assert_eq!(created["type"], "sink");
    assert_eq!(
        created["tasks"],
        json!([{"connector": "upboard_influxdb_sink", "task": 0}])
    );
    assert_eq!(created["config"]["connect.influx.db"], "zeelosdb");
    assert_eq!(created["config"]["connect.influx.password"], "***");

    let (status, again) = sink.post("/connectors/", WALKTHROUGH).await?;
    assert_eq!(status, 409);
    assert_eq!(
        again,
        json!({"error_code": 409, "message": "Connector upboard_influxdb_sink already exists"})
    );

    for path in ["/connectors", "/connectors/"] {
        assert_eq!(
            sink.get(path).await?,
            (200, json!(["upboard_influxdb_sink"]))
        );
    }
    sink.wait_task("upboard_influxdb_sink", "RUNNING").await?;
    for path in [
        "/connectors/upboard_influxdb_sink/status",
        "/connectors/upboard_influxdb_sink/status/",
    ] {
        let (status, answer) = sink.get(path).await?;
        assert_eq!(status, 200);
        assert_eq!(answer["connector"]["state"], "RUNNING");
        assert_eq!(
            answer["connector"]["worker_id"],
            answer["tasks"][0]["worker_id"]
        );
        assert_eq!(answer["tasks"][0]["id"], 0);
        assert_eq!(answer["type"], "sink");
    }
    // Wherever it is asked for, the password does not show.
    for path in [
        "/connectors/upboard_influxdb_sink",
        "/connectors/upboard_influxdb_sink/config",
        "/connectors/upboard_influxdb_sink/tasks",
        "/connectors?expand=info&expand=status",
    ] {
        let (status, answer) = sink.get(path).await?;
        assert_eq!(status, 200);
        let text = answer.to_string();
        assert!(
            !text.contains("\"secret\"") && text.len() > 50,
            "{path}: {text}"
        );
    }

    let (_, root) = sink.get("/").await?;
    assert!(
        root["version"].is_string() && root["kafka_cluster_id"].is_string(),
        "{root}"
    );
    let (_, plugins) = sink.get("/connector-plugins").await?;
    assert_eq!(plugins[0]["type"], "sink");

    assert_eq!(
        sink.delete("/connectors/upboard_influxdb_sink").await?.0,
        204
    );
    assert_eq!(
        sink.get("/connectors/upboard_influxdb_sink/status").await?,
        (
            404,
            json!({"error_code": 404, "message": "No status found for connector upboard_influxdb_sink"})
        )
    );
    assert_eq!(
        sink.delete("/connectors/upboard_influxdb_sink").await?.0,
        404
    );
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_run_is_refused_with_its_reason() -> anyhow::Result<()> {
    let site = Site::start().await;
    let sink = start(&site).await?;
    let with = |key: &str, value: &str| {
        let mut connector: Value = serde_json::from_str(WALKTHROUGH).unwrap();
        connector["config"][key] = json!(value);
        connector.to_string()
    };
    for (body, status, reason) in [
        (
            with("connector.class", "org.example.Other"),
            500,
            "Failed to find any class that implements Connector and which name matches org.example.Other",
        ),
        (with("connector.class", ""), 400, "connector.class"),
        (with("tasks.max", "many"), 400, "tasks.max: 'many'"),
        (
            with("connect.influx.url", "influxdb"),
            400,
            "connect.influx.url",
        ),
        (
            with("connect.influx.kcql", "INSERT INTO a SELECT * FROM b"),
            400,
            "statement 1 of the KCQL",
        ),
        (
            with(
                "value.converter",
                "org.apache.kafka.connect.json.JsonConverter",
            ),
            400,
            "Avro",
        ),
        (
            with("consumer.override.group.id", "other"),
            400,
            "can't be overridden",
        ),
        ("{\"name\": \"x\"}".to_owned(), 400, "'config' is missing"),
        ("not json".to_owned(), 400, "not JSON"),
    ] {
        let (got, answer) = sink.post("/connectors", &body).await?;
        assert_eq!(got, status, "{answer}");
        assert_eq!(answer["error_code"], status);
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(reason), "{message}");
    }
    assert_eq!(sink.get("/connectors").await?.1, json!([]));
    assert_eq!(sink.get("/nowhere").await?.1["error_code"], 404);
    assert_eq!(sink.put("/connectors", "").await?.1["error_code"], 405);
    let class = "/connector-plugins/InfluxSink/config/validate";
    let (status, checked) = sink
        .put(
            class,
            &json!({"topics": "t", "connect.influx.url": "?"}).to_string(),
        )
        .await?;
    assert_eq!((status, &checked["error_count"]), (200, &json!(1)));
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_is_paused_changed_and_outlives_its_worker() -> anyhow::Result<()> {
    let site = Site::start().await;
    let store = site.folder().join("series.db");
    let url = format!("sqlite:{}", store.display());
    let file = site.folder().join("connector.json");
    let connector = json!({ "name": "demo_influxdb_sink", "config": {
        "connector.class": "InfluxSinkConnector", "topics.regex": "iot\\.[a-z]+\\.observations",
        "tasks.max": 2, "connect.influx.url": url, "influx.sqlite.retention.ms": 0, "connect.influx.password": "hidden",
    }});
    fs::write(&file, connector.to_string())?;
    site.produce(OBSERVATIONS, &observed("ep", "/3303/0/5700", 1, 1.0))
        .await;

    // Given at the start, it needs no curl.
    let sink = start_with(&site, &[file]).await?;
    let latest = async |value: f64| {
        wait_for(PATIENCE, "the value", async || {
            let found = embedded::query_latest(&store, "ep", "/3303/0/5700")?;
            anyhow::ensure!(
                found.as_ref().and_then(|f| f.value) == Some(value),
                "{found:?}"
            );
            Ok(())
        })
        .await
    };
    latest(1.0).await?;
    let (_, status) = sink.get("/connectors/demo_influxdb_sink/status").await?;
    assert_eq!(
        status["tasks"].as_array().map(Vec::len),
        Some(2),
        "{status}"
    );

    let (status, _) = sink.put("/connectors/demo_influxdb_sink/pause", "").await?;
    assert_eq!(status, 202);
    sink.wait_task("demo_influxdb_sink", "PAUSED").await?;
    site.produce(OBSERVATIONS, &observed("ep", "/3303/0/5700", 2, 2.0))
        .await;
    sink.stop().await;

    // A new worker without the file finds it in Kafka, still paused; what came meanwhile is not lost.
    let sink = start(&site).await?;
    sink.wait_task("demo_influxdb_sink", "PAUSED").await?;
    assert_eq!(
        embedded::query_latest(&store, "ep", "/3303/0/5700")?
            .unwrap()
            .value,
        Some(1.0)
    );
    assert_eq!(
        sink.put("/connectors/demo_influxdb_sink/resume", "")
            .await?
            .0,
        202
    );
    latest(2.0).await?;

    // A configuration as it was shown, with its mask, goes back with one change; the secret is kept.
    let (_, mut config) = sink.get("/connectors/demo_influxdb_sink/config").await?;
    assert_eq!(config["connect.influx.password"], "***");
    config["tasks.max"] = json!("1");
    let (status, answer) = sink
        .put("/connectors/demo_influxdb_sink/config", &config.to_string())
        .await?;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["tasks"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        sink.post("/connectors/demo_influxdb_sink/restart", "")
            .await?
            .0,
        204
    );
    assert_eq!(
        sink.post("/connectors/demo_influxdb_sink/tasks/0/restart", "")
            .await?
            .0,
        204
    );
    assert_eq!(
        sink.post("/connectors/demo_influxdb_sink/tasks/7/restart", "")
            .await?
            .0,
        404
    );
    site.produce(OBSERVATIONS, &observed("ep", "/3303/0/5700", 3, 3.0))
        .await;
    latest(3.0).await?;
    sink.stop().await;

    let configs = site.read("connect-influxdb-configs", 1).await;
    let stored = String::from_utf8_lossy(configs[0].value.as_deref().unwrap()).into_owned();
    assert!(
        stored.contains("\"hidden\""),
        "Connect's own form: {stored}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_a_connectors_work_and_its_configuration() -> anyhow::Result<()> {
    let site = Site::start().await;
    let store = site.folder().join("series.db");
    kafka::ensure_topic(&site.cluster(), OBSERVATIONS, 2, &[]).await?;
    let (first, second) = (start(&site).await?, start(&site).await?);
    first
        .create("shared", &json!({"topics": OBSERVATIONS, "connect.influx.url": format!("sqlite:{}", store.display()), "influx.sqlite.retention.ms": "0"}))
        .await?;
    second.wait_task("shared", "RUNNING").await?;
    for n in 0..50 {
        site.produce(
            OBSERVATIONS,
            &observed(&format!("ep{n}"), "/3303/0/5700", n, 1.0),
        )
        .await;
    }
    wait_for(PATIENCE, "all values", async || {
        let found = embedded::query(&store, &embedded::Filter::default())?.len();
        anyhow::ensure!(found == 50, "{found}");
        Ok(())
    })
    .await?;
    assert_eq!(second.delete("/connectors/shared").await?.0, 204);
    wait_for(PATIENCE, "the other to follow", async || {
        let (_, names) = first.get("/connectors").await?;
        anyhow::ensure!(names == json!([]), "{names}");
        Ok(())
    })
    .await?;
    first.stop().await;
    second.stop().await;
    Ok(())
}
