//! What is true of any Kafka broker.

mod groups;
mod records;
mod topics;

pub(crate) use groups::*;
pub(crate) use records::*;
pub(crate) use topics::*;

use kafka_protocol::protocol::StrBytes;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
