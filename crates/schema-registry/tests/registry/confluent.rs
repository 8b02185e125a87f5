//! What of Confluent's API only ours has, of the two registries.

use serde_json::{Value, json};

use crate::common::{Client, INT, V1, fresh, record};

pub(crate) async fn only_ours(client: &Client) {
    the_rest_of_the_api(client).await;
    verbose_checks_say_why(client).await;
    modes_allow_and_forbid(client).await;
    an_import_keeps_ids(client).await;
    normalised_schemas_are_the_same(client).await;
    bodies_and_content_types(client).await;
    hostile_bodies_are_refused(client).await;
    subjects_may_have_any_name(client).await;
}

async fn the_rest_of_the_api(client: &Client) {
    assert_eq!(client.get("/").await.ok(), json!({}));
    assert_eq!(client.get("/contexts").await.ok(), json!(["."]));
    assert_eq!(client.get("/schemas/types").await.ok(), json!(["AVRO"]));
    let id = client.get("/v1/metadata/id").await.ok();
    assert!(
        id["scope"]["clusters"]["kafka-cluster"]
            .as_str()
            .is_some_and(|id| !id.is_empty())
    );
    assert_eq!(client.get("/nothing").await.code(), (404, 404));
    assert_eq!(client.delete("/subjects").await.code(), (405, 405));
    let subject = fresh("listed");
    client.level(&subject, "NONE").await;
    for fields in [INT, r#"{"name":"a","type":"string"}"#] {
        client
            .register(&subject, &record(&subject, fields))
            .await
            .id();
    }
    let all = client
        .get(&format!("/schemas?subjectPrefix={subject}"))
        .await
        .ok();
    let versions: Vec<&Value> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["version"])
        .collect();
    assert_eq!(versions, [&json!(1), &json!(2)]);
    let latest = client
        .get(&format!("/schemas?subjectPrefix={subject}&latestOnly=true"))
        .await
        .ok();
    assert_eq!(latest.as_array().unwrap().len(), 1);
    assert_eq!(latest[0]["version"], json!(2));
    let page = client
        .get(&format!(
            "/schemas?subjectPrefix={subject}&offset=1&limit=1"
        ))
        .await
        .ok();
    assert_eq!(page[0]["version"], json!(2));
    let named = client
        .get(&format!("/subjects?subjectPrefix={subject}"))
        .await
        .ok();
    assert_eq!(named, json!([subject]));
    let json_schema = json!({ "schema": "{}", "schemaType": "JSON" });
    let answer = client
        .post(&format!("/subjects/{subject}/versions"), &json_schema)
        .await;
    assert_eq!(answer.code(), (422, 42201));
    assert!(answer.body["message"].as_str().unwrap().contains("AVRO"));
}

async fn verbose_checks_say_why(client: &Client) {
    let subject = fresh("verbose");
    client.register(&subject, &record(&subject, INT)).await.id();
    let new = json!({ "schema": record(&subject, r#"{"name":"a","type":"int"},{"name":"b","type":"int"}"#) });
    let path = format!("/compatibility/subjects/{subject}/versions");
    for path in [
        format!("{path}/latest?verbose=true"),
        format!("{path}/1?verbose=True"),
        format!("{path}?verbose=true"),
    ] {
        let checked = client.post(&path, &new).await.ok();
        assert_eq!(checked["is_compatible"], json!(false));
        let messages = checked["messages"].to_string();
        for part in [
            "READER_FIELD_MISSING_DEFAULT_VALUE",
            "/fields/1",
            "oldSchemaVersion: 1",
            "BACKWARD",
        ] {
            assert!(messages.contains(part), "{part} in {messages}");
        }
    }
    let quiet = client.post(&format!("{path}/latest"), &new).await.ok();
    assert_eq!(quiet, json!({ "is_compatible": false }));
    let other = fresh("unknown");
    let checked = client
        .post(
            &format!("/compatibility/subjects/{other}/versions/latest"),
            &new,
        )
        .await
        .ok();
    assert_eq!(checked["is_compatible"], json!(true));
    let missing = client
        .post(&format!("/compatibility/subjects/{other}/versions/3"), &new)
        .await;
    assert_eq!(missing.code(), (404, 40402));
}

async fn modes_allow_and_forbid(client: &Client) {
    assert_eq!(
        client.get("/mode").await.ok(),
        json!({ "mode": "READWRITE" })
    );
    let subject = fresh("mode");
    let path = format!("/mode/{subject}");
    assert_eq!(client.get(&path).await.code(), (404, 40409));
    let defaulted = client
        .get(&format!("{path}?defaultToGlobal=true"))
        .await
        .ok();
    assert_eq!(defaulted, json!({ "mode": "READWRITE" }));
    let first = record(&subject, INT);
    let id = client.register(&subject, &first).await.id();
    let read_only = json!({ "mode": "READONLY" });
    assert_eq!(client.put(&path, &read_only).await.ok(), read_only);
    // What is there is still found; nothing changes.
    assert_eq!(client.register(&subject, &first).await.id(), id);
    let second = record(
        &subject,
        r#"{"name":"a","type":"int"},{"name":"b","type":"int","default":0}"#,
    );
    assert_eq!(
        client.register(&subject, &second).await.code(),
        (422, 42205)
    );
    assert_eq!(
        client.delete(&format!("/subjects/{subject}")).await.code(),
        (422, 42205)
    );
    let level = json!({ "compatibility": "FULL" });
    assert_eq!(
        client
            .put(&format!("/config/{subject}"), &level)
            .await
            .code(),
        (422, 42205)
    );
    assert_eq!(client.delete(&path).await.ok(), read_only);
    client.register(&subject, &second).await.id();
    assert_eq!(
        client.put(&path, &json!({ "mode": "ANY" })).await.code(),
        (422, 42204)
    );
    assert_eq!(client.delete(&path).await.code(), (404, 40401));
    // Everywhere.
    client.put("/mode", &read_only).await.ok();
    let other = fresh("mode");
    assert_eq!(
        client.register(&other, &record(&other, INT)).await.code(),
        (422, 42205)
    );
    client
        .put("/mode", &json!({ "mode": "READWRITE" }))
        .await
        .ok();
    client.register(&other, &record(&other, INT)).await.id();
}

async fn an_import_keeps_ids(client: &Client) {
    let subject = fresh("import");
    let schema = record(&subject, INT);
    let path = format!("/subjects/{subject}/versions");
    let body = json!({ "schema": schema, "id": 5000, "version": 3 });
    assert_eq!(client.post(&path, &body).await.code(), (422, 42205));
    let import = json!({ "mode": "IMPORT" });
    client.put(&format!("/mode/{subject}"), &import).await.ok();
    assert_eq!(
        client.register(&subject, &schema).await.code(),
        (422, 42205)
    );
    assert_eq!(client.post(&path, &body).await.id(), 5000);
    assert_eq!(client.post(&path, &body).await.id(), 5000);
    assert_eq!(client.get(&path).await.ok(), json!([3]));
    // No check of compatibility, but an id stands for one schema.
    let other = record(&subject, r#"{"name":"a","type":"string"}"#);
    let clash = json!({ "schema": other, "id": 5000, "version": 4 });
    assert_eq!(client.post(&path, &clash).await.code(), (422, 42207));
    let good = json!({ "schema": other, "id": 5001, "version": 1 });
    assert_eq!(client.post(&path, &good).await.id(), 5001);
    assert_eq!(client.get(&path).await.ok(), json!([1, 3]));
    // Where there are schemas already it has to be forced.
    let used = fresh("import");
    client.register(&used, &record(&used, INT)).await.id();
    let mode = format!("/mode/{used}");
    assert_eq!(client.put(&mode, &import).await.code(), (422, 42205));
    client
        .put(&format!("{mode}?force=true"), &import)
        .await
        .ok();
    // New ids go on behind the imported ones: 5002 and 5003.
    let next = fresh("import");
    assert_eq!(client.register(&next, &record(&next, INT)).await.id(), 5003);
}

async fn normalised_schemas_are_the_same(client: &Client) {
    let subject = fresh("normalised");
    let one = json!({ "schema": r#"{"type":"string","b":1,"a":2}"# });
    let two = json!({ "schema": r#"{"type":"string","a":2,"b":1}"# });
    let path = format!("/subjects/{subject}/versions");
    let id = client
        .post(&format!("{path}?normalize=true"), &one)
        .await
        .id();
    assert_eq!(
        client
            .post(&format!("{path}?normalize=true"), &two)
            .await
            .id(),
        id
    );
    assert_eq!(client.post(&path, &two).await.id(), id);
    assert_ne!(client.post(&path, &one).await.id(), id);
    let config = format!("/config/{subject}");
    client
        .put(&config, &json!({ "normalize": true }))
        .await
        .ok();
    let found = client
        .post(&format!("/subjects/{subject}"), &one)
        .await
        .ok();
    assert_eq!(found["id"], json!(id));
    let refused = client.put(&config, &json!({ "alias": "other" })).await;
    assert_eq!(refused.status, 422);
}

async fn bodies_and_content_types(client: &Client) {
    let subject = fresh("bodies");
    let path = format!("/subjects/{subject}/versions");
    let body = json!({ "schema": record(&subject, INT) }).to_string();
    for content_type in [
        V1,
        "application/vnd.schemaregistry+json",
        "application/json",
        "application/json; charset=utf-8",
    ] {
        let request = client
            .request("POST", &path)
            .header("content-type", content_type);
        let response = request.body(body.clone()).send().await.unwrap();
        assert_eq!(response.status(), 200, "{content_type}");
        assert_eq!(response.headers()["content-type"], V1);
    }
    let request = client
        .request("POST", &path)
        .header("content-type", "text/plain");
    assert_eq!(client.send(request.body(body)).await.code(), (415, 415));
    for (body, status) in [
        ("{", 400),
        ("", 400),
        ("[1]", 422),
        (r#"{"schema":5}"#, 422),
    ] {
        let request = client.request("POST", &path).header("content-type", V1);
        assert_eq!(
            client.send(request.body(body)).await.status,
            status,
            "{body}"
        );
    }
    assert_eq!(client.post(&path, &json!({})).await.code(), (422, 42201));
    let rules = json!({ "schema": "\"int\"", "ruleSet": { "domainRules": [] } });
    assert_eq!(client.post(&path, &rules).await.code(), (422, 42201));
    let error = client
        .request("GET", "/schemas/ids/123456789")
        .send()
        .await
        .unwrap();
    assert_eq!(error.headers()["content-type"], V1);
}

async fn hostile_bodies_are_refused(client: &Client) {
    let subject = fresh("hostile");
    let path = format!("/subjects/{subject}/versions");
    let deep = format!("{}\"int\"{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(
        client.post(&path, &json!({ "schema": deep })).await.code(),
        (422, 42201)
    );
    for body in [
        deep.clone(),
        format!(r#"{{"schema":"int","other":{deep}}}"#),
        format!(r#"{{"schema":"int","metadata":{deep}}}"#),
    ] {
        let request = client.request("POST", &path).header("content-type", V1);
        let status = client.send(request.body(body)).await.status;
        assert!([400, 422].contains(&status), "{status}");
    }
    let large = json!({ "schema": " ".repeat(1024 * 1024) });
    assert_eq!(client.post(&path, &large).await.code(), (413, 413));
    assert_eq!(
        client
            .register(&subject, &record(&subject, INT))
            .await
            .status,
        200
    );
}

async fn subjects_may_have_any_name(client: &Client) {
    let name = fresh("a/b c#ü");
    let encoded = name
        .replace('/', "%2F")
        .replace(' ', "%20")
        .replace('#', "%23")
        .replace('ü', "%C3%BC");
    client
        .register(&encoded, &record(&fresh("named"), INT))
        .await
        .id();
    let listed = client.get("/subjects").await.ok();
    assert!(listed.as_array().unwrap().contains(&json!(name)));
    // The default context's prefix means the same subject; other contexts there are none.
    let found = client
        .get(&format!("/subjects/:.:{encoded}/versions"))
        .await
        .ok();
    assert_eq!(found, json!([1]));
    for other in [":.other:x", ":.::.:x"] {
        let answer = client.register(other, "\"int\"").await;
        assert_eq!(answer.code(), (422, 42208));
    }
    assert_eq!(client.register("%00", "\"int\"").await.code(), (422, 42208));
    assert_eq!(client.get("/subjects/%FF/versions").await.status, 400);
}
