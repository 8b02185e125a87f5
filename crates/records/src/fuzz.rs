//! Entry points for fuzzing: none of them may panic, whatever the bytes.

use crate::record::AvroRecord;
use crate::{
    AvroKey, RecordReader, RegistrationResponse, Request, Response, ResponseObserve, Schema,
    Schemas, frame, json, topics, windowed,
};

/// A framed key or value, and a windowed key.
pub fn decode_frame(data: &[u8]) {
    if let Ok((id, datum)) = frame::split(data) {
        assert_eq!(frame::join(id, datum), data);
    }
    if let Ok((key, start_ms)) = windowed::decode(data) {
        assert_eq!(windowed::encode(key, start_ms), data);
    }
}

/// A datum, read as each record and as JSON. What is accepted is written back and read as the same again.
pub fn decode_request(data: &[u8]) {
    fn read<T: AvroRecord>(data: &[u8]) {
        if let Ok(record) = T::from_datum(data) {
            let written = record.to_datum();
            let again = T::from_datum(&written).expect("what is written can be read");
            assert_eq!(again.to_datum(), written);
        }
    }
    read::<Request>(data);
    read::<AvroKey>(data);
    read::<RegistrationResponse>(data);
    read::<Response>(data);
    read::<ResponseObserve>(data);
    for schema in Schemas::get().all() {
        if let Ok(json) = json::to_avro_json(data, schema) {
            json::from_avro_json(&json, schema).expect("what is written can be read");
        }
    }
}

/// Text, read as a request in Avro's JSON encoding.
pub fn decode_avro_json(data: &[u8]) {
    let schema = &Schemas::get().request;
    if let Ok(value) = serde_json::from_slice(data)
        && let Ok(datum) = json::from_avro_json(&value, schema)
    {
        Request::from_datum(&datum).expect("a datum of the schema is a request");
    }
}

/// Text, read as a topic's name.
pub fn parse_topic(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some((gateway, kind)) = topics::parse_topic(text) {
            assert_eq!(kind.topic(&gateway), text);
        }
        topics::dlq_source(text);
    }
}

/// A schema's text, up to a NUL, then a datum of it, read as JSON and as a request.
pub fn parse_schema(data: &[u8]) {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let (text, rest) = data.split_at(end);
    let datum = rest.get(1..).unwrap_or_default();
    let Ok(schema) = std::str::from_utf8(text)
        .map_err(drop)
        .and_then(|t| Schema::parse(t).map_err(drop))
    else {
        return;
    };
    Schema::parse(schema.text()).expect("a schema without its white space is a schema");
    if let Ok(json) = json::to_avro_json(datum, &schema) {
        json::from_avro_json(&json, &schema).expect("what is written can be read");
    }
    if let Ok(reader) = RecordReader::<Request>::new(&schema)
        && let Ok(request) = reader.read(datum)
    {
        assert_eq!(
            Request::from_datum(&request.to_datum()).map(|r| r.to_datum()),
            Ok(request.to_datum())
        );
    }
}
