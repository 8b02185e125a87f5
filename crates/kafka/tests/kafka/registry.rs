use kafka::{ReadError, RecordDecoder, RecordEncoder, RegistryError, SchemaRegistry};
use records::AvroKey;
use schema_registry::{Args, Registry};
use service::Context;

use site::{Kafka, PATIENCE, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_says_what_it_is() {
    let mut site = Site::start().await;
    let url = site.registry_url().to_owned();
    let registry = site.registry.client();

    let unknown = registry.schema(4_711).await.unwrap_err();
    assert!(
        matches!(unknown, RegistryError::Unknown { id: 4_711, .. }),
        "{unknown}"
    );
    assert!(!unknown.is_retriable());
    assert!(unknown.to_string().contains(&url));
    // No registry has an id beyond Java's int: what seems to have one is no Avro, and asking again mends nothing.
    for id in [0x8000_0000, u32::MAX] {
        let schema = registry.schema(id).await.unwrap_err();
        let document = registry.document(id).await.unwrap_err();
        for error in [schema, document] {
            assert!(
                matches!(error, RegistryError::Unknown { id: of, .. } if of == id),
                "{error}"
            );
        }
    }

    let text = |kind: &str| {
        format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":"{kind}"}}]}}"#)
    };
    let id = registry.register("s-value", &text("string")).await.unwrap();
    assert_eq!(
        registry.register("s-value", &text("string")).await.unwrap(),
        id
    );
    let refused = registry
        .register("s-value", &text("long"))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, RegistryError::Refused { subject, .. } if subject == "s-value"),
        "{refused}"
    );
    assert!(!refused.is_retriable());
    let refused = registry.register("s-value", "no schema").await.unwrap_err();
    assert!(
        matches!(refused, RegistryError::Refused { .. }),
        "{refused}"
    );

    registry.schema(id).await.unwrap();
    site.registry.go_away().await;
    // What is known needs no registry.
    assert_eq!(registry.schema(id).await.unwrap().id, id);
    assert_eq!(
        registry.register("s-value", &text("string")).await.unwrap(),
        id
    );
    for error in [
        registry.schema(4_712).await.unwrap_err(),
        registry
            .register("t-value", &text("string"))
            .await
            .unwrap_err(),
    ] {
        assert!(
            matches!(error, RegistryError::Unreachable { .. }),
            "{error}"
        );
        assert!(error.is_retriable());
        assert!(error.to_string().contains(&url), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_whose_kafka_is_away_is_one_to_wait_for() {
    let mut kafka = Kafka::start().await;
    let args = Args {
        write_timeout_s: 1,
        ..Args::on_free_port(kafka.bootstrap())
    };
    let server = Registry::start(args, Context::detached()).await.unwrap();
    server.loaded().await;
    let registry = SchemaRegistry::new(&server.url()).unwrap();
    kafka.go_away().await;
    let error = registry
        .register("s-value", r#""string""#)
        .await
        .unwrap_err();
    assert!(error.is_retriable(), "{error}");
    kafka.come_back().await;
    let register = async || Ok(registry.register("s-value", r#""string""#).await?);
    testkit::wait_for(PATIENCE, "the registry to write again", register)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_bad_or_the_registry_is_away_but_never_both() {
    let mut site = Site::start().await;
    let registry = site.registry.client();
    let encoder = RecordEncoder::new(registry.clone());
    let framed = encoder.key("t", "dev-1").await.unwrap();
    let mut decoder = RecordDecoder::<AvroKey>::new(registry.clone());
    assert_eq!(
        decoder.decode(&framed).await.unwrap(),
        AvroKey::new("dev-1")
    );

    let other = registry
        .register("o-value", r#"{"type":"record","name":"O","fields":[]}"#)
        .await
        .unwrap();
    let header = |id: u32| [&[0][..], &id.to_be_bytes()].concat();
    for (bytes, expected) in [
        (b"text".to_vec(), "not_framed"),
        (header(999_999), "unknown_schema"),
        (header(other), "other_record"),
        (framed[..framed.len() - 1].to_vec(), "not_avro"),
    ] {
        match decoder.decode(&bytes).await {
            Err(ReadError::Bad { reason, .. }) => assert_eq!(reason, expected),
            outcome => panic!("{expected}: {outcome:?}"),
        }
    }
    site.registry.go_away().await;
    assert!(matches!(
        decoder.decode(&header(4_711)).await,
        Err(ReadError::Away(_))
    ));
    assert_eq!(
        decoder.decode(&framed).await.unwrap(),
        AvroKey::new("dev-1")
    );
}
