//! Tests of compressed messages.

use super::*;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proptest::collection::vec;
use proptest::prelude::*;

const LIMIT: usize = 100_000;

fn inflate(payload: &[u8], limit: usize) -> Result<Vec<u8>, Wrong> {
    let mut out = Vec::new();
    Inflator::default().inflate(payload, &mut out, limit).map(|()| out)
}

fn compress(window: Window, payload: &[u8]) -> Option<Vec<u8>> {
    Compressor::new(window).compress(payload, &mut Vec::new()).map(<[u8]>::to_vec)
}

/// A message as another implementation compresses it: in parts, each flushed.
fn by_flate2(parts: &[Vec<u8>], level: u32) -> Vec<u8> {
    let (mut compress, mut out) = (Compress::new(Compression::new(level), false), Vec::new());
    for part in parts {
        let end = compress.total_in() + part.len() as u64;
        loop {
            out.reserve(part.len() + 100);
            let from = part.len() - (end - compress.total_in()) as usize;
            compress.compress_vec(&part[from..], &mut out, FlushCompress::Sync).unwrap();
            if compress.total_in() == end && out.len() < out.capacity() {
                break;
            }
        }
    }
    if out.is_empty() { vec![0] } else { out.strip_suffix(&FLUSHED).unwrap().to_vec() }
}

/// What another implementation decompresses.
fn inflated_by_flate2(payload: &[u8]) -> Vec<u8> {
    let (mut inflate, mut out) = (Decompress::new(false), Vec::with_capacity(LIMIT + 1000));
    inflate.decompress_vec(&[payload, &FLUSHED].concat(), &mut out, FlushDecompress::Sync).unwrap();
    out
}

/// Bytes without any order.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 7u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Bytes that repeat themselves, more or less.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let words = vec(vec(any::<u8>(), 1..40), 1..30);
    (words, vec(any::<prop::sample::Index>(), 0..300))
        .prop_map(|(words, picks)| picks.iter().flat_map(|pick| pick.get(&words).clone()).collect())
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    for payload in [
        &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
        b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
    ] {
        assert_eq!(inflate(payload, 5), Ok(b"Hello".to_vec()), "{payload:x?}");
        assert_eq!(inflate(payload, 4), Err(Wrong::TooBig), "{payload:x?}");
    }
    assert_eq!(inflate(b"\x00", 1), Ok(Vec::new()), "an empty message");
    // Of a second message that refers to the first one, which was not agreed.
    assert_eq!(inflate(b"\xf2\x00\x11\x00\x00", 5), Err(Wrong::Invalid));
}

#[test]
fn last_blocks_may_stand_anywhere_and_are_bounded() {
    let hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
    assert_eq!(inflate(&[&hello[..], hello, b"\x00"].concat(), 10), Ok(b"HelloHello".to_vec()));
    assert_eq!(inflate(hello, 5), Ok(b"Hello".to_vec()), "without the block after it, which some leave out");
    let empty = |count| b"\x03\x00".repeat(count);
    assert_eq!(inflate(&empty(MAX_LAST_BLOCKS), 5), Ok(Vec::new()));
    assert_eq!(inflate(&empty(MAX_LAST_BLOCKS + 1), 5), Err(Wrong::Invalid));
}

#[test]
fn what_is_not_whole_is_invalid() {
    for payload in [&b"\xff"[..], b"\x07", b"Hello", b"\xf2\x48\xcd", b"\x00\x05\x00\xfa\xff", b"\x00\x05\x00\x05\xff"]
    {
        assert_eq!(inflate(payload, 1000), Err(Wrong::Invalid), "{payload:x?}");
    }
    let text = "a text that is long enough for several codes, several times. ".repeat(20);
    let payload = compress(Window::Bits15, text.as_bytes()).unwrap();
    assert_eq!(inflate(&payload, LIMIT), Ok(text.into_bytes()));
    for end in 1..payload.len() - 1 {
        assert_eq!(inflate(&payload[..end], LIMIT), Err(Wrong::Invalid), "{end} of {} bytes", payload.len());
    }
}

#[test]
fn a_bomb_takes_no_more_than_the_limit() {
    let bomb = by_flate2(&[vec![0; 50_000_000]], 9);
    assert!(bomb.len() < 60_000);
    let (mut inflator, mut out) = (Inflator::default(), Vec::new());
    for limit in [1, 1000, LIMIT] {
        assert_eq!(inflator.inflate(&bomb, &mut out, limit), Err(Wrong::TooBig));
        assert_eq!(out.len(), limit + 1);
        assert!(out.capacity() <= 2 * LIMIT, "{}", out.capacity());
    }
    assert_eq!(inflator.inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", &mut out, 5), Ok(()), "the next message is as any");
    assert_eq!(out, b"Hello");
}

#[test]
fn what_gets_no_shorter_is_not_compressed() {
    let random: Vec<u8> = (0..1000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for payload in [&b""[..], b"a", b"Hello", &random[..256]] {
        assert_eq!(compress(Window::Bits15, payload), None, "{payload:?}");
    }
}

#[test]
fn a_compressor_refers_no_further_back_than_its_window() {
    let block: Vec<u8> = (0..400u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for window in Window::ALL {
        assert_eq!(Window::of(window.bits()), Some(window));
        assert_eq!(Window::ALL[window.position()], window);
        let zeros = vec![0; (1 << window.bits()) - 100];
        for payload in [[&block[..], &zeros, &block].concat(), [&block[..], &block, &zeros, &zeros, &block].concat()] {
            let compressed = compress(window, &payload).unwrap();
            let (mut inflate, mut out) = (Inflate::new(false, window.bits()), vec![0; payload.len() + 1]);
            let status = inflate.decompress(&[&compressed[..], &END].concat(), &mut out, InflateFlush::NoFlush);
            assert_eq!((status, inflate.total_out()), (Ok(Status::StreamEnd), payload.len() as u64), "{window:?}");
            assert_eq!(out[..payload.len()], payload);
        }
    }
    assert_eq!([7, 8, 16].map(Window::of), [None; 3]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn another_implementation_reads_what_is_compressed(messages in vec(content(), 1..4), window in 0..WINDOWS) {
        // The same compressor for all: none of them refers to one before.
        let (mut compressor, mut inflator) = (Compressor::new(Window::ALL[window]), Inflator::default());
        let (mut buffer, mut out) = (Vec::new(), Vec::new());
        for message in messages {
            let Some(payload) = compressor.compress(&message, &mut buffer) else { continue };
            prop_assert!(payload.len() < message.len());
            prop_assert_eq!(&inflated_by_flate2(payload), &message);
            prop_assert_eq!(inflator.inflate(payload, &mut out, message.len()), Ok(()));
            prop_assert_eq!(&out, &message);
            prop_assert_eq!(inflator.inflate(payload, &mut out, message.len() - 1), Err(Wrong::TooBig));
        }
    }

    #[test]
    fn what_another_implementation_compresses_is_read(parts in vec(content(), 1..4), level in 0..10u32) {
        let message = parts.concat();
        let payload = by_flate2(&parts, level);
        prop_assert_eq!(inflate(&payload, message.len().max(1)), Ok(message));
    }

    /// What may come compressed is bounded so that messages of the full size fit, however badly they are compressed.
    #[test]
    fn no_compressor_makes_a_message_longer_than_is_read(message in vec(any::<u8>(), 0..3000), level in 0..10u32) {
        let payload = by_flate2(std::slice::from_ref(&message), level);
        prop_assert!(payload.len() <= most_compressed(message.len()));
    }

    #[test]
    fn no_bytes_make_more_than_the_limit(payload in vec(any::<u8>(), 0..300), limit in 1..2000usize) {
        let mut out = Vec::new();
        let result = Inflator::default().inflate(&payload, &mut out, limit);
        prop_assert!(out.len() <= limit + usize::from(result.is_err()));
    }
}

#[test]
fn what_can_not_be_compressed_leaves_nothing_behind() {
    for window in Window::ALL {
        let (mut compressor, mut buffer) = (Compressor::new(window), Vec::new());
        // Each of them leaves something in the library's buffer of 64 KiB; the last ones fill half of it.
        for len in [300; 100].into_iter().chain([8192; 3]).chain([40_000; 2]) {
            assert_eq!(compressor.compress(&noise(len), &mut buffer), None, "{len}");
        }
        let text = b"again and ".repeat(8_000);
        let payload = compressor.compress(&text, &mut buffer).unwrap();
        assert_eq!(inflate(payload, LIMIT), Ok(text));
    }
}
