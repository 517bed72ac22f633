//! Events for watchers. While nobody watches, what happens costs a look at one cell; while somebody does, the events are kept
//! here until they are asked for, as JSON, so many and no more.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::hub::publishes::{self, Published};
use crate::hub::{Event, MAX_EVENT_BYTES, MAX_EVENTS, Seen, Wanted, Watch};
use crate::ids::NodeId;
use crate::message::Kind;
use crate::telemetry::log::escape::is_harmful;
use crate::telemetry::log::recent;

/// The most watchers that a worker keeps events for. When all places are taken, users share them ([`make_room`]).
pub const MAX_WATCHES: usize = 16;
/// A watcher that has not asked for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// The most bytes of a text in an event, as JSON spells it; of binary data, what makes no more in base64.
const TEXT: usize = 1024;

/// The watchers of a worker.
#[derive(Default)]
pub struct Tap {
    on: Cell<bool>,
    watching: RefCell<Vec<Watching>>,
}

struct Watching {
    id: u64,
    wanted: Wanted,
    /// Their texts without braces; the node is told when they are asked for.
    events: VecDeque<Event>,
    bytes: usize,
    lost: u64,
    asked: Instant,
    /// The number of the next line of the log.
    line: u64,
}

impl Watching {
    fn keep(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS || self.bytes + event.text.len() > MAX_EVENT_BYTES {
            self.lost += 1;
            return;
        }
        self.bytes += event.text.len();
        self.events.push_back(event);
    }
}

impl Tap {
    /// Whether anybody watches.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Keeps an event for those that want it. `text` writes it for one of them.
    pub(super) fn keep(&self, wants: impl Fn(&Wanted) -> bool, text: impl Fn(&mut Text, &Wanted)) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        for watching in self.watching.borrow_mut().iter_mut().filter(|watching| wants(&watching.wanted)) {
            let mut line = Text(String::with_capacity(128));
            text(&mut line, &watching.wanted);
            watching.keep(Event { at, text: line.0 });
        }
    }

    /// What a watcher has to see. It is known from its first question on. `log`: with lines of the log.
    pub(super) fn ask(&self, watch: &Watch, node: NodeId, log: bool) -> Seen {
        let (now, mut all) = (Instant::now(), self.watching.borrow_mut());
        // Who comes now has not seen them.
        keep_publishes(&mut all);
        let (mut new, at) = (0, all.iter().position(|watching| watching.id == watch.id));
        let at = match at {
            Some(at) => at,
            None => {
                forget(&mut all, now);
                if all.len() >= MAX_WATCHES && !make_room(&mut all, user_of(watch.id)) {
                    return Seen { refused: true, ..Seen::default() };
                }
                new = 1;
                all.push(Watching {
                    id: watch.id,
                    wanted: watch.wanted.clone(),
                    events: VecDeque::new(),
                    bytes: 0,
                    lost: 0,
                    asked: now,
                    line: 0,
                });
                all.len() - 1
            }
        };
        self.turn(true);
        let watching = &mut all[at];
        watching.asked = now;
        if log && watching.wanted.takes_log() {
            watching.line = read_log(watching);
        }
        watching.bytes = 0;
        let whole =
            |Event { at, text }: Event| Event { at, text: format!(r#"{{"at":{},"node":"{node}",{text}}}"#, at / 1000) };
        let lost = std::mem::take(&mut watching.lost);
        Seen {
            events: std::mem::take(&mut watching.events).into_iter().map(whole).collect(),
            lost,
            new,
            refused: false,
        }
    }

    /// Forgets watchers that do not ask any more. For a timer.
    pub(super) fn forget(&self) {
        if self.is_on() {
            let mut all = self.watching.borrow_mut();
            forget(&mut all, Instant::now());
            self.turn(!all.is_empty());
        }
    }

    fn turn(&self, on: bool) {
        if self.on.replace(on) != on {
            publishes::watch(on);
        }
    }
}

fn forget(all: &mut Vec<Watching>, now: Instant) {
    all.retain(|watching| now.saturating_duration_since(watching.asked) < FORGOTTEN);
}

/// The user whose watcher has that number.
fn user_of(id: u64) -> u64 {
    id >> 32
}

/// The oldest watcher of the user that has the most makes way, where the new one's user has fewer even with it. It is told when it
/// asks again. False: nobody makes way.
fn make_room(all: &mut Vec<Watching>, user: u64) -> bool {
    let places = |user| all.iter().filter(|watching| user_of(watching.id) == user).count();
    // Of several with the same, the last one is found: the oldest, from behind.
    let most = all.iter().map(|watching| places(user_of(watching.id))).enumerate().rev().max_by_key(|&(_, most)| most);
    match most {
        Some((oldest, most)) if most > places(user) + 1 => {
            all.remove(oldest);
            true
        }
        _ => false,
    }
}

/// Keeps what this worker has published since the last call, for all who want it.
fn keep_publishes(all: &mut [Watching]) {
    let (notes, lost) = publishes::take();
    for watching in all {
        watching.lost += lost;
        let wanted = &watching.wanted;
        let wants = |note: &&Published| {
            let is_problem = note.counts.is_some_and(|counts| counts.failed + counts.unanswered > 0);
            wanted.client.is_none() && wanted.takes(note.channel.as_str()) && (is_problem || !wanted.errors)
        };
        let events: Vec<Event> = notes.iter().filter(wants).map(publish_event).collect();
        events.into_iter().for_each(|event| watching.keep(event));
    }
}

fn publish_event(note: &Published) -> Event {
    let mut text = Text(String::with_capacity(128));
    text.name("published").text("channel", note.channel.as_str()).number("bytes", note.bytes);
    if let Some(counts) = note.counts {
        text.number("reached", counts.reached).number("failed", counts.failed);
        if counts.unanswered > 0 {
            text.number("unanswered", counts.unanswered);
        }
        if counts.left_out > 0 {
            text.number("left_out", counts.left_out);
        }
        if counts.merged > 0 {
            text.number("merged", counts.merged);
        }
    }
    Event { at: note.at, text: text.0 }
}

/// Keeps the lines of the log that have come since; returns the number of the next.
fn read_log(watching: &mut Watching) -> u64 {
    let (lines, lost, next) = recent::since(watching.line);
    watching.lost += lost;
    for line in lines {
        // At debug the engine says what events say.
        let is_echo = line.level == "debug" && line.target != "script";
        if is_echo || watching.wanted.errors && !line.is_problem {
            continue;
        }
        let mut text = Text(String::with_capacity(128));
        text.name("log");
        text.text("level", line.level).text("target", line.target).text("text", &line.text);
        watching.keep(Event { at: line.at, text: text.0 });
    }
    next
}

/// The text of an event: the members of a JSON object.
pub(super) struct Text(String);

impl Text {
    /// What kind of event it is; to be told first.
    pub(super) fn name(&mut self, event: &str) -> &mut Text {
        let _ = write!(self.0, r#""event":"{event}""#);
        self
    }

    /// A number, or what looks the same in JSON.
    pub(super) fn number(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Text {
        let _ = write!(self.0, r#","{key}":{value}"#);
        self
    }

    /// An id: as text, since some JSON parsers can't represent large numbers exactly.
    pub(super) fn id(&mut self, key: &str, id: impl std::fmt::Display) -> &mut Text {
        let _ = write!(self.0, r#","{key}":"{id}""#);
        self
    }

    /// A text; cut if it is long.
    pub(super) fn text(&mut self, key: &str, value: &str) -> &mut Text {
        let _ = write!(self.0, r#","{key}":"#);
        self.quote(value);
        self
    }

    /// A list of texts, and how many more there are.
    pub(super) fn texts<'a>(&mut self, key: &str, values: impl Iterator<Item = &'a str>, more: usize) -> &mut Text {
        let _ = write!(self.0, r#","{key}":["#);
        for (at, value) in values.enumerate() {
            if at > 0 {
                self.0.push(',');
            }
            self.quote(value);
        }
        self.0.push(']');
        if more > 0 {
            self.number("more", more);
        }
        self
    }

    /// A message; its beginning, if that is wanted.
    pub(super) fn message(&mut self, wanted: &Wanted, kind: Kind, data: &[u8]) -> &mut Text {
        self.text("kind", kind.as_str()).number("bytes", data.len());
        if !wanted.bodies {
            return self;
        }
        let cut = match (kind, std::str::from_utf8(&data[..data.len().min(TEXT + 4)])) {
            (Kind::Text, Ok(text)) => self.data(text),
            (Kind::Text, Err(e)) if e.error_len().is_none() => {
                // A character is cut in two.
                self.data(&String::from_utf8_lossy(&data[..e.valid_up_to()]))
            }
            _ => {
                let part = &data[..data.len().min(TEXT * 3 / 4)];
                let _ = write!(self.0, r#","data64":"{}""#, STANDARD.encode(part));
                part.len() < data.len()
            }
        };
        if cut || data.len() > TEXT + 4 {
            self.number("cut", true);
        }
        self
    }

    fn data(&mut self, text: &str) -> bool {
        self.0.push_str(r#","data":"#);
        self.quote(text)
    }

    /// Appends a text as JSON spells it; true if it was cut.
    fn quote(&mut self, text: &str) -> bool {
        self.0.push('"');
        let start = self.0.len();
        let mut cut = false;
        for c in text.chars() {
            let before = self.0.len();
            match c {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                '\r' => self.0.push_str("\\r"),
                '\t' => self.0.push_str("\\t"),
                // All of these are in the Basic Multilingual Plane.
                c if is_harmful(c) => drop(write!(self.0, "\\u{:04x}", u32::from(c))),
                c => self.0.push(c),
            }
            if self.0.len() - start > TEXT {
                self.0.truncate(before);
                cut = true;
                break;
            }
        }
        self.0.push('"');
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Channel;
    use serde_json::Value;

    fn watch(id: u64) -> Watch {
        Watch { id, wanted: Wanted { bodies: true, channel: Some("c".into()), ..Wanted::default() } }
    }

    fn say(tap: &Tap, data: &[u8], kind: Kind) {
        tap.keep(
            |_| true,
            |text, wanted| {
                text.name("message").message(wanted, kind, data).id("client", 7);
            },
        );
    }

    #[test]
    fn events_are_kept_from_the_first_question_on_and_are_bounded() {
        let tap = Tap::default();
        say(&tap, b"before", Kind::Text);
        assert!(!tap.is_on());
        let first = tap.ask(&watch(1), NodeId(9), false);
        assert!(tap.is_on() && first.events.is_empty() && first.new == 1);
        (0..MAX_EVENTS + 5).for_each(|_| say(&tap, b"x", Kind::Text));
        let seen = tap.ask(&watch(1), NodeId(9), false);
        assert_eq!((seen.events.len(), seen.lost, seen.new), (MAX_EVENTS, 5, 0));
        let event: Value = serde_json::from_str(&seen.events[0].text).unwrap();
        assert_eq!((&event["event"], &event["node"], &event["client"]), (&"message".into(), &"9".into(), &"7".into()));
        assert_eq!(event["at"].as_u64(), Some(seen.events[0].at / 1000));
        (2..=MAX_WATCHES as u64).for_each(|id| assert!(!tap.ask(&watch(id), NodeId(9), false).refused));
        assert!(tap.ask(&watch(99), NodeId(9), false).refused);
    }

    #[test]
    fn a_watcher_sees_publishes_from_its_beginning_on() {
        let tap = Tap::default();
        let published = |id| {
            let seen = tap.ask(&watch(id), NodeId(9), false);
            seen.events.iter().filter(|event| event.text.contains("published")).count()
        };
        assert_eq!(published(1), 0);
        publishes::note(Channel::parse(b"c").unwrap(), 1, None);
        assert_eq!((published(2), published(1)), (0, 1));
        publishes::note(Channel::parse(b"c").unwrap(), 1, None);
        assert_eq!((published(2), published(1)), (1, 1));
    }

    #[test]
    fn who_has_many_places_makes_way_for_who_has_few() {
        let tap = Tap::default();
        let is_let_in = |user: u64, number: u64| !tap.ask(&watch(user << 32 | number), NodeId(9), false).refused;
        assert!((1..=MAX_WATCHES as u64).all(|number| is_let_in(1, number)));
        assert!(!is_let_in(1, 99), "nobody has more than this user");
        assert!((1..=8).all(|number| is_let_in(2, number)), "half of the places");
        assert!(!is_let_in(2, 9) && !is_let_in(1, 1), "both have the same: nobody makes way");
        assert!((9..=16).all(|number| is_let_in(1, number)), "the oldest have made way");
        assert!(is_let_in(3, 1));
        let kept: Vec<u64> = tap.watching.borrow().iter().map(|watching| watching.id).collect();
        let want: Vec<u64> =
            (10..=16).map(|id| 1 << 32 | id).chain((1..=8).map(|id| 2 << 32 | id)).chain([3 << 32 | 1]).collect();
        assert_eq!(kept, want, "of two with the same, who has watched for longer");
    }

    #[test]
    fn whatever_clients_send_an_event_is_one_short_line_of_json() {
        let tap = Tap::default();
        tap.ask(&watch(1), NodeId(9), false);
        let long = "弹".repeat(5000);
        for (kind, data) in [
            (Kind::Text, b"a\"b\\c\n\r\t\x1b\x00\xc2\x85".to_vec()),
            (Kind::Text, vec![1; 5000]),
            (Kind::Text, long.as_bytes().to_vec()),
            (Kind::Text, [&b"xx"[..], long.as_bytes()].concat()),
            (Kind::Binary, vec![0xff; 5000]),
            (Kind::Binary, vec![0xff; 3]),
            (Kind::Text, vec![0xff; 3]),
        ] {
            say(&tap, &data, kind);
            let seen = tap.ask(&watch(1), NodeId(9), false);
            assert!(seen.is_valid() && seen.events[0].text.len() < 1400, "{seen:?}");
            let event: Value = serde_json::from_str(&seen.events[0].text).unwrap();
            assert_eq!(event["bytes"], data.len());
            assert_eq!(event["cut"] == true, data.len() == 5000 || data.len() > 10_000, "{event}");
            if let Some(text) = event["data"].as_str() {
                assert!(data.starts_with(text.as_bytes()));
            }
        }
    }
}
