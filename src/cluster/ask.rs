//! Asking workers and nodes what they know of clients and channels. Two stages, as of all that goes to workers: who has an
//! [`Asked`] knows that the question comes behind what was enqueued before; awaiting it gives the answers, put together.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

use super::enqueue::{Remote, put};
use super::link::Request;
use super::protocol::{self, Asking};
use super::unanswered::Place;
use super::{Behind, Mesh};
use crate::hub::{Answer, Delivery, Hub, Question, WorkerSet};
use crate::ids::{ClientId, NodeId, WorkerId};
use crate::message::Channel;

/// A question that the mailboxes have. A worker that is stuck is not waited for, and its part is missing; a node that does not
/// answer is counted.
pub struct Asked {
    hub: Arc<Hub>,
    parts: Vec<Part>,
    limit: usize,
    answer: Answer,
}

/// Who has not answered yet.
struct Part {
    /// None: it is a node.
    worker: Option<WorkerId>,
    answer: oneshot::Receiver<Answer>,
    place: Place,
}

impl Part {
    fn new(worker: Option<WorkerId>) -> (oneshot::Sender<Answer>, Part) {
        let (to, answer) = oneshot::channel();
        (to, Part { worker, answer, place: Place::default() })
    }
}

impl Future for Asked {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let Asked { hub, parts, limit, answer } = &mut *self;
        parts.retain_mut(|Part { worker, answer: part, place }| {
            let come = Pin::new(part).poll(cx).map(Result::ok);
            let lost = || worker.is_some_and(|worker| hub.mailbox(worker).is_stuck()).then_some(None);
            match place.wait(come, lost, cx) {
                Poll::Ready(Some(come)) => answer.add(come, *limit),
                Poll::Ready(None) => answer.unanswered += u64::from(worker.is_none()),
                Poll::Pending => return true,
            }
            false
        });
        if parts.is_empty() { Poll::Ready(std::mem::take(answer)) } else { Poll::Pending }
    }
}

impl Mesh {
    /// Asks all that know of it, on all nodes; none of them before what it must stay `behind`.
    pub fn ask(&self, question: Question, behind: Behind) -> impl Future<Output = Asked> + Send + use<> {
        let all = || self.others.iter().flat_map(|others| others.all_links()).collect();
        let mut others = match (&question, question.client(), &self.others) {
            (_, _, None) => Remote::default(),
            (_, Some(client), _) => self.other_of(client),
            (Question::Presence { channel, .. }, _, Some(_)) => self.others_of(channel),
            (Question::Publish(id), _, Some(others)) => Remote::new(others.owner_of(id).into_iter().collect(), others),
            (_, None, Some(others)) => Remote::new(all(), others),
        };
        let mut here = self.knowing(&question);
        match (&question, question.client()) {
            (_, Some(_)) if !others.is_nobody() => here = WorkerSet::default(),
            (_, Some(_)) | (Question::Figures | Question::Places(_) | Question::Publish(_), None) => {}
            (_, None) => {
                behind.workers.iter().for_each(|worker| here.add(worker));
                if let Some(shared) = self.others.as_ref().filter(|_| !behind.others.is_empty()) {
                    others.add(behind.others, shared);
                }
            }
        }
        let missed = match question.client() {
            Some(_) => 0,
            None => self.others.as_ref().map_or(0, |others| others.missed() as u64),
        };
        let here = self.ask_workers(question.clone(), here);
        async move {
            let mut asked = here.await;
            asked.answer.unanswered += missed;
            if !others.is_nobody() {
                let message = match (&question, Asking::of(&question)) {
                    (_, Some(asking)) => protocol::Message::Ask { asking },
                    (Question::Publish(id), None) => protocol::Message::Remember { id },
                    (_, None) => protocol::Message::Figures,
                };
                let message = message.to_bytes();
                let parts = &mut asked.parts;
                let request = || {
                    let (to, part) = Part::new(None);
                    parts.push(part);
                    Some(Request::Answer(to))
                };
                Box::pin(others.put(&message, request)).await;
            }
            asked
        }
    }

    /// The id of the node that has a client; None: it can't be reached from here.
    pub fn node_of(&self, client: ClientId) -> Option<NodeId> {
        let number = client.node()?;
        if number == self.hub.node() {
            return Some(self.node);
        }
        let links = self.others.as_ref()?.links_of_number(number.get());
        links.first().map(|link| NodeId(link.peer.0))
    }

    /// Whether there are other nodes, which may have taken places, too.
    pub fn has_peers(&self) -> bool {
        self.others.as_ref().is_some_and(|others| !others.all_links().is_empty())
    }

    /// The first of these channels that has more connections on all nodes than its bound, those that have only reserved a
    /// place among them. A node that does not answer does not count.
    pub fn find_full(
        &self,
        channels: &[(Channel, usize)],
    ) -> impl Future<Output = Option<(Channel, usize)>> + Send + use<> {
        let ask = |(channel, most): &(Channel, usize)| {
            (channel.clone(), *most, self.ask(Question::Places(channel.clone()), Behind::default()))
        };
        let asked: Vec<_> = if self.has_peers() { channels.iter().map(ask).collect() } else { Vec::new() };
        async move {
            for (channel, most, asked) in asked {
                if asked.await.await.count > most as u64 {
                    return Some((channel, most));
                }
            }
            None
        }
    }

    /// Asks on this node alone, for another one that asks.
    pub(super) fn ask_here(&self, question: Question) -> impl Future<Output = Asked> + Send + use<> {
        let here = self.knowing(&question);
        self.ask_workers(question, here)
    }

    /// The workers that know of it.
    fn knowing(&self, question: &Question) -> WorkerSet {
        let mut workers = WorkerSet::default();
        match (question, question.client()) {
            (_, Some(client)) => workers.add(self.hub.worker_of(client)),
            (Question::Presence { channel, .. }, None) => return self.hub.workers_of(channel.as_str()),
            (Question::Figures | Question::Places(_) | Question::Publish(_), None) => {}
            (_, None) => (0..self.hub.workers()).for_each(|at| workers.add(WorkerId(at as u16))),
        }
        workers
    }

    fn ask_workers(&self, question: Question, workers: WorkerSet) -> impl Future<Output = Asked> + Send + use<> {
        let (hub, limit, node) = (self.hub.clone(), question.limit(), self.node);
        let mut answer = Answer::default();
        if question == Question::Figures {
            answer.nodes.extend(self.figures.get().map(|figures| figures()));
        }
        async move {
            let (question, mut parts) = (Arc::new(question), Vec::new());
            for worker in workers.iter() {
                let (to, part) = Part::new(Some(worker));
                if put(hub.mailbox(worker), Delivery::Ask(question.clone(), node, to)).await {
                    parts.push(part);
                }
            }
            if let Question::Places(channel) = &*question {
                answer.count = hub.rooms().here(channel) as u64;
            }
            Asked { hub, parts, limit, answer }
        }
    }
}
