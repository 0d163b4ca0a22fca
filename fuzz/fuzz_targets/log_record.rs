#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| (consensus::fuzz::LOG_RECORD.check)(input));
