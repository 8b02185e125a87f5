//! The OpenAPI document against the server: what it names is served, what it does not name is not, and answers have the
//! forms that it gives them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lwm2m_model::ObjectPath;
use reqwest::Method;
use serde_json::{Map, Value as Json, json};

use crate::gateway::{Gateway, answer_of};

/// The document as the server gives it.
pub(crate) async fn document(gateway: &Gateway) -> Json {
    let (status, document) = gateway.get("/api/openapi.json").await;
    assert_eq!(status, 200);
    assert_eq!(document["openapi"], "3.1.0");
    document
}

/// Why a value does not fit a schema of the document, by the keywords that the document uses; another one is an error of
/// the test.
pub(crate) fn misfit(document: &Json, schema: &Json, value: &Json, at: &str) -> Option<String> {
    let no = |why: String| Some(format!("{at}: {why}: {value}"));
    let inner = |schema: &Json, value: &Json, name: &str| {
        misfit(document, schema, value, &format!("{at}/{name}"))
    };
    for (keyword, of) in schema.as_object().unwrap() {
        let wrong = match keyword.as_str() {
            "description" | "examples" | "default" | "format" => None,
            "$ref" => {
                let target = document.pointer(of.as_str().unwrap().trim_start_matches('#'));
                inner(target.unwrap_or_else(|| panic!("{of}")), value, "")
            }
            "type" => {
                let named: Vec<&str> = match of {
                    Json::Array(names) => names.iter().filter_map(Json::as_str).collect(),
                    name => vec![name.as_str().unwrap()],
                };
                let is = |name: &&str| match *name {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                };
                (!named.iter().any(is))
                    .then(|| no(format!("is no {of}")))
                    .flatten()
            }
            "properties" => value.as_object().and_then(|members| {
                let known = of.as_object().unwrap();
                let each = members.iter();
                each.filter_map(|(name, value)| inner(known.get(name)?, value, name))
                    .next()
            }),
            "required" => value.as_object().and_then(|members| {
                let mut names = of.as_array().unwrap().iter().filter_map(Json::as_str);
                let missing = names.find(|name| !members.contains_key(*name));
                missing.and_then(|name| no(format!("{name} is missing")))
            }),
            "additionalProperties" => value.as_object().and_then(|members| {
                let none = Map::new();
                let known = schema
                    .get("properties")
                    .and_then(Json::as_object)
                    .unwrap_or(&none);
                let mut others = members
                    .iter()
                    .filter(|(name, _)| !known.contains_key(*name));
                match of {
                    Json::Bool(false) => others
                        .next()
                        .and_then(|(name, _)| no(format!("{name} is not known"))),
                    of => others
                        .filter_map(|(name, value)| inner(of, value, name))
                        .next(),
                }
            }),
            "propertyNames" => value.as_object().and_then(|members| {
                let mut names = members.keys();
                names.find_map(|name| inner(of, &json!(name), name))
            }),
            "items" => value
                .as_array()
                .and_then(|items| items.iter().find_map(|item| inner(of, item, "items"))),
            "oneOf" => {
                let all = of.as_array().unwrap();
                let misfits: Vec<String> = all
                    .iter()
                    .filter_map(|of| inner(of, value, "oneOf"))
                    .collect();
                (misfits.len() + 1 != all.len())
                    .then(|| no(format!("does not fit exactly one: {misfits:?}")))
                    .flatten()
            }
            "enum" => (!of.as_array().unwrap().contains(value))
                .then(|| no(format!("is none of {of}")))
                .flatten(),
            "const" => (of != value).then(|| no(format!("is not {of}"))).flatten(),
            "minimum" | "maximum" => value.as_i64().and_then(|number| {
                let bound = of.as_i64().unwrap();
                let fits = if keyword == "minimum" {
                    number >= bound
                } else {
                    number <= bound
                };
                (!fits).then(|| no(format!("is beyond {bound}"))).flatten()
            }),
            "maxLength" => value.as_str().and_then(|text| {
                let fits = text.chars().count() as u64 <= of.as_u64().unwrap();
                (!fits).then(|| no("is too long".to_owned())).flatten()
            }),
            "pattern" => value.as_str().and_then(|text| {
                (!like(of.as_str().unwrap(), text))
                    .then(|| no(format!("is not like {of}")))
                    .flatten()
            }),
            other => panic!("the keyword {other} at {at}"),
        };
        if wrong.is_some() {
            return wrong;
        }
    }
    None
}

/// The document's patterns, in words.
fn like(pattern: &str, text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match pattern {
        "^(/|(/[0-9]{1,5}){1,4})$" => text
            .parse::<ObjectPath>()
            .is_ok_and(|path| path.to_string() == text),
        "^(0|[1-9][0-9]{0,4})$" => {
            digits(text) && text.len() <= 5 && (text == "0" || !text.starts_with('0'))
        }
        "^[A-Z_]+\\([2-5][0-9]{2}\\)$" => text
            .strip_suffix(')')
            .and_then(|text| text.split_once('('))
            .is_some_and(|(name, code)| !name.is_empty() && code.len() == 3 && digits(code)),
        "^([0-9a-fA-F]{2})+$" => {
            !text.is_empty()
                && text.len().is_multiple_of(2)
                && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        other => panic!("the pattern {other}"),
    }
}

/// A path of the document with ids in the place of its parameters.
fn filled(template: &str) -> String {
    [
        ("{endpoint}", "nobody"),
        ("{object}", "3303"),
        ("{instance}", "0"),
        ("{resourceInstance}", "0"),
        ("{resource}", "5700"),
        ("{request}", "7"),
    ]
    .iter()
    .fold(template.to_owned(), |path, (name, value)| {
        path.replace(name, value)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_names_is_served_and_nothing_else() {
    let gateway = Gateway::start().await;
    let document = document(&gateway).await;
    let methods = ["get", "put", "post", "delete", "patch"];
    for (template, item) in document["paths"].as_object().unwrap() {
        for method in methods {
            // Streams are tried elsewhere; without their header they are refused as a method is.
            if template.ends_with("/event") && method == "get" {
                continue;
            }
            let path = filled(template);
            let named = item.get(method).is_some();
            let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let (status, answer) = answer_of(&gateway, verb, &path).await;
            // Most answer that there is no such device, and those that are none that there is no such call.
            let refused = status == 405
                || (status == 404 && answer.as_str().unwrap().starts_with("there is nothing"));
            // Which calls a device's path has is looked at when the device is known: `device::CALLS` is held to the
            // document there.
            if named || !template.starts_with("/api/clients/{endpoint}/{object}") {
                assert_eq!(refused, !named, "{method} {path}: {status} {answer}");
            }
        }
    }
    for path in [
        "/api",
        "/api/client",
        "/api/security",
        "/api/bootstrap",
        "/index.html",
    ] {
        assert_eq!(gateway.get(path).await.0, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_a_path_are_those_of_the_document() {
    let (gateway, _device) = Gateway::with_device("nobody").await;
    let document = document(&gateway).await;
    let paths = document["paths"].as_object().unwrap();
    for (template, item) in paths.iter().filter(|(path, _)| path.contains("{object}")) {
        for method in ["get", "put", "post", "delete"] {
            let path = filled(template);
            let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let (status, answer) = answer_of(&gateway, verb, &format!("{path}?pmin=1")).await;
            let reason = answer.as_str().unwrap_or_default();
            let refused = status == 405
                || reason.starts_with(&format!("Invalid request: {}: ", path_of(&path)));
            assert_eq!(
                refused,
                item.get(method).is_none(),
                "{method} {path}: {status} {answer}"
            );
        }
    }
}

/// The part of a call's path that is a device's.
fn path_of(path: &str) -> &str {
    let rest = path.strip_prefix("/api/clients/nobody").unwrap();
    ["/discover", "/attributes", "/observe"]
        .iter()
        .find_map(|word| rest.strip_suffix(word))
        .unwrap_or(rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_consistent_and_its_examples_fit() {
    let gateway = Gateway::start().await;
    let document = document(&gateway).await;
    let mut seen = (BTreeSet::new(), 0);
    walk(&document, &document, "", &mut seen);
    assert!(seen.1 >= 12, "{} examples", seen.1);
    // What is defined is used.
    for kind in ["schemas", "responses", "parameters"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(seen.0.contains(&reference), "{reference} is not used");
        }
    }
    // A path's parameters are those in it.
    for (template, item) in document["paths"].as_object().unwrap() {
        let named = item
            .get("parameters")
            .and_then(Json::as_array)
            .cloned()
            .unwrap_or_default();
        let named: BTreeSet<String> = named
            .iter()
            .map(|one| {
                let one = one.get("$ref").map_or(one, |at| {
                    document.pointer(&at.as_str().unwrap()[1..]).unwrap()
                });
                format!("{{{}}}", one["name"].as_str().unwrap())
            })
            .collect();
        let inside: BTreeSet<String> = template
            .split('/')
            .filter(|part| part.starts_with('{'))
            .map(str::to_owned)
            .collect();
        assert_eq!(named, inside, "{template}");
    }
}

/// Goes through everything: references lead somewhere, and examples beside a schema fit it.
fn walk(document: &Json, of: &Json, at: &str, seen: &mut (BTreeSet<String>, usize)) {
    match of {
        Json::Object(members) => {
            if let Some(Json::String(reference)) = members.get("$ref") {
                assert!(
                    document.pointer(&reference[1..]).is_some(),
                    "{at}: {reference}"
                );
                seen.0.insert(reference.clone());
            }
            if let Some(schema) = members.get("schema") {
                let one = members.get("example").into_iter();
                let several = members.get("examples").and_then(Json::as_object);
                let several = several
                    .into_iter()
                    .flat_map(Map::values)
                    .map(|example| &example["value"]);
                for example in one.chain(several) {
                    assert_eq!(misfit(document, schema, example, at), None);
                    seen.1 += 1;
                }
            }
            for (name, inner) in members {
                walk(document, inner, &format!("{at}/{name}"), seen);
            }
        }
        Json::Array(items) => items.iter().for_each(|item| walk(document, item, at, seen)),
        _ => {}
    }
}

/// Holds an answer against the document.
pub(crate) fn fits_call(document: &Json, method: &str, path: &str, status: u16, answer: &Json) {
    let path = path.split('?').next().unwrap();
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let same = |template: &str| {
        let of: Vec<&str> = template.split('/').collect();
        of.len() == parts.len()
            && of.iter().zip(&parts).all(|(of, part)| {
                of == part
                    || (of.starts_with('{')
                        && !["discover", "attributes", "observe", "composite"].contains(part))
            })
    };
    // A path without parameters goes before one with them.
    let paths = document["paths"].as_object().unwrap();
    let item = paths
        .iter()
        .filter(|(template, _)| same(template))
        .min_by_key(|(template, _)| template.matches('{').count());
    let (template, item) = item.unwrap_or_else(|| panic!("{path} is not in the document"));
    let response = &item[method.to_lowercase()]["responses"][status.to_string()];
    assert!(
        !response.is_null(),
        "{method} {template}: {status} is not in the document"
    );
    let response = response.get("$ref").map_or(response, |at| {
        document.pointer(&at.as_str().unwrap()[1..]).unwrap()
    });
    if answer == &json!("") {
        return;
    }
    let kind = if answer.is_string() {
        "text/plain"
    } else {
        "application/json"
    };
    let schema = &response["content"][kind]["schema"];
    assert!(
        !schema.is_null(),
        "{method} {template}: {status} has no {kind}"
    );
    assert_eq!(misfit(document, schema, answer, template), None);
}

/// The schema of an event's data.
pub(crate) fn fits_event(document: &Json, event: &str, data: &Json) {
    let schema = &document["paths"]["/api/event"]["get"]["responses"]["200"]["content"]["text/event-stream"]
        ["x-events"][event];
    assert!(!schema.is_null(), "{event} is not in the document");
    assert_eq!(misfit(document, schema, data, event), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ours_fits_too() {
    let (gateway, _device) = Gateway::with_device("dev1").await;
    let document = document(&gateway).await;
    gateway.post("/api/clients/dev1/3303/0/5700/observe").await;
    for path in [
        "/api/clients",
        "/api/clients/dev1",
        "/api/clients/nope",
        "/api/clients/dev1/values",
        "/api/clients/dev1/queue",
        "/api/clients/dev1/3/discover",
        "/api/clients/dev1/3/0/15?format=CLAY",
        "/api/objectspecs",
        "/api/objectspecs/dev1",
        "/api/security/clients",
        "/api/security/server",
        "/api/server/endpoint",
        "/api/session",
    ] {
        let (status, answer) = gateway.get(path).await;
        fits_call(&document, "GET", path, status, &answer);
    }
    let (_, endpoints) = gateway.get("/api/server/endpoint").await;
    let full = endpoints[0]["uri"]["full"].as_str().unwrap();
    let address: SocketAddr = full.strip_prefix("coap://").unwrap().parse().unwrap();
    assert_eq!(address, gateway.coap);
}
