//! The envelope in which connections get a channel's messages, where its rule says so.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use std::io::Write;

use super::position::Position;
use crate::message::{Channel, Kind, Message};

/// The room for a position in its field.
const POSITION: usize = 40;

/// A message in its envelope, but for its position: escaping does not need that, and takes the longest.
pub struct Envelope {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Envelope {
    /// That of a message. Binary data are base64, which `t` says.
    pub fn new(channel: &Channel, message: &Message) -> Envelope {
        let mut head = br#"{"c":"#.to_vec();
        quote(channel.as_str(), &mut head);
        let mut tail = Vec::with_capacity(message.data().len() + 16);
        match (message.kind(), std::str::from_utf8(message.data())) {
            (Kind::Text, Ok(text)) => {
                tail.extend_from_slice(br#","d":"#);
                quote(text, &mut tail);
            }
            (_, _) => {
                tail.extend_from_slice(br#","t":"binary","d":""#);
                tail.extend_from_slice(STANDARD.encode(message.data()).as_bytes());
                tail.push(b'"');
            }
        }
        tail.push(b'}');
        Envelope { head, tail }
    }

    /// The same for publishes that were added up.
    pub fn counting(mut self, count: Option<u64>) -> Envelope {
        if let Some(count) = count {
            self.tail.pop();
            self.tail.extend_from_slice(format!(r#","n":{count}}}"#).as_bytes());
        }
        self
    }

    /// The text that connections get. Without a position: the channel's messages have none.
    pub fn seal(&self, position: Option<Position>) -> Message {
        let mut whole = Vec::with_capacity(self.head.len() + POSITION + self.tail.len());
        whole.extend_from_slice(&self.head);
        if let Some(position) = position {
            // A Vec takes all that is written.
            let _ = write!(whole, r#","p":"{position}""#);
        }
        whole.extend_from_slice(&self.tail);
        text(whole)
    }
}

/// What tells connections that something may be missing of a channel's messages, and where they go on.
pub fn gap(channel: &Channel, position: Position) -> Message {
    let mut head = br#"{"c":"#.to_vec();
    quote(channel.as_str(), &mut head);
    text([&head, format!(r#","p":"{position}","recovered":false}}"#).as_bytes()].concat())
}

/// Its parts are texts.
fn text(bytes: Vec<u8>) -> Message {
    Message::text(String::from_utf8(bytes).unwrap_or_default())
}

/// Appends a text as a JSON string.
fn quote(text: &str, out: &mut Vec<u8>) {
    // A string always serialises, and a Vec takes all that is written.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_json() {
        let channel = Channel::parse(br#"a"b"#).unwrap();
        let position = Position { term: 36, offset: 1 };
        let seal = |message| String::from_utf8(Envelope::new(&channel, &message).seal(Some(position)).data().to_vec());
        assert_eq!(seal(Message::text("x\"\n")).unwrap(), r#"{"c":"a\"b","p":"10-1","d":"x\"\n"}"#);
        assert_eq!(seal(Message::binary(vec![255])).unwrap(), r#"{"c":"a\"b","p":"10-1","t":"binary","d":"/w=="}"#);
        let bare = Envelope::new(&channel, &Message::text("x")).seal(None);
        assert_eq!(bare.data(), br#"{"c":"a\"b","d":"x"}"#);
        let added = Envelope::new(&channel, &Message::text("x")).counting(Some(7)).seal(None);
        assert_eq!(added.data(), br#"{"c":"a\"b","d":"x","n":7}"#);
        assert_eq!(gap(&channel, position).data(), br#"{"c":"a\"b","p":"10-1","recovered":false}"#);
    }
}
