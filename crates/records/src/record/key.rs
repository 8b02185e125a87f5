use crate::wire::avro_record;

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
}
