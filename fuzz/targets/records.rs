#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| connmix::fuzzing::run("records", bytes));
