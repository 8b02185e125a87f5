//! Replays the seed corpora of this crate's fuzz entries.

use std::fs;
use std::path::Path;

use lwm2m::fuzz;

type Target = (&'static str, fn(&[u8]));

#[test]
fn seeds_are_taken() {
    let targets: [Target; 5] = [
        ("decode_registration", fuzz::decode_registration),
        ("decode_binding", fuzz::decode_binding),
        ("decode_target", fuzz::decode_target),
        ("server_datagrams", fuzz::server_datagrams),
        ("client_datagrams", fuzz::client_datagrams),
    ];
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    for (name, target) in targets {
        let mut seeds = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            target(&fs::read(entry.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds >= 3, "{name}");
    }
}
