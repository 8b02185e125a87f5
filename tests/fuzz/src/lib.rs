//! Every decoder's fuzz entry by name, with a seed corpus each: replayed by a test, and run by cargo-fuzz.
//!
//! `corpus/<target>/` holds small inputs of our own making. The test beside this replays them, cut and changed, on
//! stable Rust. For a longer run, on stable Rust as well, or with a nightly toolchain and cargo-fuzz:
//!
//! ```text
//! cargo run --release -p fuzz --bin long -- 600 decode_tlv
//! ZEELOS_FUZZ_TARGET=decode_tlv cargo fuzz run --fuzz-dir tests/fuzz/cargo-fuzz any tests/fuzz/corpus/decode_tlv
//! ```

mod mutate;

pub use mutate::Mutator;

/// A fuzz entry: takes anything, must not panic.
pub type Target = fn(&[u8]);

/// All of them, named as their corpus folders.
pub const TARGETS: &[(&str, Target)] = &[
    ("client_datagrams", lwm2m::fuzz::client_datagrams),
    ("coap_datagram", coap::fuzz::decode_datagram),
    ("decode_avro_json", records::fuzz::decode_avro_json),
    ("decode_binding", lwm2m::fuzz::decode_binding),
    ("decode_cbor", lwm2m_codec::fuzz::decode_cbor),
    ("decode_ddf", lwm2m_model::fuzz::decode_ddf),
    ("decode_dtls_handshake", dtls::fuzz::decode_dtls_handshake),
    ("decode_frame", records::fuzz::decode_frame),
    (
        "decode_kafka_request",
        embedded_kafka::fuzz::decode_kafka_request,
    ),
    ("decode_kcql", influxdb_sink::fuzz::decode_kcql),
    ("decode_link_format", lwm2m_codec::fuzz::decode_link_format),
    ("decode_oma_json", lwm2m_codec::fuzz::decode_oma_json),
    (
        "decode_record_batch",
        embedded_kafka::fuzz::decode_record_batch,
    ),
    ("decode_registration", lwm2m::fuzz::decode_registration),
    ("decode_request", records::fuzz::decode_request),
    ("decode_senml_cbor", lwm2m_codec::fuzz::decode_senml_cbor),
    ("decode_senml_json", lwm2m_codec::fuzz::decode_senml_json),
    ("decode_target", lwm2m::fuzz::decode_target),
    ("decode_text", lwm2m_codec::fuzz::decode_text),
    ("decode_tlv", lwm2m_codec::fuzz::decode_tlv),
    ("dtls_datagrams", dtls::fuzz::dtls_datagrams),
    ("parse_path", lwm2m_model::fuzz::parse_path),
    ("parse_schema", records::fuzz::parse_schema),
    ("parse_topic", records::fuzz::parse_topic),
    ("recover_segment", |data| {
        embedded_kafka::fuzz::recover_segment(data);
    }),
    (
        "schema_registry_parse_record",
        schema_registry::fuzz::parse_record,
    ),
    (
        "schema_registry_parse_schema",
        schema_registry::fuzz::parse_schema,
    ),
    ("server_datagrams", lwm2m::fuzz::server_datagrams),
];

/// Those that read datagrams, or what stands in one.
pub const FROM_THE_NETWORK: [&str; 15] = [
    "client_datagrams",
    "coap_datagram",
    "decode_binding",
    "decode_cbor",
    "decode_dtls_handshake",
    "decode_link_format",
    "decode_oma_json",
    "decode_registration",
    "decode_senml_cbor",
    "decode_senml_json",
    "decode_text",
    "decode_tlv",
    "dtls_datagrams",
    "parse_path",
    "server_datagrams",
];

/// The entry of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, target)| *target)
}
