//! The Rust types are the schemas' own: `apache-avro`, which knows only the `.avsc` files, reads what they write.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod golden;
mod strategies;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use golden::golden;
use proptest::prelude::*;
use records::*;
use std::fmt::Debug;

/// Another implementation reads the datum to its end and writes the same bytes again; ours reads the same record.
fn conforms<T: AvroRecord + PartialEq + Debug>(record: &T) {
    let schema = T::schema().avro();
    let datum = record.to_datum();
    let mut rest = datum.as_slice();
    let value = GenericDatumReader::builder(schema)
        .build()
        .unwrap()
        .read_value(&mut rest)
        .unwrap();
    assert!(rest.is_empty());
    assert!(value.validate(schema));
    let again = GenericDatumWriter::builder(schema)
        .build()
        .unwrap()
        .write_value_to_vec(value)
        .unwrap();
    // Its maps have no order: what it wrote is compared as a record.
    assert_eq!(&T::from_datum(&again).unwrap(), record);
    assert_eq!(again.len(), datum.len());
    assert_eq!(&T::from_datum(&datum).unwrap(), record);

    let json = to_avro_json(&datum, T::schema()).unwrap();
    assert_eq!(
        T::from_datum(&from_avro_json(&json, T::schema()).unwrap()).unwrap(),
        *record
    );
    let same_writer = RecordReader::<T>::new(&Schema::parse(T::schema().text()).unwrap()).unwrap();
    assert_eq!(&same_writer.read(&datum).unwrap(), record);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys(ep in ".*") {
        conforms(&AvroKey::new(ep));
    }

    #[test]
    fn registrations(record in strategies::registration()) {
        conforms(&record);
    }

    #[test]
    fn requests(record in strategies::request()) {
        conforms(&record);
    }

    #[test]
    fn responses(record in strategies::response()) {
        conforms(&record);
    }

    #[test]
    fn notifications(record in strategies::notification()) {
        conforms(&record);
    }
}

/// Every symbol of every enum stands where the schema has it.
#[test]
fn enums_have_the_schemas_symbols() {
    fn symbols(schema: &Schema, name: &str) -> Vec<String> {
        fn find<'a>(json: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
            match json {
                serde_json::Value::Object(map)
                    if map.get("name").is_some_and(|n| n == name)
                        && map.contains_key("symbols") =>
                {
                    map.get("symbols")
                }
                serde_json::Value::Object(map) => map.values().find_map(|v| find(v, name)),
                serde_json::Value::Array(array) => array.iter().find_map(|v| find(v, name)),
                _ => None,
            }
        }
        let json = serde_json::from_str(schema.text()).unwrap();
        serde_json::from_value(
            find(&json, name)
                .unwrap_or_else(|| panic!("no {name}"))
                .clone(),
        )
        .unwrap()
    }
    macro_rules! check {
        ($($ty:ident in $schema:ident as $name:literal,)+) => {$(
            let ours: Vec<_> = $ty::ALL.iter().map(|v| v.name().to_owned()).collect();
            assert_eq!(ours, symbols(&Schemas::get().$schema, $name));
            assert!($ty::ALL.iter().all(|v| $ty::from_name(v.name()) == Some(*v)));
            assert_eq!($ty::from_name("no such symbol"), None);
        )+};
    }
    check! {
        Bnd in registration as "AvroBnd",
        RegistrationKind in registration as "AvroRegistrationKind",
        ResourceKind in response as "AvroResourceKind",
        ResourceType in response as "AvroType",
        RequestKind in request as "AvroRequestKind",
        RequestKind in response_observe as "AvroRequestKind",
        AvroContentFormat in request as "AvroContentFormat",
        WriteMode in request as "AvroWriteRequestMode",
        ResponseCode in response_observe as "AvroResponseCode",
    }
}

#[test]
fn registries_get_the_schemas_as_javas_classes_have_them() {
    let schemas = Schemas::get();
    let names: Vec<_> = schemas
        .all()
        .iter()
        .map(|s| s.full_name().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "io.zeelos.leshan.avro.AvroKey",
            "io.zeelos.leshan.avro.registration.AvroRegistrationResponse",
            "io.zeelos.leshan.avro.request.AvroRequest",
            "io.zeelos.leshan.avro.response.AvroResponse",
            "io.zeelos.leshan.avro.response.AvroResponseObserve",
        ]
    );
    assert_eq!(
        schemas.key.text(),
        r#"{"type":"record","name":"AvroKey","namespace":"io.zeelos.leshan.avro","fields":[{"name":"ep","type":{"type":"string","avro.java.string":"String"}}]}"#
    );
    for schema in schemas.all() {
        assert!(
            !schema.text().contains('\n')
                && schema.text().contains(r#""avro.java.string":"String""#)
        );
        assert!(!schema.canonical_form().contains("avro.java.string"));
        assert_eq!(Schema::parse(schema.text()).unwrap().text(), schema.text());
    }
}

/// Java wrote these; a reader made for a schema that is ours but for its attributes has nothing to do.
#[test]
fn a_writers_attributes_make_no_difference() {
    for golden in golden().iter().filter(|g| g.writer.is_none()) {
        let bare = golden
            .schema
            .text()
            .replace(r#","avro.java.string":"String""#, "");
        assert!(!bare.contains("avro.java"));
        let bare = Schema::parse(&bare).unwrap();
        fn same<T: AvroRecord + PartialEq + Debug>(bare: &Schema, datum: &[u8]) {
            if T::schema().full_name() == bare.full_name() {
                let reader = RecordReader::<T>::new(bare).unwrap();
                assert_eq!(reader.read(datum), T::from_datum(datum));
                assert_eq!(format!("{reader:?}"), "RecordReader { rewrites: false }");
            }
        }
        same::<AvroKey>(&bare, &golden.written);
        same::<RegistrationResponse>(&bare, &golden.written);
        same::<Request>(&bare, &golden.written);
        same::<Response>(&bare, &golden.written);
        same::<ResponseObserve>(&bare, &golden.written);
    }
}

#[test]
fn a_schema_that_can_not_be_read_here_says_why() {
    let reason = |schema: &str| {
        RecordReader::<AvroKey>::new(&Schema::parse(schema).unwrap())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        reason(
            r#"{"type":"record","name":"AvroKey","fields":[{"name":"endpoint","type":"string"}]}"#
        ),
        "data written with the schema of `AvroKey` can't be read as `io.zeelos.leshan.avro.AvroKey`: \
         field `ep` of `AvroKey` is missing and has no default"
    );
    assert!(
        reason(r#""string""#).ends_with("`string` can't become `io.zeelos.leshan.avro.AvroKey`")
    );
    assert!(
        reason(r#"{"type":"record","name":"AvroKey","fields":[{"name":"ep","type":"int"}]}"#)
            .ends_with("field `ep` of `AvroKey`: `int` can't become `string`")
    );
    assert!(matches!(Schema::parse("{"), Err(SchemaError::Invalid(_))));
    assert!(matches!(
        Schema::parse(&" ".repeat(MAX_SCHEMA_BYTES + 1)),
        Err(SchemaError::TooLong { .. })
    ));
}

/// Where only one branch of a writer's union is foreign, the records that do not take it are read.
#[test]
fn a_foreign_branch_fails_only_where_it_is_taken() {
    let schema = Schemas::get().key.text().replace(
        r#"{"type":"string","avro.java.string":"String"}"#,
        r#"["string", {"type":"array","items":"long"}]"#,
    );
    let writer = Schema::parse(&schema).unwrap();
    let reader = RecordReader::<AvroKey>::new(&writer).unwrap();
    let datum = from_avro_json(&serde_json::json!({"ep": {"string": "a"}}), &writer).unwrap();
    assert_eq!(reader.read(&datum).unwrap(), AvroKey::new("a"));
    let datum = from_avro_json(&serde_json::json!({"ep": {"array": [1]}}), &writer).unwrap();
    assert!(matches!(
        reader.read(&datum),
        Err(DecodeError::Unresolvable(_))
    ));
}

#[test]
fn a_registration_at_odds_with_its_kind_is_refused() {
    let deleted = RegistrationResponse::Delete(RegistrationDelete {
        ep: "e".into(),
        server_id: "s".into(),
        expired: true,
        last_up: 1,
    });
    let mut datum = deleted.to_datum();
    datum[0] = 0;
    assert_eq!(
        RegistrationResponse::from_datum(&datum),
        Err(DecodeError::KindMismatch { kind: "NEW" })
    );
}
