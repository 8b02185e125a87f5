//! Runs the entry that the variable `ZEELOS_FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("ZEELOS_FUZZ_TARGET").expect("set ZEELOS_FUZZ_TARGET to a target's name");
    fuzz::target(&name).unwrap_or_else(|| panic!("there is no fuzz target '{name}'"))
});

fuzz_target!(|data: &[u8]| (*TARGET)(data));
