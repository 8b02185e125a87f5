//! What an input of a kibibyte makes each decoder of the network take from the heap: never 64 KiB more than no input.
//!
//! A program of its own, since it counts with an allocator of its own.

use std::fs;
use std::path::Path;

use fuzz::{FROM_THE_NETWORK, Mutator};

const INPUT: usize = 1_024;
const MOST: u64 = 64 << 10;
const CHANGED: usize = 300;

#[test]
fn an_input_of_a_kibibyte_takes_no_more_than_64_kib() {
    let mut mutator = Mutator::new(0x5eed_a110c);
    for name in FROM_THE_NETWORK {
        let target = fuzz::target(name).expect("a target of this name");
        let peak = |input: &[u8]| allocation_counter::measure(|| target(input)).bytes_max;
        // What is made once per process, and what the entry itself sets up, is not the input's.
        target(&[]);
        let idle = peak(&[]);
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let seeds: Vec<Vec<u8>> = fs::read_dir(corpus)
            .expect("a corpus folder for each target")
            .map(|file| fs::read(file.expect("a file").path()).expect("readable"))
            .collect();
        let changed: Vec<Vec<u8>> = (0..CHANGED).map(|_| mutator.near(&seeds)).collect();
        for input in seeds.iter().chain(&changed) {
            let input = &input[..input.len().min(INPUT)];
            let more = peak(input).saturating_sub(idle);
            assert!(more <= MOST, "{name} takes {more} bytes for {input:02x?}");
        }
    }
}
