use serde_json::Value;

use super::{Budget, Incompatibility, Schema, can_read, parse};

/// What Java's Avro 1.11 makes of the schemas in `tests/golden/schemas.json` (see `Golden.java` there).
const CANONICAL: &str = include_str!("../../tests/golden/canonical.json");
const COMPATIBILITY: &str = include_str!("../../tests/golden/compatibility.json");

fn schema(text: &str) -> Schema {
    parse(text, []).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn reasons(reader: &str, writer: &str) -> Vec<Incompatibility> {
    can_read(&schema(reader), &schema(writer), &mut Budget::default()).unwrap()
}

#[test]
fn canonical_text_is_javas_and_what_java_refuses_is_refused() {
    let cases: Vec<Value> = serde_json::from_str(CANONICAL).unwrap();
    assert!(cases.len() > 100);
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let ours = parse(text, []).ok().map(|schema| schema.canonical());
        assert_eq!(ours.as_deref(), case["canonical"].as_str(), "{text}");
    }
}

#[test]
fn compatibility_is_javas_for_every_pair() {
    let golden: Value = serde_json::from_str(COMPATIBILITY).unwrap();
    let texts: Vec<&str> = golden["schemas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect();
    let mut wrong = Vec::new();
    let mut pairs = 0;
    for (reader, line) in texts.iter().zip(golden["reads"].as_array().unwrap()) {
        for (writer, expected) in texts.iter().zip(line.as_str().unwrap().chars()) {
            pairs += 1;
            if reasons(reader, writer).is_empty() != (expected == '1') {
                wrong.push(format!("Java says {expected}: {reader} reads {writer}"));
            }
        }
    }
    assert!(pairs > 7_000);
    assert!(
        wrong.is_empty(),
        "{} of {pairs}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn reasons_name_the_place() {
    let old = r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"record","name":"I","fields":[{"name":"x","type":"int"}]}}]}"#;
    let new = r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"record","name":"I","fields":[{"name":"x","type":"string"},{"name":"y","type":"int"}]}}]}"#;
    let found = reasons(new, old);
    let places: Vec<_> = found
        .iter()
        .map(|reason| (reason.kind, reason.path.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            ("TYPE_MISMATCH", "/fields/0/type/fields/0/type"),
            (
                "READER_FIELD_MISSING_DEFAULT_VALUE",
                "/fields/0/type/fields/1"
            ),
        ]
    );
    assert!(found[1].message.contains("'y'"), "{}", found[1].message);
}

#[test]
fn names_of_referenced_schemas_stay_names() {
    let key = r#"{"type":"record","name":"Key","namespace":"a","fields":[]}"#;
    let user = r#"{"type":"record","name":"User","namespace":"a","fields":[{"name":"key","type":"a.Key"}]}"#;
    assert!(parse(user, []).is_err());
    let parsed = parse(user, [key]).unwrap();
    assert_eq!(
        parsed.canonical(),
        r#"{"type":"record","name":"User","namespace":"a","fields":[{"name":"key","type":"Key"}]}"#
    );
}

#[test]
fn normalised_text_does_not_depend_on_the_order_of_properties() {
    let one = schema(r#"{"type":"string","b":{"y":1,"x":2},"a":1}"#);
    let two = schema(r#"{"a":1,"type":"string","b":{"x":2,"y":1}}"#);
    assert_ne!(one.canonical(), two.canonical());
    assert_eq!(one.normalized(), two.normalized());
    assert_eq!(
        one.normalized(),
        r#"{"type":"string","a":1,"b":{"x":2,"y":1}}"#
    );
}

#[test]
fn deep_nesting_is_refused_before_it_costs_stack() {
    let deep = format!("{}\"int\"{}", "[".repeat(500_000), "]".repeat(500_000));
    assert!(parse(&deep, []).is_err());
    let deep = r#"{"type":"array","items":"#.repeat(100_000);
    assert!(parse(&deep, []).is_err());
}

/// Each record uses the one before: shallow as text, deep as a type.
#[test]
fn a_long_chain_of_types_is_too_complex_to_compare_and_no_more() {
    let chain = |length: usize| {
        let mut text = String::from(r#"[{"type":"record","name":"A0","fields":[]}"#);
        for index in 1..length {
            text.push_str(&format!(
                r#",{{"type":"record","name":"A{index}","fields":[{{"name":"f","type":"A{}"}}]}}"#,
                index - 1
            ));
        }
        text.push(']');
        text
    };
    // The last first, so that the depth is not known from shallower pairs.
    let backwards = |length: usize| {
        format!(
            r#"{{"type":"record","name":"Top","fields":[{{"name":"all","type":{}}},{{"name":"last","type":"A{}"}}]}}"#,
            chain(length),
            length - 1
        )
    };
    let short = schema(&backwards(50));
    assert!(
        can_read(&short, &short, &mut Budget::default())
            .unwrap()
            .is_empty()
    );

    let last = format!(
        r#"{{"type":"record","name":"Top","fields":[{{"name":"last","type":"A{}"}}]}}"#,
        4_999
    );
    let top = parse(&last, [chain(5_000).as_str()]).unwrap();
    assert!(can_read(&top, &top, &mut Budget::default()).is_err());
    // From the bottom up nothing is deep.
    let flat = schema(&chain(1_000));
    assert!(
        can_read(&flat, &flat, &mut Budget::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_wide_comparison_ends_with_its_budget() {
    let union = |prefix: &str| {
        let branches: Vec<String> = (0..3_000)
            .map(|index| format!(r#"{{"type":"fixed","name":"{prefix}{index}","size":1}}"#))
            .collect();
        schema(&format!("[{}]", branches.join(",")))
    };
    assert!(can_read(&union("A"), &union("B"), &mut Budget::default()).is_err());
}

#[test]
fn doubling_types_are_compared_once_each() {
    let mut text =
        String::from(r#"[{"type":"record","name":"A0","fields":[{"name":"x","type":"int"}]}"#);
    for index in 1..60 {
        let below = index - 1;
        text.push_str(&format!(
            r#",{{"type":"record","name":"A{index}","fields":[{{"name":"l","type":"A{below}"}},{{"name":"r","type":"A{below}"}}]}}"#
        ));
    }
    text.push(']');
    assert!(reasons(&text, &text).is_empty());
    // Reasons double on the way up; they are cut.
    let other = text.replacen("\"int\"", "\"boolean\"", 1);
    assert!(!reasons(&text, &other).is_empty());
}

mod random {
    use proptest::prelude::*;

    use super::*;

    fn schema_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("\"null\"".to_owned()),
            Just("\"int\"".to_owned()),
            Just("\"long\"".to_owned()),
            Just("\"double\"".to_owned()),
            Just("\"bytes\"".to_owned()),
            Just(r#"{"type":"string","avro.java.string":"String"}"#.to_owned()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                inner
                    .clone()
                    .prop_map(|items| format!(r#"{{"type":"array","items":{items}}}"#)),
                inner
                    .clone()
                    .prop_map(|values| format!(r#"{{"type":"map","values":{values},"p":[1]}}"#)),
                // Names that clash make some of these invalid; those are refused.
                ("[A-C]", proptest::collection::vec(inner, 0..4)).prop_map(|(name, types)| {
                    let fields: Vec<String> = types
                        .iter()
                        .enumerate()
                        .map(|(index, field)| format!(r#"{{"name":"f{index}","type":{field}}}"#))
                        .collect();
                    format!(
                        r#"{{"type":"record","name":"{name}","fields":[{}]}}"#,
                        fields.join(",")
                    )
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn what_is_printed_is_parsed_and_reads_itself(text in schema_text()) {
            if let Ok(parsed) = parse(&text, []) {
                let again = schema(&parsed.canonical());
                prop_assert_eq!(again.canonical(), parsed.canonical());
                prop_assert_eq!(schema(&parsed.normalized()).normalized(), parsed.normalized());
                prop_assert!(can_read(&parsed, &again, &mut Budget::default()).unwrap().is_empty());
            }
        }

        #[test]
        fn any_bytes_are_an_outcome(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            crate::fuzz::parse_schema(&data);
            crate::fuzz::parse_record(&data);
        }
    }
}
