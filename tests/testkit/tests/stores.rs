//! Each store is started, written to and asked over its own API; those that are stopped and started again still have it.

use serde_json::json;
use testkit::{InfluxDb1, OrientDb, VictoriaMetrics};

#[tokio::test]
async fn influxdb_keeps_a_point() -> anyhow::Result<()> {
    let mut influxdb = InfluxDb1::start().await?;
    influxdb.create_database("zeelos").await?;
    let write =
        reqwest::Client::new().post(format!("{}/write?db=zeelos&precision=ms", influxdb.url()));
    assert_eq!(
        write
            .body("readings,ep=a value=21.5 1700000000000")
            .send()
            .await?
            .status(),
        204
    );

    influxdb.restart().await?;
    let answer = influxdb
        .query("zeelos", "SELECT value FROM readings")
        .await?;
    assert_eq!(
        answer["results"][0]["series"][0]["values"],
        json!([[1_700_000_000_000_u64, 21.5]])
    );
    assert!(
        influxdb
            .query("zeelos", "SELECT nonsense(value) FROM readings")
            .await
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn victoria_metrics_takes_the_second_write_api() -> anyhow::Result<()> {
    let victoria_metrics = VictoriaMetrics::start().await?;
    let write = reqwest::Client::new().post(format!(
        "{}/api/v2/write?org=o&bucket=b&precision=ms",
        victoria_metrics.url()
    ));
    assert_eq!(
        write
            .body("readings,ep=a value=21.5 1700000000000")
            .send()
            .await?
            .status(),
        204
    );

    let series = victoria_metrics.export("readings_value").await?;
    assert_eq!(series.len(), 1);
    assert_eq!(series[0]["metric"]["ep"], "a");
    assert_eq!(
        (&series[0]["values"], &series[0]["timestamps"]),
        (&json!([21.5]), &json!([1_700_000_000_000_u64]))
    );
    Ok(())
}

#[tokio::test]
async fn orientdb_keeps_a_vertex() -> anyhow::Result<()> {
    let mut orientdb = OrientDb::start().await?;
    orientdb.command("CREATE CLASS Clients EXTENDS V").await?;
    orientdb
        .command("CREATE VERTEX Clients SET ep = 'a'")
        .await?;

    orientdb.stop().await?;
    assert!(orientdb.command("SELECT ep FROM Clients").await.is_err());
    orientdb.restart().await?;
    let answer = orientdb.command("SELECT ep FROM Clients").await?;
    assert_eq!(answer["result"][0]["ep"], "a");
    assert!(orientdb.command("SELECT FROM NoSuchClass").await.is_err());
    Ok(())
}
