//! What comes of events in a client that reads them as WHATWG HTML says ("Interpreting an event stream").

use super::*;
use crate::ids::{Lane, NodeNumber};
use proptest::prelude::*;

/// The events of a stream, each with its name and data; what is not finished is none.
pub fn read(stream: &[u8]) -> Vec<(String, String)> {
    let text = std::str::from_utf8(stream).unwrap().replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut name, mut data) = (Vec::new(), String::new(), String::new());
    let mut lines: Vec<&str> = text.split('\n').collect();
    // A line without an end.
    lines.pop();
    for line in lines {
        if line.is_empty() {
            let (name, mut data) = (std::mem::take(&mut name), std::mem::take(&mut data));
            if data.pop().is_some() {
                events.push((if name.is_empty() { "message".into() } else { name }, data));
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "data" => data = data + value + "\n",
            "" | "id" | "retry" => {}
            _ => panic!("an unknown field: {line}"),
        }
    }
    events
}

fn event(name: &str, data: impl Into<String>) -> (String, String) {
    (name.into(), data.into())
}

#[test]
fn events_are_as_the_standard_says() {
    assert_eq!(&*encode(Kind::Text, b"hello"), b"data: hello\n\n");
    assert_eq!(&*encode(Kind::Text, b""), b"data: \n\n");
    assert_eq!(&*encode(Kind::Text, b"a\nb\r\nc\rd\n"), b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
    assert_eq!(&*encode(Kind::Binary, b"\x00\xff\r\n"), b"event: binary\ndata: AP8NCg==\n\n");
    assert_eq!(
        &*encode_close(1001, "a \"b\"\n"),
        b"event: close\ndata: {\"code\":1001,\"reason\":\"a \\\"b\\\"\\n\"}\n\n"
    );
    let client = ClientId::from_parts(NodeNumber::MIN, 1, Lane(2));
    let connected = encode_connected(client, Token::from_bits(10), 1500);
    let token = format!("{:032x}", 10);
    let want = format!("retry: 1500\nevent: connected\ndata: {{\"client\":\"{client}\",\"token\":\"{token}\"}}\n\n");
    assert_eq!(String::from_utf8(connected).unwrap(), want);
    assert_eq!(&*encode_with(Some("a-1"), Kind::Text, b"hello"), b"id: a-1\ndata: hello\n\n");
    assert_eq!(encode_id("a-1"), b"id: a-1\n\n");
    assert_eq!((read(COMMENT), read(&encode_id("a-1"))), (vec![], vec![]));
}

proptest! {
    /// Whatever is sent arrives, in order, and nothing besides.
    #[test]
    fn messages_arrive(messages in prop::collection::vec((any::<bool>(), "(\\PC|[ :\\r\\n\u{0}])*"), 0..6), cut in 0..9usize) {
        let (mut stream, mut want) = (Vec::new(), Vec::new());
        for (binary, text) in &messages {
            let kind = if *binary { Kind::Binary } else { Kind::Text };
            stream.extend_from_slice(&encode(kind, text.as_bytes()));
            stream.extend_from_slice(COMMENT);
            want.push(match kind {
                Kind::Text => event("message", text.replace("\r\n", "\n").replace('\r', "\n")),
                Kind::Binary => event("binary", BASE64_STANDARD.encode(text)),
            });
        }
        prop_assert_eq!(read(&stream), want.clone());
        // What is cut off is no event.
        let cut = cut.min(stream.len());
        stream.truncate(stream.len() - cut);
        if cut > COMMENT.len() {
            want.pop();
        }
        prop_assert_eq!(String::from_utf8(stream.clone()).map(|_| read(&stream)).unwrap_or(want.clone()), want);
    }
}
