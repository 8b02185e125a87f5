//! The REST API's behaviour, the same for ours (on Apache Kafka and on the embedded broker) and for Apicurio's
//! Confluent API; where Apicurio differs, [`Dialect`] says so.

use embedded_kafka::{Broker, BrokerConfig};
use serde_json::{Value, json};

use crate::common::{Client, V1, fresh, record, start};

/// Whose answers they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dialect {
    /// Confluent's, which is ours.
    Confluent,
    Apicurio,
}

const INT: &str = r#"{"name":"a","type":"int"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn ours_on_apache_kafka() {
    let kafka = testkit::RealKafka::shared().await.unwrap();
    let registry = start(kafka.bootstrap(), &fresh("rest")).await;
    let client = Client::new(&registry.url());
    behaviours(&client, Dialect::Confluent).await;
    only_ours(&client).await;
    assert_eq!(registry.skipped_records(), 0);
    registry.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_on_the_embedded_broker() {
    let folder = tempfile::tempdir().unwrap();
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let broker = Broker::start(BrokerConfig::new(listen, folder.path()))
        .await
        .unwrap();
    let bootstrap = broker.local_addr().to_string();
    let registry = start(&bootstrap, "_schemas").await;
    let client = Client::new(&registry.url());
    behaviours(&client, Dialect::Confluent).await;
    only_ours(&client).await;
    let before = client.get("/schemas?deleted=true").await.ok();
    registry.stop().await.unwrap();

    let registry = start(&bootstrap, "_schemas").await;
    let after = Client::new(&registry.url())
        .get("/schemas?deleted=true")
        .await
        .ok();
    assert_eq!(before, after);
    registry.stop().await.unwrap();
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apicurio() {
    let apicurio = testkit::Apicurio::start().await.unwrap();
    behaviours(&Client::new(apicurio.url()), Dialect::Apicurio).await;
}

async fn behaviours(client: &Client, dialect: Dialect) {
    registered_schemas_are_found(client, dialect).await;
    the_same_schema_has_one_id(client, dialect).await;
    look_up_finds_only_what_is_registered(client).await;
    what_is_not_there_has_its_code(client).await;
    what_is_invalid_has_its_code(client, dialect).await;
    levels_decide_what_is_compatible(client).await;
    an_incompatible_schema_is_a_conflict(client).await;
    deletion_has_two_steps(client, dialect).await;
    configuration_by_subject(client, dialect).await;
    references_are_resolved(client, dialect).await;
}

async fn registered_schemas_are_found(client: &Client, dialect: Dialect) {
    let subject = fresh("found");
    let first = record(&subject, INT);
    let second = record(
        &subject,
        r#"{"name":"b","type":"string","avro.java.string":"x"}"#,
    );
    let id1 = client.register(&subject, &first).await.id();
    // Apicurio takes a level only for a subject that is there.
    client.level(&subject, "NONE").await;
    let id2 = client.register(&subject, &second).await.id();
    assert_ne!(id1, id2);

    let subjects = client.get("/subjects").await.ok();
    assert!(subjects.as_array().unwrap().contains(&json!(subject)));
    let versions = client
        .get(&format!("/subjects/{subject}/versions"))
        .await
        .ok();
    assert_eq!(versions, json!([1, 2]));

    let found = client
        .get(&format!("/subjects/{subject}/versions/1"))
        .await
        .ok();
    assert_eq!(found["subject"], json!(subject));
    assert_eq!(found["version"], json!(1));
    assert_eq!(found["id"], json!(id1));
    assert_eq!(found["schema"], json!(first));
    for latest in ["latest", "-1"] {
        let found = client
            .get(&format!("/subjects/{subject}/versions/{latest}"))
            .await
            .ok();
        assert_eq!(found["version"], json!(2));
        assert_eq!(found["schema"], json!(second));
    }
    let text = client
        .get(&format!("/subjects/{subject}/versions/2/schema"))
        .await
        .ok();
    assert_eq!(text, serde_json::from_str::<Value>(&second).unwrap());

    let by_id = client.get(&format!("/schemas/ids/{id1}")).await.ok();
    assert_eq!(by_id["schema"], json!(first));
    let uses = client
        .get(&format!("/schemas/ids/{id1}/versions"))
        .await
        .ok();
    assert_eq!(uses, json!([{ "subject": subject, "version": 1 }]));
    let types = client.get("/schemas/types").await.ok();
    assert!(types.as_array().unwrap().contains(&json!("AVRO")));
    if dialect == Dialect::Confluent {
        // Apicurio 3.0.9 has these under another version of the API or not at all.
        let subjects = client
            .get(&format!("/schemas/ids/{id1}/subjects"))
            .await
            .ok();
        assert_eq!(subjects, json!([subject]));
        let text = client.get(&format!("/schemas/ids/{id1}/schema")).await.ok();
        assert_eq!(text, serde_json::from_str::<Value>(&first).unwrap());
    }
}

async fn the_same_schema_has_one_id(client: &Client, dialect: Dialect) {
    let (one, two) = (fresh("same"), fresh("same"));
    let schema = record(&one, INT);
    let id = client.register(&one, &schema).await.id();
    assert_eq!(client.register(&one, &schema).await.id(), id);
    let versions = client.get(&format!("/subjects/{one}/versions")).await.ok();
    assert_eq!(versions, json!([1]));
    // Under another subject, and written with other white space.
    let spaced = schema.replace(',', " ,\n ").replace(':', " : ");
    assert_ne!(spaced, schema);
    assert_eq!(client.register(&two, &schema).await.id(), id);
    if dialect == Dialect::Confluent {
        // Apicurio takes it for another schema.
        assert_eq!(client.register(&two, &spaced).await.id(), id);
    }
    let versions = client.get(&format!("/subjects/{two}/versions")).await.ok();
    assert_eq!(versions, json!([1]));
}

async fn look_up_finds_only_what_is_registered(client: &Client) {
    let subject = fresh("look-up");
    let schema = record(&subject, INT);
    let path = format!("/subjects/{subject}");
    let body = json!({ "schema": schema });
    assert_eq!(client.post(&path, &body).await.code(), (404, 40401));
    let id = client.register(&subject, &schema).await.id();
    let found = client.post(&path, &body).await.ok();
    assert_eq!(found["id"], json!(id));
    assert_eq!(found["version"], json!(1));
    assert_eq!(found["subject"], json!(subject));
    let other = json!({ "schema": record(&fresh("other"), INT) });
    assert_eq!(client.post(&path, &other).await.code(), (404, 40403));
}

async fn what_is_not_there_has_its_code(client: &Client) {
    let subject = fresh("missing");
    for path in [
        format!("/subjects/{subject}/versions"),
        format!("/subjects/{subject}/versions/latest"),
    ] {
        assert_eq!(client.get(&path).await.code(), (404, 40401), "{path}");
    }
    assert_eq!(
        client.delete(&format!("/subjects/{subject}")).await.code(),
        (404, 40401)
    );
    assert_eq!(
        client.get("/schemas/ids/987654321").await.code(),
        (404, 40403)
    );
    client.register(&subject, &record(&subject, INT)).await.id();
    assert_eq!(
        client
            .get(&format!("/subjects/{subject}/versions/7"))
            .await
            .code(),
        (404, 40402)
    );
    assert_eq!(
        client
            .delete(&format!("/subjects/{subject}/versions/7"))
            .await
            .code(),
        (404, 40402)
    );
}

async fn what_is_invalid_has_its_code(client: &Client, dialect: Dialect) {
    let subject = fresh("invalid");
    for schema in [
        "{",
        r#"{"type":"nothing"}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"Unknown"}]}"#,
    ] {
        let answer = client.register(&subject, schema).await;
        assert_eq!(answer.code(), (422, 42201), "{schema}: {:?}", answer.body);
    }
    client.register(&subject, &record(&subject, INT)).await.id();
    for version in ["0", "first"] {
        let answer = client
            .get(&format!("/subjects/{subject}/versions/{version}"))
            .await;
        let expected = match dialect {
            Dialect::Confluent => (422, 42202),
            // What can't be a version is a version that is not there.
            Dialect::Apicurio => (404, 40402),
        };
        assert_eq!(answer.code(), expected, "{version}");
    }
    let answer = client
        .put(
            &format!("/config/{subject}"),
            &json!({ "compatibility": "SOMEHOW" }),
        )
        .await;
    match dialect {
        Dialect::Confluent => assert_eq!(answer.code(), (422, 42203)),
        // Refused, but as an error of its own.
        Dialect::Apicurio => assert_eq!(answer.status, 500),
    }
}

/// A level, an old and a new schema (types of a record's field, or the whole field list), and whether it goes.
async fn levels_decide_what_is_compatible(client: &Client) {
    let a = INT;
    let a_and_optional = r#"{"name":"a","type":"int"},{"name":"b","type":"int","default":0}"#;
    let a_and_required = r#"{"name":"a","type":"int"},{"name":"b","type":"int"}"#;
    let long = r#"{"name":"a","type":"long"}"#;
    let text = r#"{"name":"a","type":"string"}"#;
    let bytes = r#"{"name":"a","type":"bytes"}"#;
    let nullable = r#"{"name":"a","type":["null","int"]}"#;
    let two = r#"{"name":"e","type":{"type":"enum","name":"E","symbols":["X","Y"]}}"#;
    let three = r#"{"name":"e","type":{"type":"enum","name":"E","symbols":["X","Y","Z"]}}"#;
    for (level, old, new, goes) in [
        ("BACKWARD", a, a_and_optional, true),
        ("BACKWARD", a, a_and_required, false),
        ("BACKWARD", a_and_required, a, true),
        ("BACKWARD", a, long, true),
        ("BACKWARD", long, a, false),
        ("BACKWARD", a, text, false),
        ("BACKWARD", text, bytes, true),
        ("BACKWARD", a, nullable, true),
        ("BACKWARD", nullable, a, false),
        ("BACKWARD", two, three, true),
        ("BACKWARD", three, two, false),
        ("FORWARD", a, a_and_required, true),
        ("FORWARD", a_and_required, a, false),
        ("FORWARD", long, a, true),
        ("FORWARD", a, long, false),
        ("FULL", a, a_and_optional, true),
        ("FULL", a, a_and_required, false),
        ("FULL", a_and_required, a, false),
        ("FULL", a, long, false),
        ("FULL", text, bytes, true),
        ("NONE", a, text, true),
    ] {
        let subject = fresh("levels");
        client.register(&subject, &record(&subject, old)).await.id();
        client.level(&subject, level).await;
        let new = record(&subject, new);
        let checked = client
            .post(
                &format!("/compatibility/subjects/{subject}/versions/latest"),
                &json!({ "schema": new }),
            )
            .await
            .ok();
        assert_eq!(
            checked["is_compatible"],
            json!(goes),
            "{level}: {old} -> {new}"
        );
        let answer = client.register(&subject, &new).await;
        let expected = if goes { 200 } else { 409 };
        assert_eq!(
            answer.status, expected,
            "{level}: {old} -> {new}: {answer:?}"
        );
    }

    // A field that comes back with another type: only a transitive level sees it.
    for (level, goes) in [
        ("BACKWARD", true),
        ("BACKWARD_TRANSITIVE", false),
        ("FORWARD", true),
        ("FORWARD_TRANSITIVE", false),
        ("FULL", true),
        ("FULL_TRANSITIVE", false),
    ] {
        let subject = fresh("transitive");
        let optional = r#"{"name":"a","type":"int"},{"name":"b","type":"int","default":0}"#;
        let other = r#"{"name":"a","type":"int"},{"name":"b","type":"string","default":""}"#;
        for fields in [optional, a] {
            client
                .register(&subject, &record(&subject, fields))
                .await
                .id();
            client.level(&subject, level).await;
        }
        let status = client
            .register(&subject, &record(&subject, other))
            .await
            .status;
        assert_eq!(status == 200, goes, "{level}: {status}");
    }
}

async fn an_incompatible_schema_is_a_conflict(client: &Client) {
    let subject = fresh("conflict");
    client.register(&subject, &record(&subject, INT)).await.id();
    client.level(&subject, "BACKWARD").await;
    let new = record(&subject, r#"{"name":"a","type":"string"}"#);
    assert_eq!(client.register(&subject, &new).await.code(), (409, 409));
    let versions = client
        .get(&format!("/subjects/{subject}/versions"))
        .await
        .ok();
    assert_eq!(versions, json!([1]));
}

async fn deletion_has_two_steps(client: &Client, dialect: Dialect) {
    let subject = fresh("deleted");
    let schemas = [
        record(&subject, INT),
        record(&subject, r#"{"name":"a","type":"string"}"#),
        record(&subject, r#"{"name":"a","type":"bytes"}"#),
    ];
    let mut ids = Vec::new();
    for schema in &schemas {
        ids.push(client.register(&subject, schema).await.id());
        client.level(&subject, "NONE").await;
    }
    let versions = format!("/subjects/{subject}/versions");
    let second = format!("{versions}/2");
    assert_eq!(client.delete(&second).await.ok(), json!(2));
    assert_eq!(client.get(&versions).await.ok(), json!([1, 3]));
    assert_eq!(client.get(&second).await.code(), (404, 40402));
    // Records with its id can still be read.
    let by_id = client.get(&format!("/schemas/ids/{}", ids[1])).await.ok();
    assert_eq!(by_id["schema"], json!(schemas[1]));
    if dialect == Dialect::Confluent {
        let all = client.get(&format!("{versions}?deleted=true")).await.ok();
        assert_eq!(all, json!([1, 2, 3]));
        assert_eq!(
            client.get(&format!("{second}?deleted=true")).await.ok()["id"],
            json!(ids[1])
        );
        assert_eq!(client.delete(&second).await.code(), (404, 40406));
        let first = format!("{versions}/1?permanent=true");
        assert_eq!(client.delete(&first).await.code(), (404, 40407));
        assert_eq!(
            client
                .delete(&format!("{second}?permanent=true"))
                .await
                .ok(),
            json!(2)
        );
        assert_eq!(
            client.get(&format!("{second}?deleted=true")).await.code(),
            (404, 40402)
        );
        assert_eq!(
            client.get(&format!("/schemas/ids/{}", ids[1])).await.code(),
            (404, 40403)
        );
        let gone = format!("/subjects/{subject}?permanent=true");
        assert_eq!(client.delete(&gone).await.code(), (404, 40405));
    }
    assert_eq!(
        client.delete(&format!("/subjects/{subject}")).await.ok(),
        json!([1, 3])
    );
    assert_eq!(client.get(&versions).await.code(), (404, 40401));
    let listed = client.get("/subjects").await.ok();
    assert!(!listed.as_array().unwrap().contains(&json!(subject)));
    if dialect == Dialect::Confluent {
        let listed = client.get("/subjects?deleted=true").await.ok();
        assert!(listed.as_array().unwrap().contains(&json!(subject)));
        let subject_path = format!("/subjects/{subject}");
        assert_eq!(client.delete(&subject_path).await.code(), (404, 40404));
        // The subject's level went with it.
        assert_eq!(
            client.get(&format!("/config/{subject}")).await.code(),
            (404, 40408)
        );
        // Registered again it has its id and a new version.
        assert_eq!(client.register(&subject, &schemas[0]).await.id(), ids[0]);
        assert_eq!(client.get(&versions).await.ok(), json!([4]));
        assert_eq!(client.delete(&subject_path).await.ok(), json!([4]));
        let gone = client
            .delete(&format!("{subject_path}?permanent=true"))
            .await
            .ok();
        assert_eq!(gone, json!([1, 3, 4]));
        let listed = client.get("/subjects?deleted=true").await.ok();
        assert!(!listed.as_array().unwrap().contains(&json!(subject)));
        // An id is not given twice, even when its schema is gone.
        let next = client
            .register(&subject, &record(&fresh("next"), INT))
            .await
            .id();
        assert!(next > *ids.iter().max().unwrap());
        assert_eq!(client.get(&versions).await.ok(), json!([1]));
    }
}

async fn configuration_by_subject(client: &Client, dialect: Dialect) {
    let global = client.get("/config").await.ok();
    let default = match dialect {
        Dialect::Confluent => "BACKWARD",
        Dialect::Apicurio => "NONE",
    };
    assert_eq!(global["compatibilityLevel"], json!(default));
    let subject = fresh("config");
    client.register(&subject, &record(&subject, INT)).await.id();
    let path = format!("/config/{subject}");
    // Apicurio shows the global level for a subject that has none, and names the field it answers otherwise.
    let (unset, field) = match dialect {
        Dialect::Confluent => ((404, 40408), "compatibility"),
        Dialect::Apicurio => ((200, 0), "compatibilityLevel"),
    };
    assert_eq!(client.get(&path).await.code(), unset);
    let with_default = client
        .get(&format!("{path}?defaultToGlobal=true"))
        .await
        .ok();
    assert_eq!(with_default["compatibilityLevel"], json!(default));
    let set = client
        .put(&path, &json!({ "compatibility": "FULL" }))
        .await
        .ok();
    assert_eq!(set[field], json!("FULL"));
    assert_eq!(
        client.get(&path).await.ok()["compatibilityLevel"],
        json!("FULL")
    );
    client.delete(&path).await.ok();
    assert_eq!(client.get(&path).await.code(), unset);
}

async fn references_are_resolved(client: &Client, dialect: Dialect) {
    let (key, user) = (fresh("key"), fresh("user"));
    let name = key.replace('-', "_");
    client
        .register(
            &key,
            &format!(r#"{{"type":"record","name":"{name}","namespace":"n","fields":[{INT}]}}"#),
        )
        .await
        .id();
    let schema = format!(
        r#"{{"type":"record","name":"{}","namespace":"n","fields":[{{"name":"key","type":"n.{name}"}}]}}"#,
        user.replace('-', "_")
    );
    let path = format!("/subjects/{user}/versions");
    let body = json!({
        "schema": schema,
        "schemaType": "AVRO",
        "references": [{ "name": format!("n.{name}"), "subject": key, "version": 1 }],
    });
    let id = client.post(&path, &body).await.id();
    assert_eq!(client.post(&path, &body).await.id(), id);
    let found = client.get(&format!("{path}/1")).await.ok();
    assert_eq!(found["references"], body["references"]);
    let users = client
        .get(&format!("/subjects/{key}/versions/1/referencedby"))
        .await
        .ok();
    assert_eq!(users, json!([id]));
    if dialect == Dialect::Confluent {
        assert_eq!(
            client
                .delete(&format!("/subjects/{key}/versions/1"))
                .await
                .code(),
            (422, 42206)
        );
        assert_eq!(
            client.delete(&format!("/subjects/{key}")).await.code(),
            (422, 42206)
        );
        client.delete(&format!("/subjects/{user}")).await.ok();
        client.delete(&format!("/subjects/{key}")).await.ok();
        let missing = json!({
            "schema": schema,
            "references": [{ "name": "n.x", "subject": fresh("nowhere"), "version": 1 }],
        });
        assert_eq!(client.post(&path, &missing).await.code(), (422, 42201));
    }
}

async fn only_ours(client: &Client) {
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
