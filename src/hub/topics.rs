//! One worker's channels and their members, in both directions: a topic's members for fan-out, a member's topics for
//! its end. One function links and one unlinks, so the two directions always agree; both take constant time. Knows no
//! sockets: a member is the number of a slot.

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::Arc;

use super::channel::{Joined, Left};
use crate::config::{ChannelRule, Rules};
use crate::message::Channel;

/// A connection's slot in its worker.
pub type Member = u32;
/// A topic's slot.
type TopicKey = u32;

/// A list of up to four in place, no larger than a `Vec`: most connections are in few channels, and most channels have
/// few members.
type List<T> = SmallVec<[T; 4]>;

struct Topic {
    channel: Channel,
    members: List<Member>,
    /// What holds for the channel, if anything does.
    rule: Option<Arc<ChannelRule>>,
}

impl Topic {
    /// Whether it is told who is in it.
    fn has_presence(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.presence)
    }
}

/// A member has left a channel that has a rule.
pub struct Departure {
    /// The channel.
    pub channel: Channel,
    /// Its rule.
    pub rule: Arc<ChannelRule>,
    /// What was told of the member there, as JSON.
    pub info: Option<Arc<str>>,
}

/// Where a link stands in its two lists, so that it can be taken out of both without a search.
#[derive(Clone, Copy)]
struct Link {
    in_topic: u32,
    in_member: u32,
}

/// A worker's subscriptions.
#[derive(Default)]
pub struct Topics {
    by_name: HashMap<Channel, TopicKey, RandomState>,
    topics: Slab<Topic>,
    /// Indexed by member; an unused slot is an empty list.
    by_member: Vec<List<TopicKey>>,
    links: HashMap<(Member, TopicKey), Link, RandomState>,
    /// What is told of members in channels whose rule says `presence`, as JSON.
    infos: HashMap<(Member, TopicKey), Arc<str>, RandomState>,
    /// The members of a topic that get nothing of it yet, each with the ticket of what it waits for.
    muted: HashMap<TopicKey, Muted, RandomState>,
    rules: Arc<Rules>,
    departures: Vec<Departure>,
}

/// Members that get nothing of a topic yet.
pub type Muted = HashMap<Member, u64, RandomState>;

impl Topics {
    /// Puts a member into a channel.
    pub fn insert(&mut self, member: Member, channel: &Channel) -> Joined {
        let (key, joined) = match self.by_name.get(channel) {
            Some(&key) if self.links.contains_key(&(member, key)) => return Joined::Already,
            Some(&key) => (key, Joined::Added),
            None => {
                let topic = Topic {
                    channel: channel.clone(),
                    members: List::new(),
                    rule: self.rules.of(channel.as_str()).cloned(),
                };
                let key = self.topics.insert(topic) as TopicKey;
                self.by_name.insert(channel.clone(), key);
                (key, Joined::First)
            }
        };
        self.link(member, key);
        joined
    }

    /// Takes a member out of a channel.
    pub fn remove(&mut self, member: Member, channel: &str) -> Left {
        match self.by_name.get(channel) {
            Some(&key) if self.links.contains_key(&(member, key)) => self.unlink(member, key),
            _ => Left::Absent,
        }
    }

    /// Takes a member out of its channels, at most `most` of them at a time. Returns the channels that became empty,
    /// and whether the member is out of all channels.
    pub fn remove_member(&mut self, member: Member, most: usize) -> (Vec<Channel>, bool) {
        let mut gone = Vec::new();
        for _ in 0..most {
            let Some(&key) = self.by_member.get(member as usize).and_then(|topics| topics.last()) else { break };
            let channel = self.topics[key as usize].channel.clone();
            if self.unlink(member, key) == Left::Last {
                gone.push(channel);
            }
        }
        (gone, self.count_of(member) == 0)
    }

    /// These rules hold from now on. `changed` is told of each channel whose rule is another now: how many members it has, its
    /// rule before, and its rule.
    pub fn set_rules(
        &mut self,
        rules: Arc<Rules>,
        mut changed: impl FnMut(&Channel, usize, Option<&ChannelRule>, Option<&Arc<ChannelRule>>),
    ) {
        for (_, Topic { channel, members, rule }) in &mut self.topics {
            let before = std::mem::replace(rule, rules.of(channel.as_str()).cloned());
            if before != *rule {
                changed(channel, members.len(), before.as_deref(), rule.as_ref());
            }
        }
        self.rules = rules;
        let Topics { infos, topics, .. } = self;
        infos.retain(|(_, key), _| topics[*key as usize].has_presence());
    }

    /// What is told of a member in a channel from now on; kept where the channel's rule says `presence`.
    pub fn set_info(&mut self, member: Member, channel: &str, info: &Arc<str>) {
        if let Some(&key) = self.by_name.get(channel)
            && self.topics[key as usize].has_presence()
            && self.links.contains_key(&(member, key))
        {
            self.infos.insert((member, key), info.clone());
        }
    }

    /// What is told of a member in a channel.
    pub fn info(&self, member: Member, channel: &str) -> Option<&str> {
        if self.infos.is_empty() {
            return None;
        }
        self.infos.get(&(member, *self.by_name.get(channel)?)).map(|info| &**info)
    }

    /// The channels that have members, in no particular order, and how many each has.
    pub fn crowds(&self) -> impl Iterator<Item = (&str, usize)> {
        self.topics.iter().map(|(_, topic)| (topic.channel.as_str(), topic.members.len()))
    }

    /// The rules in force.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The rule of a channel, whether it has members or not.
    pub fn rule_of(&self, channel: &str) -> Option<&Arc<ChannelRule>> {
        match self.by_name.get(channel) {
            Some(&key) => self.topics[key as usize].rule.as_ref(),
            None => self.rules.of(channel),
        }
    }

    /// What has left channels with rules since the last call.
    pub fn departures(&mut self) -> Vec<Departure> {
        std::mem::take(&mut self.departures)
    }

    /// Who is in a channel, in no particular order.
    pub fn members(&self, channel: &str) -> &[Member] {
        self.by_name.get(channel).map_or(&[], |&key| &self.topics[key as usize].members)
    }

    /// Who is in a channel, those among them that get nothing of it yet, and the channel's rule.
    pub fn audience(&self, channel: &str) -> (&[Member], Option<&Muted>, Option<&ChannelRule>) {
        let Some(key) = self.by_name.get(channel) else { return (&[], None, None) };
        let muted = if self.muted.is_empty() { None } else { self.muted.get(key) };
        let topic = &self.topics[*key as usize];
        (&topic.members, muted, topic.rule.as_deref())
    }

    /// A member gets nothing of a channel that it is in, until [`Topics::unmute`] is called with that ticket.
    pub fn mute(&mut self, member: Member, channel: &str, ticket: u64) {
        if let Some(&key) = self.by_name.get(channel).filter(|&&key| self.links.contains_key(&(member, key))) {
            self.muted.entry(key).or_default().insert(member, ticket);
        }
    }

    /// A member gets what comes for a channel from now on. False: it does not wait with that ticket.
    pub fn unmute(&mut self, member: Member, channel: &str, ticket: u64) -> bool {
        let Some(&key) = self.by_name.get(channel) else { return false };
        let waits = self.muted.get(&key).is_some_and(|muted| muted.get(&member) == Some(&ticket));
        if waits {
            self.forget_muted(member, key);
        }
        waits
    }

    fn forget_muted(&mut self, member: Member, key: TopicKey) {
        let Some(muted) = self.muted.get_mut(&key) else { return };
        muted.remove(&member);
        if muted.is_empty() {
            self.muted.remove(&key);
        }
    }

    /// Whether a member is in a channel.
    pub fn contains(&self, member: Member, channel: &str) -> bool {
        self.by_name.get(channel).is_some_and(|&key| self.links.contains_key(&(member, key)))
    }

    /// The channels that a member is in.
    pub fn channels_of(&self, member: Member) -> impl Iterator<Item = &Channel> {
        let keys = self.by_member.get(member as usize).map_or(&[][..], List::as_slice);
        keys.iter().map(|&key| &self.topics[key as usize].channel)
    }

    /// How many channels a member is in.
    pub fn count_of(&self, member: Member) -> usize {
        self.by_member.get(member as usize).map_or(0, List::len)
    }

    /// How many channels have members.
    pub fn channels(&self) -> usize {
        self.topics.len()
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.links.len()
    }

    fn link(&mut self, member: Member, key: TopicKey) {
        let slot = member as usize;
        if self.by_member.len() <= slot {
            self.by_member.resize_with(slot + 1, List::new);
        }
        let (members, topics) = (&mut self.topics[key as usize].members, &mut self.by_member[slot]);
        let link = Link { in_topic: members.len() as u32, in_member: topics.len() as u32 };
        members.push(member);
        topics.push(key);
        self.links.insert((member, key), link);
    }

    fn unlink(&mut self, member: Member, key: TopicKey) -> Left {
        let Some(link) = self.links.remove(&(member, key)) else { return Left::Absent };
        let info = if self.infos.is_empty() { None } else { self.infos.remove(&(member, key)) };
        if !self.muted.is_empty() {
            self.forget_muted(member, key);
        }
        let topic = &mut self.topics[key as usize];
        if let Some(rule) = &topic.rule {
            self.departures.push(Departure { channel: topic.channel.clone(), rule: rule.clone(), info });
        }
        topic.members.swap_remove(link.in_topic as usize);
        if let Some(&moved) = topic.members.get(link.in_topic as usize)
            && let Some(other) = self.links.get_mut(&(moved, key))
        {
            other.in_topic = link.in_topic;
        }
        let topics = &mut self.by_member[member as usize];
        topics.swap_remove(link.in_member as usize);
        if let Some(&moved) = topics.get(link.in_member as usize)
            && let Some(other) = self.links.get_mut(&(member, moved))
        {
            other.in_member = link.in_member;
        }
        if topics.is_empty() {
            *topics = List::new();
        }
        if self.topics[key as usize].members.is_empty() {
            let topic = self.topics.remove(key as usize);
            self.by_name.remove(&topic.channel);
            self.shrink();
            return Left::Last;
        }
        Left::Removed
    }

    /// Frees memory after a crowd has left.
    fn shrink(&mut self) {
        if self.topics.is_empty() {
            let (rules, departures) = (std::mem::take(&mut self.rules), std::mem::take(&mut self.departures));
            *self = Topics { rules, departures, ..Topics::default() };
        } else if self.by_name.capacity() > 1024 && self.by_name.len() < self.by_name.capacity() / 8 {
            self.by_name.shrink_to_fit();
            self.links.shrink_to_fit();
            self.topics.shrink_to_fit();
            self.infos.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn channel(n: u8) -> Channel {
        Channel::parse(format!("c{n}").as_bytes()).unwrap()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(Member, u8),
        Leave(Member, u8),
        End(Member),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u32, 0..6u8).prop_map(|(m, c)| Step::Join(m, c)),
            3 => (0..6u32, 0..6u8).prop_map(|(m, c)| Step::Leave(m, c)),
            1 => (0..6u32).prop_map(Step::End),
        ]
    }

    proptest! {
        /// The index against a map of sets.
        #[test]
        fn agrees_with_a_naive_model(steps in prop::collection::vec(step(), 0..200)) {
            let mut topics = Topics::default();
            let mut model: BTreeMap<u8, BTreeSet<Member>> = BTreeMap::new();
            for s in steps {
                match s {
                    Step::Join(m, c) => {
                        let set = model.entry(c).or_default();
                        let want = match (set.is_empty(), set.insert(m)) {
                            (true, _) => Joined::First,
                            (false, true) => Joined::Added,
                            (false, false) => Joined::Already,
                        };
                        prop_assert_eq!(topics.insert(m, &channel(c)), want);
                    }
                    Step::Leave(m, c) => {
                        let set = model.entry(c).or_default();
                        let want = match (set.remove(&m), set.is_empty()) {
                            (false, _) => Left::Absent,
                            (true, true) => Left::Last,
                            (true, false) => Left::Removed,
                        };
                        prop_assert_eq!(topics.remove(m, channel(c).as_str()), want);
                    }
                    Step::End(m) => {
                        let mut want = BTreeSet::new();
                        for (c, set) in &mut model {
                            if set.remove(&m) && set.is_empty() {
                                want.insert(channel(*c));
                            }
                        }
                        let mut gone = BTreeSet::new();
                        loop {
                            let (some, whole) = topics.remove_member(m, 2);
                            gone.extend(some);
                            if whole {
                                break;
                            }
                        }
                        prop_assert_eq!(gone, want);
                    }
                }
                model.retain(|_, set| !set.is_empty());
                prop_assert_eq!(topics.channels(), model.len());
                prop_assert_eq!(topics.subscriptions(), model.values().map(BTreeSet::len).sum::<usize>());
                for c in 0..6 {
                    let got: BTreeSet<_> = topics.members(channel(c).as_str()).iter().copied().collect();
                    prop_assert_eq!(got, model.get(&c).cloned().unwrap_or_default());
                }
                for m in 0..6 {
                    let got: BTreeSet<_> = topics.channels_of(m).cloned().collect();
                    let want: BTreeSet<_> =
                        model.iter().filter(|(_, s)| s.contains(&m)).map(|(c, _)| channel(*c)).collect();
                    for c in (0..6).map(channel) {
                        prop_assert_eq!(topics.contains(m, c.as_str()), want.contains(&c));
                    }
                    prop_assert_eq!(got, want);
                }
            }
        }
    }

    #[test]
    fn a_member_gets_nothing_until_its_own_ticket_comes() {
        let (mut topics, c) = (Topics::default(), channel(1));
        let muted = |topics: &Topics| topics.audience("c1").1.map_or(0, HashMap::len);
        topics.mute(1, "c1", 7);
        topics.insert(1, &c);
        topics.insert(2, &c);
        assert_eq!(muted(&topics), 0, "it was not in it");
        topics.mute(1, "c1", 7);
        topics.mute(1, "c1", 8);
        assert!(!topics.unmute(1, "c1", 7) && !topics.unmute(2, "c1", 8));
        assert_eq!((topics.audience("c1").0.len(), muted(&topics)), (2, 1));
        assert!(topics.unmute(1, "c1", 8) && !topics.unmute(1, "c1", 8));
        topics.mute(1, "c1", 9);
        topics.remove(1, "c1");
        assert!(topics.muted.is_empty());
    }

    #[test]
    fn a_list_is_no_larger_than_a_vec() {
        assert_eq!(size_of::<List<Member>>(), size_of::<Vec<Member>>());
    }

    #[test]
    fn nothing_is_left_when_all_have_gone() {
        let mut topics = Topics::default();
        for m in 0..1000 {
            for c in 0..10 {
                topics.insert(m, &channel(c));
            }
        }
        for m in 0..1000 {
            assert!(topics.remove_member(m, 10).1);
        }
        assert_eq!((topics.channels(), topics.subscriptions()), (0, 0));
        assert_eq!((topics.by_name.capacity(), topics.links.capacity(), topics.by_member.capacity()), (0, 0, 0));
    }
}
