//! `mix.xor`, `mix.crc16`, `mix.crc32`: checksums of devices' protocols.

use crate::script::push::Table;
use crate::script::stack::{Args, BYTES_PER_LOOK, Raise, in_time};

/// Adds this file's functions to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.native(c"xor", xor);
    mix.native(c"crc16", crc16);
    mix.native(c"crc32", crc32);
}

/// A cyclic redundancy check over 16 bits, by the parameters that catalogues of them have.
struct Crc16 {
    /// The names by which scripts call it, in lower case.
    names: &'static [&'static str],
    /// The polynomial, its lowest bit first where `reflected`.
    polynomial: u16,
    init: u16,
    /// Bytes are taken lowest bit first.
    reflected: bool,
    xor_out: u16,
}

const KINDS: [Crc16; 8] = [
    Crc16 { names: &["modbus"], polynomial: 0xA001, init: 0xFFFF, reflected: true, xor_out: 0 },
    Crc16 { names: &["arc", "ibm"], polynomial: 0xA001, init: 0, reflected: true, xor_out: 0 },
    Crc16 { names: &["usb"], polynomial: 0xA001, init: 0xFFFF, reflected: true, xor_out: 0xFFFF },
    Crc16 { names: &["ccitt-false"], polynomial: 0x1021, init: 0xFFFF, reflected: false, xor_out: 0 },
    Crc16 { names: &["xmodem"], polynomial: 0x1021, init: 0, reflected: false, xor_out: 0 },
    Crc16 { names: &["kermit", "ccitt"], polynomial: 0x8408, init: 0, reflected: true, xor_out: 0 },
    Crc16 { names: &["x25"], polynomial: 0x8408, init: 0xFFFF, reflected: true, xor_out: 0xFFFF },
    Crc16 { names: &["mcrf4xx"], polynomial: 0x8408, init: 0xFFFF, reflected: true, xor_out: 0 },
];

impl Crc16 {
    /// The remainder after one byte more.
    fn take(&self, mut crc: u16, byte: u8) -> u16 {
        if self.reflected {
            crc ^= u16::from(byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { self.polynomial } else { 0 };
            }
        } else {
            crc ^= u16::from(byte) << 8;
            for _ in 0..8 {
                crc = crc << 1 ^ if crc >> 15 == 1 { self.polynomial } else { 0 };
            }
        }
        crc
    }
}

/// CRC-32 as of Ethernet, gzip and PNG, for each byte.
const CRC32: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Folds the bytes of argument 1, looking at the handler's time now and then.
fn fold<T: Copy>(args: &Args, first: T, take: impl Fn(T, u8) -> T) -> Result<T, Raise> {
    let mut folded = first;
    for piece in args.bytes(1)?.chunks(BYTES_PER_LOOK) {
        in_time()?;
        folded = piece.iter().fold(folded, |folded, byte| take(folded, *byte));
    }
    Ok(folded)
}

/// `mix.xor(s[, seed])`: all bytes, and the seed, by exclusive or.
fn xor(args: &Args) -> Result<f64, Raise> {
    let seed = if args.is_nil(2) { 0.0 } else { args.number(2)? };
    if !(seed.fract() == 0.0 && (0.0..=255.0).contains(&seed)) {
        return Err(Raise::Argument { index: 2, problem: format!("0 to 255 expected, got {seed}") });
    }
    Ok(f64::from(fold(args, seed as u8, |sum, byte| sum ^ byte)?))
}

/// `mix.crc16(s[, kind])`: Modbus's unless told.
fn crc16(args: &Args) -> Result<f64, Raise> {
    let wanted = args.optional_bytes(2)?.unwrap_or(b"modbus"[..].into());
    let name = String::from_utf8_lossy(&wanted).to_ascii_lowercase();
    let Some(kind) = KINDS.iter().find(|kind| kind.names.contains(&name.as_str())) else {
        let known: Vec<&str> = KINDS.iter().flat_map(|kind| kind.names).copied().collect();
        let problem = format!("one of {} expected, got \"{}\"", known.join(", "), name.escape_debug());
        return Err(Raise::Argument { index: 2, problem });
    };
    Ok(f64::from(fold(args, kind.init, |crc, byte| kind.take(crc, byte))? ^ kind.xor_out))
}

/// `mix.crc32(s)`
fn crc32(args: &Args) -> Result<f64, Raise> {
    let take = |crc: u32, byte: u8| CRC32[usize::from(crc as u8 ^ byte)] ^ crc >> 8;
    Ok(f64::from(!fold(args, !0, take)?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lua_with, raised};
    use super::*;

    /// The catalogues' check: of the digits 1 to 9.
    #[test]
    fn checksums_are_those_of_the_catalogues() {
        let lua = lua_with(register);
        for (call, wanted) in [
            ("crc16(s)", 0x4B37),
            ("crc16(s, 'modbus')", 0x4B37),
            ("crc16(s, 'ARC')", 0xBB3D),
            ("crc16(s, 'usb')", 0xB4C8),
            ("crc16(s, 'ccitt-false')", 0x29B1),
            ("crc16(s, 'xmodem')", 0x31C3),
            ("crc16(s, 'kermit')", 0x2189),
            ("crc16(s, 'x25')", 0x906E),
            ("crc16(s, 'mcrf4xx')", 0x6F91),
            ("crc32(s)", 0xCBF4_3926_u32),
            ("crc32('')", 0),
            ("xor('\\1\\2\\4')", 7),
            ("xor('\\1', 255)", 254),
            ("xor('')", 0),
        ] {
            let got: f64 = lua.load(format!("local s = '123456789' return mix.{call}")).eval().unwrap();
            assert_eq!(got, f64::from(wanted), "{call}");
        }
        let error = raised(&lua, "mix.crc16('x', 'no')");
        assert!(error.contains("bad argument #2 to 'crc16' (one of modbus, arc,"), "{error}");
        let error = raised(&lua, "mix.xor('x', 256)");
        assert!(error.ends_with("(0 to 255 expected, got 256)"), "{error}");
    }
}
