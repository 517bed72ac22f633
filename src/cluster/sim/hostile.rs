//! What a hostile or broken node makes of its frames: altered bytes, frames cut short or put together from two, headers with
//! numbers that are none of theirs, messages of every kind with made-up content.

use super::clients::Random;
use crate::cluster::protocol::{HEADER, Hello, MAJOR, Message, Published, Reply, envelop};

/// Numbers at the ends of what there is, and between.
fn number(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => 0,
        1 => random.below(8),
        2 => u64::from(u32::MAX) - 1 + random.below(3),
        3 => u64::MAX - random.below(2),
        4 => 1 << random.below(64),
        _ => random.next(),
    }
}

fn bytes(random: &mut Random, most: u64) -> Vec<u8> {
    let length = random.below(most);
    (0..length).map(|_| random.next() as u8).collect()
}

/// Alters a frame, or a hello. `other`: another one of the same node.
pub(super) fn alter(random: &mut Random, frame: &[u8], other: &[u8], hello: bool) -> Vec<u8> {
    let mut out = frame.to_vec();
    let at = |random: &mut Random, bytes: &[u8]| random.below(bytes.len().max(1) as u64) as usize;
    match random.below(8) {
        0 => {
            for _ in 0..1 + random.below(8) {
                let at = at(random, &out);
                out[at] ^= 1 << random.below(8);
            }
        }
        1 => out.truncate(at(random, frame)),
        2 => {
            out.truncate(at(random, frame));
            out.extend_from_slice(&other[at(random, other)..]);
        }
        3 => {
            let from = at(random, frame);
            let again = out[from..].to_vec();
            let to = at(random, frame);
            out.splice(to..to, again);
        }
        4 => {
            let at = at(random, &out);
            let length = (out.len() - at).min(8);
            out[at..at + length].copy_from_slice(&number(random).to_le_bytes()[..length]);
        }
        // A field of the header.
        5 if !hello => {
            let (at, length) = [(17, 4), (21, 8), (29, 4), (33, 8)][random.below(4) as usize];
            let number = number(random);
            out[at..at + length].copy_from_slice(&number.to_le_bytes()[..length]);
        }
        _ if hello => out.extend(bytes(random, 300)),
        // The place of the frame in the stream is right, and what is in it is not.
        which => {
            out.truncate(if which == 6 { HEADER } else { out.len() });
            for _ in 0..1 + random.below(6) {
                let request = number(random);
                let message = made_up(random);
                envelop(&message, request, &mut out);
            }
        }
    }
    if !hello && out.len() >= 9 {
        // A run's number is random: nobody hits that of another node by chance.
        out[1..9].copy_from_slice(&frame[1..9]);
    }
    out
}

/// A message of any kind, or nearly one.
fn made_up(random: &mut Random) -> Vec<u8> {
    let (data, more) = (bytes(random, 200), bytes(random, 200));
    let text: String = bytes(random, 30).into_iter().map(char::from).collect();
    let (one, flag) = (number(random), random.chance(50));
    let channel = if flag { text.as_str() } else { "c:1" };
    let message = match random.below(18) {
        0 => Message::Snapshot { version: one, hashes: &data, last: random.chance(20) },
        1 => Message::Interest { version: one, gone: &data, come: &more },
        2 => Message::InterestKnown { version: one },
        3 => Message::Publish { channel, binary: flag, data: &data, except: &more, key: flag.then_some(&text) },
        4 => Message::Send { client: one, binary: flag, data: &data },
        5 => Message::Command { client: one, command: &data },
        6 => {
            let mut replies = Vec::new();
            for _ in 0..random.below(20) {
                let request = number(random);
                Reply { request, reached: number(random) as u32, failed: number(random) as u32 }.write(&mut replies);
            }
            return Message::Replies(&replies).to_bytes().to_vec();
        }
        7 => Message::CommandReply { request: one, problem: flag.then_some(&text) },
        8 => Message::Lost { epoch: one as u32 },
        9 => Message::PublishOnce {
            id: &text,
            channels: vec![channel; data.len() * 10],
            list: flag,
            binary: flag,
            data: &more,
            except: &data,
            key: (!flag).then_some(&text),
            priority: one as u8,
        },
        10 => {
            let (reached, failed, unanswered) = (number(random), number(random), number(random));
            let published =
                Published { reached, failed, unanswered, at: Some((one, one)), left_out: flag, merged: flag };
            Message::OnceReply { request: one, counts: vec![published; data.len()] }
        }
        11 => {
            let mut hello = Vec::new();
            let [major, minor, number] = [MAJOR, one as u16, one as u16];
            let (run, api) = (super::Run(one), text.clone());
            let (started, clients, nonce) = (one, one, [7; 16]);
            let (engine, center, serving) = (flag, !flag, flag);
            Hello { major, minor, run, number, engine, center, serving, started, clients, nonce, api }
                .write(&mut hello);
            hello.insert(0, 0);
            return hello;
        }
        // Any kind, those that are not there among them, with anything in it.
        _ => {
            let mut message = vec![random.below(40) as u8];
            message.extend(bytes(random, 100));
            return message;
        }
    };
    message.to_bytes().to_vec()
}
