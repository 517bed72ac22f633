//! The headers of frames: which of them this server takes (RFC 6455, section 5.2).

use std::io::Cursor;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::violation::Violation;
use crate::message::Kind;
use crate::wire::deflate::most_compressed;
use crate::wire::frame::MAX_CONTROL;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) kind: Kind,
    pub(super) compressed: bool,
}

/// What the headers of the next frames are held against.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// The unfinished message, and its length so far.
    pub(super) fragments: Option<(Form, usize)>,
    pub(super) limit: usize,
    pub(super) takes_compressed: bool,
}

impl Form {
    /// The most bytes of such a message.
    pub(super) fn most(self, limit: usize) -> usize {
        if self.compressed { most_compressed(limit) } else { limit }
    }
}

/// The header of a frame that this server takes.
pub(super) struct Head {
    pub(super) opcode: OpCode,
    pub(super) fin: bool,
    /// It begins a message that is compressed.
    pub(super) compressed: bool,
    pub(super) mask: [u8; 4],
    /// The length of the header itself.
    pub(super) len: usize,
    pub(super) payload: usize,
}

impl Head {
    /// Reads and checks the header at the front of `bytes`; `None` if it is not complete.
    pub(super) fn parse(bytes: &[u8], rules: &Rules) -> Result<Option<Head>, Violation> {
        let mut cursor = Cursor::new(bytes);
        let (header, payload) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Ok(None),
            Err(_) => return Err(Violation::protocol("reserved opcode")),
        };
        let len = cursor.position() as usize;
        // That a message is compressed is told by its first frame (RFC 7692, section 6).
        let may_be_compressed =
            rules.takes_compressed && matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if (header.rsv1 && !may_be_compressed) || header.rsv2 || header.rsv3 {
            return Err(Violation::protocol("reserved bit set, but no extension was agreed that uses it here"));
        }
        let Some(mask) = header.mask else { return Err(Violation::protocol("frame not masked")) };
        if payload >> 63 != 0 {
            return Err(Violation::protocol("frame length has its top bit set"));
        }
        // The header's own length tells which form the length has: 6 bytes without an extended one, then 8, then 14.
        if (len == 8 && payload < 126) || (len == 14 && payload <= 0xFFFF) {
            return Err(Violation::protocol("frame length not in its shortest form"));
        }
        match (header.opcode, rules.fragments) {
            (OpCode::Control(_), _) => {
                if !header.is_final {
                    return Err(Violation::protocol("fragmented control frame"));
                }
                if payload > MAX_CONTROL as u64 {
                    return Err(Violation::protocol("control frame longer than 125 bytes"));
                }
            }
            (OpCode::Data(Data::Continue), None) => {
                return Err(Violation::protocol("continuation without a message to continue"));
            }
            (OpCode::Data(Data::Text | Data::Binary), Some(_)) => {
                return Err(Violation::protocol("new message before the fragmented one was finished"));
            }
            (OpCode::Data(_), fragments) => {
                let begins = Form { kind: Kind::Binary, compressed: header.rsv1 };
                let (form, before) = fragments.unwrap_or((begins, 0));
                if payload > form.most(rules.limit).saturating_sub(before) as u64 {
                    return Err(Violation::too_big(rules.limit));
                }
            }
        }
        let (opcode, fin, compressed) = (header.opcode, header.is_final, header.rsv1);
        Ok(Some(Head { opcode, fin, compressed, mask, len, payload: payload as usize }))
    }

    /// The length of the whole frame.
    pub(super) fn total(&self) -> usize {
        self.len.saturating_add(self.payload)
    }
}

/// The length of the header that starts with `bytes`, as far as they tell: up to its length byte, or up to its mask.
pub(super) fn head_len(bytes: &[u8]) -> usize {
    let masked = |second: u8| if second & 0x80 != 0 { 4 } else { 0 };
    match bytes {
        [] | [_] => 2,
        [_, second, ..] => match second & 0x7F {
            126 => 4 + masked(*second),
            127 => 10 + masked(*second),
            _ => 2 + masked(*second),
        },
    }
}
