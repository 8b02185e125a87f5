//! Entry points for fuzzing: each takes any bytes and must neither panic nor allocate more than a small multiple of them.

use bytes::Bytes;

use crate::{
    log::{batch, segment},
    protocol::{Incoming, decode_any, read_header},
};

/// A request frame, without its length: header, layout and body.
pub fn decode_kafka_request(data: &[u8]) {
    if let Ok(Incoming::Request(header, body)) = read_header(Bytes::copy_from_slice(data)) {
        let _ = decode_any(&header, body, 10_000);
    }
}

/// What a producer sends for one partition.
pub fn decode_record_batch(data: &[u8]) {
    let _ = batch::check_produced(data, 1 << 20);
    let _ = batch::whole_batches(data);
    if let Ok(header) = batch::BatchHeader::parse(data) {
        let _ = header.last_sequence();
        let _ = batch::record_at_or_after(&header, data, header.max_timestamp);
    }
}

/// A log segment after a crash; gives how many bytes are whole batches.
pub fn recover_segment(data: &[u8]) -> u64 {
    segment::scan(data, data.len() as u64, 0, |_| {}).unwrap_or(0)
}
