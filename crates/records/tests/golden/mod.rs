//! Java's Avro wrote the bytes in `golden.txt`: what the original's producers and consumers write and read.
//! `Golden.java` makes them anew from `cases.txt` and says how it is run.
#![allow(dead_code, reason = "each test file uses its part")]

use records::{Schema, Schemas};

/// A line of `cases.txt` with its line of `golden.txt`.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    pub(crate) schema: &'static Schema,
    /// The schema it was written with, where that is another one.
    pub(crate) writer: Option<Schema>,
    pub(crate) case_json: serde_json::Value,
    pub(crate) written: Vec<u8>,
    pub(crate) resolved: Vec<u8>,
    pub(crate) json: serde_json::Value,
}

pub(crate) fn golden() -> Vec<Golden> {
    let cases = include_str!("cases.txt").lines();
    let lines = include_str!("golden.txt").lines();
    assert_eq!(
        cases.clone().count(),
        lines.clone().count(),
        "run Golden.java"
    );
    cases
        .zip(lines)
        .map(|(case, line)| {
            let [name, schema, case_json] =
                case.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
            let [same_name, written, resolved, json] =
                line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            assert_eq!(name, same_name, "run Golden.java");
            let (schema, writer) = schema
                .split_once('<')
                .map_or((schema, None), |(s, w)| (s, Some(w)));
            let schemas = Schemas::get();
            Golden {
                name,
                schema: match schema {
                    "key" => &schemas.key,
                    "registration" => &schemas.registration,
                    "request" => &schemas.request,
                    "response" => &schemas.response,
                    "response-observe" => &schemas.response_observe,
                    other => panic!("{other}"),
                },
                writer: writer.map(|w| {
                    Schema::parse(match w {
                        "writer-plain-strings" => include_str!("writer-plain-strings.avsc"),
                        "writer-newer-observe" => include_str!("writer-newer-observe.avsc"),
                        "writer-older-registration" => {
                            include_str!("writer-older-registration.avsc")
                        }
                        other => panic!("{other}"),
                    })
                    .unwrap()
                }),
                case_json: serde_json::from_str(case_json).unwrap(),
                written: hex::decode(written).unwrap(),
                resolved: hex::decode(resolved).unwrap(),
                json: serde_json::from_str(json).unwrap(),
            }
        })
        .collect()
}

pub(crate) fn find(name: &str) -> Golden {
    golden()
        .into_iter()
        .find(|g| g.name == name)
        .unwrap_or_else(|| panic!("no case {name}"))
}
