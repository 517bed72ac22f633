//! A script asks who is in a channel. Workers and nodes answer one after the other: so a connection may be told that somebody went before
//! there is the whole answer, which still has them. What this worker's connections were told since the question began is newer than the
//! answer, and is put to it.

use std::rc::Rc;

use super::Shard;
use super::meanwhile::Change;
use crate::hub::{Answer, Moved, Present, Publication};
use crate::ids::ClientId;
use crate::message::Channel;

/// Why there is no answer.
const TOO_MANY: &str = "more than 16384 connections came and went while it was asked who is in the channel; ask again";

impl Shard {
    /// A script asks who is in a channel, from now on until what is returned is dropped. None: the channel is not told who comes
    /// and goes.
    pub fn ask_who_is_in(self: &Rc<Shard>, channel: &Channel) -> Option<Asking> {
        self.topics.borrow().rule_of(channel.as_str()).filter(|rule| rule.join_leave)?;
        let begun = self.meanwhile.borrow_mut().begin(channel);
        Some(Asking { shard: self.clone(), channel: channel.clone(), begun })
    }

    /// Connections of this worker have been told that one came or went.
    pub(super) fn told_move(&self, publication: &Publication, moved: Moved) {
        self.meanwhile.borrow_mut().add(publication, moved);
    }
}

/// A question who is in a channel, which is under way.
pub struct Asking {
    shard: Rc<Shard>,
    channel: Channel,
    begun: u64,
}

impl Asking {
    /// Puts to an answer, which is a page behind `after` of at most `limit` entries, what connections were told since the question began.
    /// `node_of` knows the nodes of clients. To be called when the answer is given, with no wait between. Gives where the
    /// page ends, if there is more. Err: what was told is not known any more.
    pub fn bring_up_to_date(
        self,
        answer: &mut Answer,
        (after, limit): (u64, usize),
        node_of: impl Fn(ClientId) -> Option<u64>,
    ) -> Result<Option<u64>, String> {
        let changes = self.shard.meanwhile.borrow().since(&self.channel, self.begun).ok_or(TOO_MANY)?;
        // The next page begins there, even if the last one on this page has gone.
        let mut end = answer.end();
        for (client, change) in changes {
            let number = client.get();
            let place = answer.clients.binary_search_by_key(&number, |present| present.client);
            match (place, change) {
                (Ok(at), Change::Went) => {
                    answer.clients.remove(at);
                    answer.count = answer.count.saturating_sub(1);
                }
                (Ok(at), Change::Came { info }) => answer.clients[at].info = info,
                // Those behind the page are on the next one, if they are there then.
                (Err(at), Change::Came { info }) if number > after && end.is_none_or(|end| number < end) => {
                    let Some(node) = node_of(client) else { continue };
                    answer.clients.insert(at, Present { client: number, node, info });
                    answer.count += 1;
                }
                (Err(_), _) => {}
            }
        }
        if answer.clients.len() > limit {
            answer.page(limit);
            end = answer.end();
        }
        Ok(end)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.shard.meanwhile.borrow_mut().end(&self.channel, self.begun);
    }
}

#[cfg(test)]
mod tests {
    use super::super::meanwhile::MOST;
    use super::*;
    use crate::config::ChannelRule;
    use crate::hub::{Except, Hub, PublishOptions};
    use crate::ids::{NodeNumber, WorkerId};
    use crate::message::Message;
    use std::sync::Arc;

    fn client(n: u64) -> ClientId {
        ClientId::new(n).unwrap()
    }

    fn shard() -> Rc<Shard> {
        let shard = Shard::new(WorkerId(0), Arc::new(Hub::new(NodeNumber::new(1).unwrap(), 1)));
        shard.set_rules(&[ChannelRule { join_leave: true, ..ChannelRule::of("c") }]);
        Rc::new(shard)
    }

    fn tell(shard: &Shard, channel: &str, n: u64, came: Option<&str>) {
        let options = PublishOptions { except: Except::new([client(n)]), ..PublishOptions::default() };
        let channel = Channel::parse(channel.as_bytes()).unwrap();
        let publication = Publication::new(channel, Message::text(came.unwrap_or_default())).with(options);
        shard.told_move(&publication, if came.is_some() { Moved::Came } else { Moved::Went });
    }

    fn ask(shard: &Rc<Shard>) -> Asking {
        shard.ask_who_is_in(&Channel::parse(b"c:1").unwrap()).unwrap()
    }

    fn answer(clients: impl IntoIterator<Item = u64>, more: bool) -> Answer {
        let clients: Vec<Present> = clients.into_iter().map(|client| Present { client, node: 1, info: None }).collect();
        Answer { count: clients.len() as u64, clients, more, ..Answer::default() }
    }

    /// The ids of a page that is brought up to date, how many there are, and where the next one begins.
    fn page(asking: Asking, mut answer: Answer, after: u64, limit: usize) -> (Vec<u64>, u64, Option<u64>) {
        let end = asking.bring_up_to_date(&mut answer, (after, limit), |_| Some(1)).unwrap();
        (answer.clients.iter().map(|present| present.client).collect(), answer.count, end)
    }

    #[test]
    fn what_was_told_meanwhile_is_put_to_an_answer() {
        let (shard, join) = (shard(), Some("{}"));
        tell(&shard, "c:1", 1, None);
        let asking = ask(&shard);
        tell(&shard, "c:1", 2, None);
        tell(&shard, "c:2", 3, None);
        tell(&shard, "c:1", 5, join);
        // One that came again is there, and one that came and went is not.
        for (n, came) in [(4, None), (4, join), (6, join), (6, None)] {
            tell(&shard, "c:1", n, came);
        }
        assert_eq!(page(asking, answer(1..=4, false), 0, 100), (vec![1, 3, 4, 5], 4, None));
        // Nobody asks: nothing is remembered.
        assert!(shard.meanwhile.borrow().is_at_rest());
        assert!(shard.ask_who_is_in(&Channel::parse(b"other").unwrap()).is_none());
    }

    #[test]
    fn pages_stay_pages() {
        let (shard, join) = (shard(), Some("{}"));
        let [first, middle, full, empty] = [(); 4].map(|()| ask(&shard));
        for n in [2, 4, 6, 9] {
            tell(&shard, "c:1", n, join);
        }
        tell(&shard, "c:1", 5, None);
        // Who is behind the page is on the next one.
        assert_eq!(page(first, answer([1, 3, 5], true), 0, 100), (vec![1, 2, 3, 4], 4, Some(5)));
        assert_eq!(page(middle, answer([7, 8], false), 5, 100), (vec![6, 7, 8, 9], 4, None));
        assert_eq!(page(full, answer([1, 3, 7], true), 0, 3), (vec![1, 2, 3], 6, Some(3)));
        assert_eq!(page(empty, answer([5], true), 4, 100), (vec![], 0, Some(5)));
    }

    #[test]
    fn what_a_script_told_is_found_in_an_envelope_too() {
        let shard = shard();
        let told = r#"{"event":"@join","data":{"c":"7","i":{"name":"\"Ann\""}}}"#;
        let envelope = serde_json::json!({"c": "c:1", "d": told}).to_string();
        for (text, want) in
            [(told, Some(r#"{"name":"\"Ann\""}"#)), (&envelope, Some(r#"{"name":"\"Ann\""}"#)), ("{}", None)]
        {
            let asking = ask(&shard);
            tell(&shard, "c:1", 7, Some(text));
            let mut answer = answer([], false);
            asking.bring_up_to_date(&mut answer, (0, 100), |_| Some(5)).unwrap();
            let want = Present { client: 7, node: 5, info: want.map(str::to_owned) };
            assert_eq!((answer.clients, answer.count), (vec![want], 1));
        }
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let shard = shard();
        let (early, mut late) = (ask(&shard), None);
        for n in 1..=MOST as u64 + 1 {
            if n == 2 {
                late = Some(ask(&shard));
            }
            tell(&shard, "c:1", n, None);
        }
        let refused = early.bring_up_to_date(&mut Answer::default(), (0, 100), |_| None);
        assert!(refused.unwrap_err().contains("ask again"));
        assert_eq!(page(late.unwrap(), answer([1, 2, MOST as u64 + 1], false), 0, 100), (vec![1], 1, None));
        assert!(shard.meanwhile.borrow().is_at_rest());
    }
}
