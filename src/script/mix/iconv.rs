//! `mix.iconv`: text from one encoding into another, as devices speak them.

use encoding_rs::{BIG5, DecoderResult, EncoderResult, Encoding, GB18030, GBK, SHIFT_JIS, UTF_8};

use crate::script::push::Table;
use crate::script::stack::{Args, BYTES_PER_LOOK, Fallible, Raise, in_time};

/// Adds this file's function to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.native(c"iconv", iconv);
}

/// An encoding of text.
#[derive(Clone, Copy)]
enum Charset {
    /// One byte a character, the first 256 of Unicode (ISO 8859-1).
    Latin1,
    Of(&'static Encoding),
}

/// Under which names scripts know them, without case, `-` and `_`.
const NAMES: [(&str, Charset); 13] = [
    ("utf8", Charset::Of(UTF_8)),
    ("gbk", Charset::Of(GBK)),
    ("gb2312", Charset::Of(GBK)),
    ("cp936", Charset::Of(GBK)),
    ("gb18030", Charset::Of(GB18030)),
    ("big5", Charset::Of(BIG5)),
    ("cp950", Charset::Of(BIG5)),
    ("shiftjis", Charset::Of(SHIFT_JIS)),
    ("sjis", Charset::Of(SHIFT_JIS)),
    ("cp932", Charset::Of(SHIFT_JIS)),
    ("latin1", Charset::Latin1),
    ("iso88591", Charset::Latin1),
    ("l1", Charset::Latin1),
];

/// The encoding that an argument names.
fn charset(args: &Args, index: i32) -> Result<Charset, Raise> {
    let name = String::from_utf8_lossy(&args.bytes(index)?).into_owned();
    let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect::<String>().to_ascii_lowercase();
    NAMES.iter().find(|(known, _)| *known == plain).map(|(_, charset)| *charset).ok_or_else(|| Raise::Argument {
        index,
        problem: format!(
            "UTF-8, GBK, GB18030, Big5, Shift_JIS or Latin-1 expected, got \"{}\"",
            name.chars().take(40).collect::<String>().escape_debug()
        ),
    })
}

/// `mix.iconv(s, from, to)` -> `s, err`
fn iconv(args: &Args) -> Fallible<Vec<u8>> {
    let (bytes, from, to) = (args.bytes(1)?, charset(args, 2)?, charset(args, 3)?);
    let text = match decode(&bytes, from)? {
        Ok(text) => text,
        Err(at) => return Ok(Err(format!("iconv: what stands at byte {at} is no character of that encoding"))),
    };
    let encoded = encode(&text, to)?;
    Ok(encoded.map_err(|c| format!("iconv: the character U+{:04X} is not in that encoding", u32::from(c))))
}

/// The text that bytes stand for; or where it can't be told, as an offset from 1.
fn decode(bytes: &[u8], from: Charset) -> Result<Result<String, usize>, Raise> {
    let mut text = String::with_capacity(bytes.len() + 16);
    let encoding = match from {
        Charset::Latin1 => {
            for piece in bytes.chunks(BYTES_PER_LOOK) {
                in_time()?;
                text.extend(piece.iter().copied().map(char::from));
            }
            return Ok(Ok(text));
        }
        Charset::Of(encoding) => encoding,
    };
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut at = 0;
    loop {
        in_time()?;
        let end = bytes.len().min(at + BYTES_PER_LOOK);
        let room = decoder.max_utf8_buffer_length_without_replacement(end - at).unwrap_or(BYTES_PER_LOOK);
        text.reserve(room);
        let last = end == bytes.len();
        let (result, read) = decoder.decode_to_string_without_replacement(&bytes[at..end], &mut text, last);
        at += read;
        match result {
            DecoderResult::InputEmpty if last => return Ok(Ok(text)),
            DecoderResult::Malformed(length, after) => {
                return Ok(Err((at + 1).saturating_sub(usize::from(length) + usize::from(after))));
            }
            DecoderResult::InputEmpty | DecoderResult::OutputFull => {}
        }
    }
}

/// The bytes that a text has; or the first character that there are none for.
fn encode(text: &str, to: Charset) -> Result<Result<Vec<u8>, char>, Raise> {
    let mut bytes = Vec::with_capacity(text.len() + 16);
    let encoding = match to {
        Charset::Latin1 => {
            for (i, c) in text.chars().enumerate() {
                if i % BYTES_PER_LOOK == 0 {
                    in_time()?;
                }
                match u8::try_from(u32::from(c)) {
                    Ok(byte) => bytes.push(byte),
                    Err(_) => return Ok(Err(c)),
                }
            }
            return Ok(Ok(bytes));
        }
        Charset::Of(encoding) => encoding,
    };
    let mut encoder = encoding.new_encoder();
    let mut rest = text;
    loop {
        in_time()?;
        let mut end = rest.len().min(BYTES_PER_LOOK);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let room = encoder.max_buffer_length_from_utf8_without_replacement(end).unwrap_or(BYTES_PER_LOOK);
        bytes.reserve(room);
        let last = end == rest.len();
        let (result, read) = encoder.encode_from_utf8_to_vec_without_replacement(&rest[..end], &mut bytes, last);
        rest = &rest[read..];
        match result {
            EncoderResult::InputEmpty if last => return Ok(Ok(bytes)),
            EncoderResult::Unmappable(c) => return Ok(Err(c)),
            EncoderResult::InputEmpty | EncoderResult::OutputFull => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lua_with, raised};
    use super::*;

    #[test]
    fn text_goes_into_each_encoding_and_back() {
        let lua = lua_with(register);
        for (text, to, wanted) in [
            ("中文", "GBK", "D6D0CEC4"),
            ("中文", "gb2312", "D6D0CEC4"),
            ("€", "gb18030", "A2E3"),
            ("😀", "GB18030", "9439FC36"),
            ("中文", "Big5", "A4A4A4E5"),
            ("日本", "Shift_JIS", "93FA967B"),
            ("é", "Latin-1", "E9"),
            ("é", "ISO-8859-1", "E9"),
            ("abc", "utf8", "616263"),
        ] {
            let code = format!(
                "local s = assert(mix.iconv('{text}', 'UTF-8', '{to}')) local back = assert(mix.iconv(s, '{to}', 'UTF-8'))
                 return (s:gsub('.', function(c) return string.format('%02X', c:byte()) end)), back"
            );
            let (hex, back): (String, String) = lua.load(code).eval().unwrap();
            assert_eq!((hex.as_str(), back.as_str()), (wanted, text), "{to}");
        }
        let long = "long = ('中'):rep(100000) local s = mix.iconv(long, 'utf-8', 'gbk')
                    return #s, mix.iconv(s, 'gbk', 'utf-8') == long, mix.iconv(('é'):rep(100000), 'utf-8', 'latin1') ==
                    ('\\233'):rep(100000)";
        assert_eq!(lua.load(long).eval::<(usize, bool, bool)>().unwrap(), (200_000, true, true));
    }

    #[test]
    fn what_has_no_place_is_an_err() {
        let lua = lua_with(register);
        for (call, wanted) in [
            ("mix.iconv('ab\\255', 'utf-8', 'gbk')", "iconv: what stands at byte 3 is no character of that encoding"),
            ("mix.iconv('ab\\214', 'gbk', 'utf-8')", "iconv: what stands at byte 3 is no character of that encoding"),
            ("mix.iconv('é', 'utf-8', 'gbk')", "nil"),
            ("mix.iconv('中', 'utf-8', 'latin1')", "iconv: the character U+4E2D is not in that encoding"),
            ("mix.iconv('😀', 'utf-8', 'big5')", "iconv: the character U+1F600 is not in that encoding"),
        ] {
            let err: String = lua.load(format!("return tostring(select(2, {call}))")).eval().unwrap();
            assert_eq!(err, wanted, "{call}");
        }
        let error = raised(&lua, "mix.iconv('x', 'utf-8', 'klingon')");
        assert!(
            error.contains("bad argument #3 to 'iconv' (UTF-8, GBK, GB18030, Big5, Shift_JIS or Latin-1"),
            "{error}"
        );
    }
}
