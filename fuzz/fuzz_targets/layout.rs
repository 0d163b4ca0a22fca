#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| (state::fuzz::LAYOUT.check)(input));
