//! A real registry answers Confluent's API, and checks compatibility once told to.

use serde_json::{Value, json};
use testkit::Apicurio;

#[tokio::test]
async fn a_schema_is_registered_found_and_guarded() -> anyhow::Result<()> {
    let registry = Apicurio::start().await?;
    let http = reqwest::Client::new();
    let versions = format!("{}/subjects/readings-value/versions", registry.url());
    let schema = |fields: Value| json!({ "schema": json!({ "type": "record", "name": "R", "fields": fields }).to_string() });

    let first: Value = http
        .post(&versions)
        .json(&schema(json!([{ "name": "a", "type": "int" }])))
        .send()
        .await?
        .json()
        .await?;
    let id = first["id"].as_u64().expect("an id");
    let found: Value = http
        .get(format!("{}/schemas/ids/{id}", registry.url()))
        .send()
        .await?
        .json()
        .await?;
    assert!(
        found["schema"]
            .as_str()
            .expect("a schema")
            .contains("\"name\":\"R\"")
    );

    let level = http
        .put(format!("{}/config/readings-value", registry.url()))
        .json(&json!({ "compatibility": "BACKWARD" }))
        .send()
        .await?;
    assert_eq!(level.status(), 200);
    let broken = schema(json!([{ "name": "a", "type": "int" }, { "name": "b", "type": "int" }]));
    assert_eq!(
        http.post(&versions).json(&broken).send().await?.status(),
        409
    );
    Ok(())
}
