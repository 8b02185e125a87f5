//! Clients that others wrote.

use apache_avro::types::Value;
use schema_registry_converter::async_impl::avro::{AvroDecoder, AvroEncoder};
use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, get_all_subjects, get_schema_by_id, get_schema_by_subject, post_schema,
};
use schema_registry_converter::avro_common::get_supplied_schema;
use schema_registry_converter::schema_registry_common::SubjectNameStrategy;

use crate::common::{fresh, start};

const KEY: &str = include_str!("../../../../schemas/avro/key.avsc");
const OBSERVE: &str = include_str!("../../../../schemas/avro/response-observe.avsc");

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_converter_registers_encodes_and_decodes() {
    let kafka = testkit::RealKafka::shared().await.unwrap();
    let registry = start(kafka.bootstrap(), &fresh("converter")).await;
    let settings = SrSettings::new(registry.url());
    for (subject, text) in [("t-key", KEY), ("t-value", OBSERVE)] {
        let schema = apache_avro::Schema::parse_str(text).unwrap();
        let registered = post_schema(&settings, subject.to_owned(), get_supplied_schema(&schema))
            .await
            .unwrap();
        let id = registered.id;
        let by_id = get_schema_by_id(id, &settings).await.unwrap();
        assert_eq!(
            apache_avro::Schema::parse_str(&by_id.schema).unwrap(),
            schema
        );
        let strategy = SubjectNameStrategy::TopicNameStrategy("t".to_owned(), subject == "t-key");
        let latest = get_schema_by_subject(&settings, &strategy).await.unwrap();
        assert_eq!((latest.id, latest.version), (id, Some(1)));
    }
    let mut subjects = get_all_subjects(&settings).await.unwrap();
    subjects.sort();
    assert_eq!(subjects, ["t-key", "t-value"]);

    let encoder = AvroEncoder::new(settings.clone());
    let strategy = SubjectNameStrategy::TopicNameStrategy("t".to_owned(), true);
    let bytes = encoder
        .encode(vec![("ep", Value::String("sensor".to_owned()))], strategy)
        .await
        .unwrap();
    assert_eq!(bytes[0], 0);
    let decoded = AvroDecoder::new(settings)
        .decode(Some(&bytes))
        .await
        .unwrap();
    assert_eq!(
        decoded.value,
        Value::Record(vec![("ep".to_owned(), Value::String("sensor".to_owned()))])
    );
    registry.stop().await.unwrap();
}
