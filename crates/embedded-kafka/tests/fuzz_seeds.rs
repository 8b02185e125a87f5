//! The seeds of this crate's fuzz entries, replayed; and random bytes, which must do no harm either.

use std::{fs, path::Path};

use proptest::prelude::*;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(dir)
        .expect("the corpus is there")
        .map(|entry| entry.expect("readable").path());
    let seed = |path: std::path::PathBuf| {
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        (name, fs::read(path).expect("readable"))
    };
    entries.map(seed).collect()
}

#[test]
fn seeds_do_no_harm_and_segments_recover_to_their_last_whole_batch() {
    for (_, data) in seeds("decode_kafka_request") {
        embedded_kafka::fuzz::decode_kafka_request(&data);
    }
    for (_, data) in seeds("decode_record_batch") {
        embedded_kafka::fuzz::decode_record_batch(&data);
    }
    let segments = seeds("recover_segment");
    let whole = segments
        .iter()
        .find(|(name, _)| name == "whole")
        .expect("the whole segment")
        .1
        .len() as u64;
    for (name, data) in &segments {
        let valid = embedded_kafka::fuzz::recover_segment(data);
        match name.as_str() {
            "whole" | "zeros-behind" | "goes-back" => assert_eq!(valid, whole, "{name}"),
            _ => assert!(valid < whole, "{name}: {valid} of {whole}"),
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(data in prop::collection::vec(any::<u8>(), 0..300)) {
        embedded_kafka::fuzz::decode_kafka_request(&data);
        embedded_kafka::fuzz::decode_record_batch(&data);
        prop_assert!(embedded_kafka::fuzz::recover_segment(&data) <= data.len() as u64);
    }
}
