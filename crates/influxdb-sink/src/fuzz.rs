//! Entry points for fuzzing.

/// Parses KCQL, as it stands in a connector's configuration.
pub fn decode_kcql(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _parsed = crate::kcql::parse(text);
    }
}
