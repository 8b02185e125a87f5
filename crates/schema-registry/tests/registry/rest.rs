//! The REST API's behaviour, the same for ours (on Apache Kafka and on the embedded broker) and for Apicurio's
//! Confluent API; where Apicurio differs, [`Dialect`] says so.

use embedded_kafka::{Broker, BrokerConfig};
use serde_json::{Value, json};

use crate::common::{Client, INT, fresh, record, start};
use crate::confluent::only_ours;

/// Whose answers they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dialect {
    /// Confluent's, which is ours.
    Confluent,
    Apicurio,
}

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
