//! `mix.base64_*`, and the digests: MD5, SHA-1, SHA-256 and their HMACs.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;

use crate::script::push::Table;
use crate::script::stack::{Args, BYTES_PER_LOOK, Raise, in_time};

/// Adds this file's functions to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.native(c"base64_encode", base64_encode);
    mix.native(c"base64_decode", base64_decode);
    mix.native(c"md5", |a: &Args| Ok(hex(&digest::<Md5>(a)?)));
    mix.native(c"md5_bin", digest::<Md5>);
    mix.native(c"sha1", |a: &Args| Ok(hex(&digest::<Sha1>(a)?)));
    mix.native(c"sha1_bin", digest::<Sha1>);
    mix.native(c"sha256", |a: &Args| Ok(hex(&digest::<Sha256>(a)?)));
    mix.native(c"sha256_bin", digest::<Sha256>);
    mix.native(c"hmac_sha1", |a: &Args| Ok(hex(&hmac::<Sha1, Hmac<Sha1>>(a)?)));
    mix.native(c"hmac_sha1_bin", hmac::<Sha1, Hmac<Sha1>>);
    mix.native(c"hmac_sha256", |a: &Args| Ok(hex(&hmac::<Sha256, Hmac<Sha256>>(a)?)));
    mix.native(c"hmac_sha256_bin", hmac::<Sha256, Hmac<Sha256>>);
}

/// Padding may be missing (RFC 4648, section 3.2), and unused last bits may be set (section 3.5 leaves that open, and
/// Go's and PHP's decoders allow it).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Whole groups of 3 bytes and of 4 symbols, so that pieces can be put together.
const PLAIN_PIECE: usize = BYTES_PER_LOOK / 4 * 3;
const TEXT_PIECE: usize = BYTES_PER_LOOK;

fn base64_encode(args: &Args) -> Result<String, Raise> {
    let plain = args.bytes(1)?;
    let mut text = String::with_capacity(plain.len().div_ceil(3) * 4);
    for piece in plain.chunks(PLAIN_PIECE) {
        in_time()?;
        BASE64.encode_string(piece, &mut text);
    }
    Ok(text)
}

fn base64_decode(args: &Args) -> Result<Result<Vec<u8>, String>, Raise> {
    Ok(decode(&args.bytes(1)?)?.map_err(|e| format!("base64_decode: {e}")))
}

/// The bytes that a base64 text stands for (RFC 4648): standard or URL-safe alphabet, padding optional, line ends
/// skipped as Go's decoder does. The error names the offset, from 0, and the byte there.
pub fn decode(text: &[u8]) -> Result<Result<Vec<u8>, String>, Raise> {
    // Most texts are standard base64, and need no copy.
    if let Some(plain) = decode_plain(text)? {
        return Ok(Ok(plain));
    }
    match decode_plain(&standard(text)?)? {
        Some(plain) => Ok(Ok(plain)),
        None => explain(text).map(Err),
    }
}

/// Decodes a text in the standard alphabet; None if the text is in no such form.
fn decode_plain(text: &[u8]) -> Result<Option<Vec<u8>>, Raise> {
    let mut plain = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let mut rest = text;
    while !rest.is_empty() {
        in_time()?;
        let (piece, after) = rest.split_at(rest.len().min(TEXT_PIECE));
        // Padding ends the whole text, not a piece of it.
        let is_cut = !after.is_empty() && piece.ends_with(b"=");
        if is_cut || BASE64.decode_vec(piece, &mut plain).is_err() {
            return Ok(None);
        }
        rest = after;
    }
    Ok(Some(plain))
}

/// The text in the standard alphabet and without line ends.
fn standard(text: &[u8]) -> Result<Vec<u8>, Raise> {
    let translate = |b: &u8| match b {
        b'-' => b'+',
        b'_' => b'/',
        b => *b,
    };
    let mut standard = Vec::with_capacity(text.len());
    for piece in text.chunks(TEXT_PIECE) {
        in_time()?;
        standard.extend(piece.iter().filter(|b| !line_end(b)).map(translate));
    }
    Ok(standard)
}

fn line_end(byte: &u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Finds the fault in a text that could not be decoded. The decoder's own error does not help: its offsets don't count
/// line ends, and it names no byte for wrong padding.
fn explain(text: &[u8]) -> Result<String, Raise> {
    let mut symbols = 0;
    let mut padding = 0;
    for (offset, byte) in text.iter().enumerate().filter(|(_, b)| !line_end(b)) {
        if offset % TEXT_PIECE == 0 {
            in_time()?;
        }
        let named = || format!("byte '{}' at offset {offset}", byte.escape_ascii());
        match byte {
            // Groups of four: padding fills one that has two or three symbols.
            b'=' if symbols % 4 >= 2 && symbols % 4 + padding < 4 => padding += 1,
            b'=' => return Ok(format!("{} is padding where none belongs", named())),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'-' | b'_' => {
                if padding > 0 {
                    return Ok(format!("{} follows the padding", named()));
                }
                symbols += 1;
            }
            _ => return Ok(format!("{} is not in the alphabet", named())),
        }
    }
    Ok(match text.iter().rposition(|b| !line_end(b) && *b != b'=') {
        Some(last) if symbols % 4 == 1 => {
            format!("the text is cut off: byte '{}' at offset {last} stands alone", text[last].escape_ascii())
        }
        _ => "the text is not base64".into(),
    })
}

fn digest<D: Digest>(args: &Args) -> Result<Vec<u8>, Raise> {
    digest_of::<D>(&args.bytes(1)?)
}

fn digest_of<D: Digest>(data: &[u8]) -> Result<Vec<u8>, Raise> {
    let mut digest = D::new();
    for piece in data.chunks(BYTES_PER_LOOK) {
        in_time()?;
        digest.update(piece);
    }
    Ok(digest.finalize().to_vec())
}

/// HMAC (RFC 2104) of argument 2 under the key in argument 1.
fn hmac<D: Digest, M: Mac + KeyInit>(args: &Args) -> Result<Vec<u8>, Raise> {
    let (mut key, data) = (args.bytes(1)?, args.bytes(2)?);
    if key.len() > BYTES_PER_LOOK {
        // A key longer than a block is replaced by its digest.
        key = digest_of::<D>(&key)?.into();
    }
    let mut mac = <M as KeyInit>::new_from_slice(&key).map_err(|e| Raise::Message(e.to_string()))?;
    for piece in data.chunks(BYTES_PER_LOOK) {
        in_time()?;
        mac.update(piece);
    }
    Ok(mac.finalize().into_bytes().to_vec())
}

/// Two lower-case digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::mix::tests::{lua_with, raised};
    use proptest::prelude::*;

    fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
        super::decode(text).unwrap()
    }

    #[test]
    fn base64_of_the_rfc() {
        // RFC 4648, section 10
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(BASE64.encode(plain), text);
            assert_eq!(decode(text.as_bytes()).unwrap(), plain.as_bytes());
            assert_eq!(decode(text.trim_end_matches('=').as_bytes()).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn decoding_is_lenient_where_others_are() {
        assert_eq!(decode(b"-_+/").unwrap(), decode(b"+/-_").unwrap());
        assert_eq!(decode(b"Zm9v\r\nYmFy\n").unwrap(), b"foobar");
        assert_eq!(decode(b"Zm8\n=").unwrap(), b"fo");
        assert_eq!(decode(b"Zh==").unwrap(), b"f");
        assert_eq!(decode(b"Zg=").unwrap(), b"f");
    }

    #[test]
    fn what_can_not_be_decoded_is_named() {
        for (text, problem) in [
            ("Zm9!", "byte '!' at offset 3 is not in the alphabet"),
            ("Zm\r\n9!", "byte '!' at offset 5 is not in the alphabet"),
            ("Zm 9v", "byte ' ' at offset 2 is not in the alphabet"),
            ("Zm9v\u{e4}", "byte '\\xc3' at offset 4 is not in the alphabet"),
            ("Zg==Zg==", "byte 'Z' at offset 4 follows the padding"),
            ("Zg===", "byte '=' at offset 4 is padding where none belongs"),
            ("Zm9v=", "byte '=' at offset 4 is padding where none belongs"),
            ("=", "byte '=' at offset 0 is padding where none belongs"),
            ("Z", "the text is cut off: byte 'Z' at offset 0 stands alone"),
            ("Zm9vY\n", "the text is cut off: byte 'Y' at offset 4 stands alone"),
        ] {
            assert_eq!(decode(text.as_bytes()).unwrap_err(), problem, "{text}");
        }
    }

    #[test]
    fn scripts_get_digests() {
        let lua = lua_with(register);
        let get = |code: &str| lua.load(format!("return mix.{code}")).eval::<mlua::LuaString>().unwrap();
        // RFC 1321, RFC 3174, FIPS 180-2, RFC 2202 (case 2), RFC 4231 (case 2)
        assert_eq!(get("md5('')"), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(get("md5('abc')"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(get("sha1('abc')"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(get("sha256('abc')"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(
            get("hmac_sha1('Jefe', 'what do ya want for nothing?')"),
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
        );
        assert_eq!(
            get("hmac_sha256('Jefe', 'what do ya want for nothing?')"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        for name in ["md5", "sha1", "sha256"] {
            assert_eq!(
                hex(&get(&format!("{name}_bin('\\0x')")).as_bytes()).as_bytes(),
                &*get(&format!("{name}('\\0x')")).as_bytes()
            );
        }
        for name in ["hmac_sha1", "hmac_sha256"] {
            let long = "string.rep('k', 200), 'x'";
            assert_eq!(
                hex(&get(&format!("{name}_bin({long})")).as_bytes()).as_bytes(),
                &*get(&format!("{name}({long})")).as_bytes()
            );
        }
        assert_eq!(get("md5(12)"), &*get("md5('12')").as_bytes());
    }

    #[test]
    fn scripts_get_base64_and_errors() {
        let lua = lua_with(register);
        let get =
            |code: &str| lua.load(format!("return mix.{code}")).eval::<(Option<String>, Option<String>)>().unwrap();
        assert_eq!(get("base64_encode('\\255\\254')"), (Some("//4=".into()), None));
        assert_eq!(get("base64_decode('Zm9v')"), (Some("foo".into()), None));
        assert_eq!(
            get("base64_decode('Zm9*')"),
            (None, Some("base64_decode: byte '*' at offset 3 is not in the alphabet".into()))
        );
        assert_eq!(raised(&lua, "mix.md5(nil)"), "app.lua:1: bad argument #1 to 'md5' (string expected, got nil)");
        assert_eq!(
            raised(&lua, "mix.base64_decode({})"),
            "app.lua:1: bad argument #1 to 'base64_decode' (string expected, got table)"
        );
        assert_eq!(
            raised(&lua, "mix.hmac_sha1_bin('k')"),
            "app.lua:1: bad argument #2 to 'hmac_sha1_bin' (string expected, got no value)"
        );
    }

    /// Texts are worked on in pieces: nothing shows where one ends.
    #[test]
    fn long_texts_are_coded_as_short_ones() {
        for length in [PLAIN_PIECE - 1, PLAIN_PIECE, PLAIN_PIECE + 1, 3 * PLAIN_PIECE + 7] {
            let plain: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let lua = lua_with(register);
            let encode: mlua::Function = lua.load("return mix.base64_encode").eval().unwrap();
            let text: String = encode.call(lua.create_string(&plain).unwrap()).unwrap();
            assert_eq!(text, BASE64.encode(&plain));
            assert_eq!(decode(text.as_bytes()).unwrap(), plain);
            let lines: Vec<&str> = text.as_bytes().chunks(76).map(|l| std::str::from_utf8(l).unwrap()).collect();
            assert_eq!(decode(lines.join("\r\n").as_bytes()).unwrap(), plain);
            let sha: mlua::Function = lua.load("return mix.sha256_bin").eval().unwrap();
            let digest: mlua::LuaString = sha.call(lua.create_string(&plain).unwrap()).unwrap();
            assert_eq!(&*digest.as_bytes(), Sha256::digest(&plain).as_slice());
            let hmac: mlua::Function = lua.load("return mix.hmac_sha1_bin").eval().unwrap();
            let bytes = lua.create_string(&plain).unwrap();
            let made: mlua::LuaString = hmac.call((&bytes, &bytes)).unwrap();
            let mut wanted = <Hmac<Sha1> as KeyInit>::new_from_slice(&plain).unwrap();
            wanted.update(&plain);
            assert_eq!(&*made.as_bytes(), wanted.finalize().into_bytes().as_slice());
        }
        let padded = format!("{}==", "Z".repeat(TEXT_PIECE - 2));
        assert_eq!(
            decode(format!("{padded}Zg==").as_bytes()).unwrap_err(),
            format!("byte 'Z' at offset {TEXT_PIECE} follows the padding")
        );
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes: Vec<u8>) {
            prop_assert_eq!(decode(BASE64.encode(&bytes).as_bytes()).unwrap(), bytes);
        }

        #[test]
        fn every_failure_is_explained(text in "[Zm9v=!\n-]{0,12}") {
            if let Err(e) = decode(text.as_bytes()) {
                prop_assert!(e.contains("offset"), "{}", e);
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
