//! Values with times and of several paths: histories, Send, composite read and write.

use std::collections::BTreeMap;

use lwm2m_codec::{
    ContentFormat, DecodeError, EncodeError, Timestamped, decode, decode_nodes, decode_paths,
    decode_timestamped, encode_nodes, encode_paths, encode_timestamped, resolve_time,
};
use lwm2m_model::{InstanceNode, Node, ObjectPath, Registry, Value};

use super::{CBOR, JSON, float, hex, integer, path, text};

fn at<T>(time_s: impl Into<Option<f64>>, content: T) -> Timestamped<T> {
    Timestamped {
        time_s: time_s.into(),
        content,
    }
}

fn temperature(v: f64) -> Node {
    Node::Resource(float(5700, v))
}

fn history(payload: &[u8], format: ContentFormat) -> Result<Vec<Timestamped<Node>>, DecodeError> {
    decode_timestamped(payload, &path("/3303/0/5700"), format, &Registry::oma())
}

/// Made by Leshan 2.0.0-M18, whose last record was to have no time: a base time holds until the next, so it has.
#[test]
fn a_history_made_by_leshan() {
    let expected = Ok(vec![
        at(1_500_000_002.5, temperature(22.5)),
        at(1_500_000_001.0, temperature(22.25)),
        at(1_500_000_001.0, temperature(22.0)),
    ]);
    let json = br#"[{"bn":"/3303/0/5700","bt":1500000002.5,"v":22.5},{"bn":"/3303/0/5700","bt":1500000001,"v":22.25},{"bn":"/3303/0/5700","v":22.0}]"#;
    assert_eq!(history(json, JSON), expected);
    let cbor = hex(
        "83A302F94DA0216C2F333330332F302F3537303022C482201B000000037E11D619A302F94D90216C2F333330332F302F3537303022C482001A59682F01A202F94D80216C2F333330332F302F35373030",
    );
    assert_eq!(history(&cbor, CBOR), expected);
    // OMA JSON has a time in each entry.
    let oma = br#"{"bn":"/3303/0/5700","e":[{"v":22.5,"t":1500000002.5},{"v":22.25,"t":1500000001},{"v":22.0}]}"#;
    let nodes = history(oma, ContentFormat::Json).unwrap();
    assert_eq!(nodes[2], at(None, temperature(22.0)));
    assert_eq!(
        encode_timestamped(&nodes, &path("/3303/0/5700"), ContentFormat::Json),
        Ok(oma.to_vec())
    );
}

#[test]
fn instances_with_times() {
    let instance = |resources| Node::Instance(InstanceNode::new(0, resources));
    let nodes = vec![
        at(
            1_500_000_002.0,
            instance(vec![float(5700, 22.5), text(5701, "Cel")]),
        ),
        at(1_500_000_001.0, instance(vec![float(5700, 22.25)])),
    ];
    let json = br#"[{"bn":"/3303/0/","bt":1500000002,"n":"5700","v":22.5},{"n":"5701","vs":"Cel"},{"bt":1500000001,"n":"5700","v":22.25}]"#;
    assert_eq!(
        encode_timestamped(&nodes, &path("/3303/0"), JSON),
        Ok(json.to_vec())
    );
    for format in [JSON, CBOR, ContentFormat::Json, ContentFormat::OldJson] {
        let written = encode_timestamped(&nodes, &path("/3303/0"), format).unwrap();
        let read = decode_timestamped(&written, &path("/3303/0"), format, &Registry::oma());
        assert_eq!(read.as_ref(), Ok(&nodes));
        // A plain read takes the newest of each.
        assert_eq!(
            decode(&written, &path("/3303/0"), format, &Registry::oma()).as_ref(),
            Ok(&nodes[0].content)
        );
    }
    let format = ContentFormat::Tlv;
    assert_eq!(
        encode_timestamped(&nodes, &path("/3303/0"), format),
        Err(EncodeError::NotComposite { format })
    );
    let one = [at(None, nodes[1].content.clone())];
    let written = encode_timestamped(&one, &path("/3303/0"), format).unwrap();
    assert_eq!(
        decode_timestamped(&written, &path("/3303/0"), format, &Registry::oma()),
        Ok(one.to_vec())
    );
}

/// RFC 8428, section 4.5: base time and time are added up, and small sums are relative to now.
#[test]
fn base_times_and_times() {
    let read = |pack: &str| {
        let nodes = history(pack.as_bytes(), JSON).unwrap();
        nodes.iter().map(|node| node.time_s).collect::<Vec<_>>()
    };
    assert_eq!(
        read(
            r#"[{"bn":"/3303/0/5700","v":1},{"v":2,"t":-5},{"bt":1.276020076001e9,"v":3},{"t":-5,"v":4},{"bt":0,"v":5}]"#
        ),
        [
            None,
            Some(-5.0),
            Some(1_276_020_076.001),
            Some(1_276_020_071.001),
            Some(0.0)
        ]
    );
    // Up to the end of the year 9999, and as far into the past.
    assert_eq!(
        read(r#"[{"n":"/3303/0/5700","v":1,"t":253402300799}]"#).len(),
        1
    );
    for time in ["253402300800", "-253402300800", "1e300"] {
        let pack = format!(r#"[{{"n":"/3303/0/5700","v":1,"bt":{time}}}]"#);
        let refused = history(pack.as_bytes(), JSON);
        assert!(
            matches!(refused, Err(DecodeError::Malformed { .. })),
            "{time}"
        );
    }
    let now = 1_700_000_000.0;
    assert_eq!(resolve_time(-5.0, now), now - 5.0);
    assert_eq!(resolve_time(268_435_455.0, now), now + 268_435_455.0);
    assert_eq!(resolve_time(268_435_456.0, now), 268_435_456.0);
    // The newest is the one nearest to now.
    let pack = r#"[{"bn":"/3303/0/5700","t":-50,"v":1},{"t":-5,"v":2},{"t":1600000000,"v":3}]"#;
    assert_eq!(
        decode(
            pack.as_bytes(),
            &path("/3303/0/5700"),
            JSON,
            &Registry::oma()
        ),
        Ok(temperature(2.0))
    );
}

fn nodes<const N: usize>(nodes: [(&str, Node); N]) -> BTreeMap<ObjectPath, Node> {
    nodes
        .into_iter()
        .map(|(at, node)| (path(at), node))
        .collect()
}

#[test]
fn a_send_keeps_times_and_values_apart() {
    let expected = vec![
        at(
            1_500_000_001.0,
            nodes([("/3303/0/5700", temperature(22.25))]),
        ),
        at(
            1_500_000_002.0,
            nodes([
                ("/3303/0/5700", temperature(22.5)),
                ("/3/0/9", Node::Resource(integer(9, 77))),
            ]),
        ),
    ];
    // Made by Leshan 2.0.0-M18.
    let json = br#"[{"bn":"/3303/0/5700","bt":1500000001,"v":22.25},{"bn":"/3303/0/5700","bt":1500000002,"v":22.5},{"bn":"/3/0/9","bt":1500000002,"v":77}]"#;
    let cbor = hex(
        "83A302F94D90216C2F333330332F302F3537303022C482001A59682F01A302F94DA0216C2F333330332F302F3537303022C482001A59682F02A302184D21662F332F302F3922C482001A59682F02",
    );
    let read = |payload: &[u8], format| decode_nodes(payload, &[], format, &Registry::oma());
    assert_eq!(read(json, JSON).as_ref(), Ok(&expected));
    assert_eq!(read(&cbor, CBOR).as_ref(), Ok(&expected));
    for format in [JSON, CBOR] {
        let written = encode_nodes(&expected, format).unwrap();
        assert_eq!(read(&written, format).as_ref(), Ok(&expected));
    }
    // Two values of one path without a time, or with the same, are two values.
    let twice = br#"[{"bn":"/3303/0/5700","v":1},{"v":2},{"bn":"/3/0/9","v":5}]"#;
    assert_eq!(
        read(twice, JSON),
        Ok(vec![
            at(
                None,
                nodes([
                    ("/3303/0/5700", temperature(1.0)),
                    ("/3/0/9", Node::Resource(integer(9, 5)))
                ])
            ),
            at(None, nodes([("/3303/0/5700", temperature(2.0))])),
        ])
    );
}

#[test]
fn a_composite_read_asks_for_paths_and_gets_their_nodes() {
    let paths = ["/3/0/9", "/3303", "/1/0", "/3/0/7/1"].map(path);
    // Made by Leshan 2.0.0-M18.
    let json = br#"[{"n":"/3/0/9"},{"n":"/3303"},{"n":"/1/0"},{"n":"/3/0/7/1"}]"#;
    let cbor = hex("84A100662F332F302F39A100652F33333033A100642F312F30A100682F332F302F372F31");
    for (format, payload) in [
        (JSON, json.to_vec()),
        (ContentFormat::SenmlEtchJson, json.to_vec()),
        (CBOR, cbor.clone()),
        (ContentFormat::SenmlEtchCbor, cbor),
    ] {
        assert_eq!(encode_paths(&paths, format), Ok(payload.clone()));
        assert_eq!(decode_paths(&payload, format), Ok(paths.to_vec()));
    }
    let based = br#"[{"bn":"/3/0/","n":"9"},{"n":"13"}]"#;
    assert_eq!(
        decode_paths(based, JSON),
        Ok(vec![path("/3/0/9"), path("/3/0/13")])
    );
    assert!(decode_paths(br#"[{"n":"/x"}]"#, JSON).is_err());

    let answer = br#"[{"bn":"/3/0/9","v":77},{"bn":"/3303/0/","n":"5700","v":22.5},{"bn":"/3/0/7/1","v":5000}]"#;
    let got = decode_nodes(answer, &paths, JSON, &Registry::oma()).unwrap();
    let object = lwm2m_model::ObjectNode::new(3303, [InstanceNode::new(0, [float(5700, 22.5)])]);
    let expected = nodes([
        ("/3/0/9", Node::Resource(integer(9, 77))),
        ("/3303", Node::Object(object)),
        (
            "/3/0/7/1",
            Node::ResourceInstance {
                id: 1,
                value: Value::Integer(5000),
            },
        ),
    ]);
    assert_eq!(got, vec![at(None, expected)]);
    for format in [JSON, CBOR] {
        let written = encode_nodes(&got, format).unwrap();
        let read = decode_nodes(&written, &paths, format, &Registry::oma());
        assert_eq!(read.as_ref(), Ok(&got));
    }
    assert_eq!(
        decode_nodes(answer, &paths[..1], JSON, &Registry::oma()),
        Err(DecodeError::NotAskedFor {
            found: path("/3/0/7/1")
        })
    );
    let format = ContentFormat::Tlv;
    assert_eq!(
        encode_paths(&paths, format),
        Err(EncodeError::NotComposite { format })
    );
    assert_eq!(
        encode_nodes(&got, format),
        Err(EncodeError::NotComposite { format })
    );
    assert_eq!(
        decode_paths(b"", format),
        Err(DecodeError::NotComposite { format })
    );
    assert_eq!(
        decode_nodes(b"", &[], format, &Registry::oma()),
        Err(DecodeError::NotComposite { format })
    );
}
