//! What is kept of channels on its way to a successor process, and what this node is to them. Positions stay what they are: a
//! client that comes back finds its place there.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use super::log::Log;
use super::role::{Complete, Role};
use super::{Entry, History, Kept, LogCopy, Position, State, WorkerSet, lock};
use crate::handover::{Batch, Damaged, Decoder, Encoder};
use crate::message::{Channel, Counted, Kind, Message};

impl History {
    /// Writes all logs, the one that was used the longest ago first, and how far this node's connections are.
    pub fn save(&self, batch: &mut Batch<'_>) -> io::Result<()> {
        let mut entries: Vec<Arc<Entry>> = lock(&self.uses).order.values().cloned().collect();
        // Those of which there is no log are not in that order.
        let all: Vec<Arc<Entry>> = self.logs.iter().map(|entry| entry.value().clone()).collect();
        entries.extend(all.into_iter().filter(|entry| lock(&entry.state).used.is_none()));
        for entry in entries {
            let (copy, role, released) = {
                let state = lock(&entry.state);
                let is_used = !state.log.is_unused();
                if state.evicted || (!is_used && state.role.cursor.is_none()) {
                    continue;
                }
                (is_used.then(|| state.log.copy()), Role { asked: None, ..state.role }, state.released.clone())
            };
            batch.item(|out| {
                out.data(entry.channel.as_str().as_bytes());
                out.option(copy.as_ref(), |out, copy| write(copy, out));
                write_role(&role, out);
                out.count(released.len());
                released.iter().for_each(|run| out.u64(*run));
            })?;
        }
        Ok(())
    }

    /// Reads one of them.
    pub fn restore(&self, from: &mut Decoder<'_>) -> Result<(), Damaged> {
        let channel = Channel::parse(from.data()?).map_err(|_| Damaged("a channel's name"))?;
        let log = from.option(|from| Log::of(read(from)?).ok_or(Damaged("what a channel keeps")))?;
        let (log, role) = (log.unwrap_or_else(Log::unused), read_role(from)?);
        let released = from.list(Decoder::u64)?;
        // Terms that are given later are larger.
        self.terms.fetch_max(log.head().term, Relaxed);
        let behind = WorkerSet::default();
        let state = State { log, used: None, counted: 0, evicted: false, behind, role, released };
        let entry = Arc::new(Entry { channel: channel.clone(), state: Mutex::new(state) });
        if let Some(before) = self.logs.get(&channel).map(|entry| entry.value().clone()) {
            self.evict(&before, None);
        }
        self.logs.insert(channel, entry.clone());
        self.count(&entry, &mut lock(&entry.state), true);
        self.make_room_for(&entry);
        Ok(())
    }
}

fn write_role(role: &Role, out: &mut Encoder) {
    out.byte(role.leads.into());
    out.byte(role.complete as u8);
    for position in [role.cursor, role.beside] {
        out.option(position, |out, position| {
            out.u64(position.term);
            out.u64(position.offset);
        });
    }
    out.byte(role.ahead.into());
    for stream in [role.copied_to, role.copy_of] {
        out.option(stream, |out, (run, epoch)| {
            out.u64(run);
            out.u32(epoch);
        });
    }
}

fn read_role(from: &mut Decoder<'_>) -> Result<Role, Damaged> {
    let leads = from.flag()?;
    let complete = match from.byte()? {
        0 => Complete::No,
        1 => Complete::ForOthers,
        _ => Complete::Yes,
    };
    let position = |from: &mut Decoder<'_>| from.option(|from| Ok(Position { term: from.u64()?, offset: from.u64()? }));
    let (cursor, beside, ahead) = (position(from)?, position(from)?, from.flag()?);
    let stream = |from: &mut Decoder<'_>| from.option(|from| Ok((from.u64()?, from.u32()?)));
    let (copied_to, copy_of) = (stream(from)?, stream(from)?);
    Ok(Role { leads, complete, cursor, asked: None, copied_to, copy_of, beside, ahead })
}

fn write(copy: &LogCopy, out: &mut Encoder) {
    out.count(copy.terms.len());
    for (term, first) in &copy.terms {
        out.u64(*term);
        out.u64(*first);
    }
    out.u64(copy.head);
    out.count(copy.kept.len());
    for Kept { at, when, message } in &copy.kept {
        out.u64(at.term);
        out.u64(at.offset);
        out.u64(*when);
        out.byte((message.kind() == Kind::Binary).into());
        out.data(message.data());
        out.option(message.count(), Encoder::u64);
    }
}

fn read(from: &mut Decoder<'_>) -> Result<LogCopy, Damaged> {
    let terms = from.list(|from| Ok((from.u64()?, from.u64()?)))?;
    let head = from.u64()?;
    let kept = from.list(|from| {
        let at = Position { term: from.u64()?, offset: from.u64()? };
        let when = from.u64()?;
        let kind = if from.flag()? { Kind::Binary } else { Kind::Text };
        let message = Message::new(kind, bytes::Bytes::copy_from_slice(from.data()?));
        let message = message.map_err(|_| Damaged("a text"))?;
        Ok(Kept { at, when, message: Counted::new(message, from.option(Decoder::u64)?) })
    })?;
    Ok(LogCopy { terms, head, kept, complete: true })
}

#[cfg(test)]
mod tests {
    use super::super::{From, Most};
    use super::*;
    use crate::config::ChannelRule;
    use crate::handover::{Kind as Of, Link, items};

    /// Two nodes of a cluster with that rule.
    fn two(rule: &ChannelRule) -> (History, History) {
        let node = || {
            let history = History::default();
            history.set_rules(std::slice::from_ref(rule));
            history.share();
            history
        };
        (node(), node())
    }

    fn go_over(before: &History, after: &History) {
        let (mut one, mut end) = Link::pair().unwrap();
        let mut batch = Batch::new(&mut one, Of::History);
        before.save(&mut batch).unwrap();
        batch.finish().unwrap();
        items(&end.receive().unwrap().bytes, |from| after.restore(from)).unwrap();
    }

    #[test]
    fn what_is_kept_goes_over_with_its_positions() {
        let mut rule = ChannelRule::of("news");
        rule.history.size = 3;
        let (before, after) = (History::default(), History::default());
        [&before, &after].into_iter().for_each(|history| history.set_rules(std::slice::from_ref(&rule)));
        let channel = Channel::parse(b"news").unwrap();
        let publish = |history: &History, text: &str, now| {
            let message = Counted::new(Message::text(text), (text == "5").then_some(9));
            history.order((&channel, &rule), (message, 7, now), None, |placed, _| placed.at).unwrap()
        };
        let last = (1..=5).map(|n| publish(&before, &n.to_string(), n)).last().unwrap();
        go_over(&before, &after);
        assert_eq!(after.figures(), before.figures());
        let next = publish(&after, "6", 6);
        assert_eq!(next, Position { offset: last.offset + 1, ..last });
        let most = Most { messages: 10, bytes: 1000 };
        let since = From::Since(Position { offset: 4, ..last }, None);
        let read = after.read((&channel, &rule), (since, most), (7, 6), |at, kept| (at.recovered, kept));
        let (recovered, kept) = read.unwrap();
        let texts: Vec<_> = kept.iter().map(|kept| (kept.message.data(), kept.message.count())).collect();
        assert_eq!((recovered, texts), (true, vec![(&b"5"[..], Some(9)), (b"6", None)]));
    }

    /// The log of another one is still to be found, and what this node has missed, some connection has had.
    #[test]
    fn what_a_node_knows_of_another_one_that_has_led_goes_over() {
        let mut rule = ChannelRule { envelope: crate::config::Envelope::Json, ..ChannelRule::of("news") };
        rule.history.size = 3;
        let (before, after) = two(&rule);
        let channel = Channel::parse(b"news").unwrap();
        before.lead((&channel, &rule), Vec::new(), (7, 1), |_, _, _, _| {});
        let message = Counted::new(Message::text("1"), None);
        let at = before.order((&channel, &rule), (message, 7, 1), None, |placed, _| placed.at).unwrap();
        let (later, most) = (Position { term: at.term + 1, ..at }, Most { messages: 9, bytes: 999 });
        before.read((&channel, &rule), (From::Since(later, None), most), (7, 1), |_, _| {});
        before.read_for((&channel, &rule), (From::Last(0), most, false), (Some(later), 7, 1), |_| {});
        go_over(&before, &after);
        let role = |history: &History| lock(&history.logs.get(&channel).unwrap().state).role;
        assert_eq!((role(&before).beside, role(&before).ahead), (Some(later), true));
        assert_eq!((role(&after).beside, role(&after).ahead), (Some(later), true));
    }

    /// Otherwise it would not see that it misses something that comes meanwhile.
    #[test]
    fn how_far_the_connections_are_of_a_node_without_a_log_goes_over() {
        let mut rule = ChannelRule::of("news");
        rule.history.size = 3;
        let (before, after) = two(&rule);
        let channel = Channel::parse(b"news").unwrap();
        let at = Position { term: 1 << 40, offset: 5 };
        before.follow((&channel, &rule), (at, &[], (1, 1)), None, (7, 1, 1000), |_| true);
        go_over(&before, &after);
        assert_eq!((after.cursor(&channel), after.figures()), (Some(at), before.figures()));
    }
}
