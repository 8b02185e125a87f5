use crate::wire::{avro_record, put_bytes};

avro_record! {
    /// `AvroKey`: what records of one device are partitioned by.
    pub struct AvroKey {
        /// The endpoint's name; in the analytics topic `<ep>.<path>`.
        pub ep: String,
    }
}

impl AvroKey {
    pub fn new(ep: impl Into<String>) -> Self {
        Self { ep: ep.into() }
    }

    /// Writes the datum of the key for this endpoint behind what is there.
    pub fn write_datum(ep: &str, out: &mut Vec<u8>) {
        put_bytes(out, ep.as_bytes());
    }
}
