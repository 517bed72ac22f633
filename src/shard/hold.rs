//! A worker that holds still, so that a successor process can take its connections: nothing new is begun, and at last nothing
//! is written either. The worker's tasks ask here before they begin something.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::hub::topics::Member;

/// How still a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Held {
    /// It serves.
    #[default]
    No,
    /// No handler starts, and nothing is read. What has begun goes on, and what waits is written.
    Quiet,
    /// The same, and the waits of handlers end.
    Cut,
    /// Nothing is written any more: every connection that has nothing under way is offered to the successor.
    Offered,
    /// The successor has those that were offered, and they leave here.
    Moved,
    /// They have left. Connections that stay end here.
    Left,
    /// In a successor: connections arrive, and nothing is done with them yet.
    Arriving,
}

/// What a connection is to a successor: its socket, which stays open here, and everything else.
pub struct Offer {
    /// The socket.
    pub socket: RawFd,
    /// The rest, as its task has written it. The keys of TLS are in it.
    pub bytes: Zeroizing<Vec<u8>>,
}

/// Whether a worker holds still, and what it offers.
#[derive(Default)]
pub struct Hold {
    held: Cell<Held>,
    /// When it began to hold still.
    began: Cell<Option<Instant>>,
    changed: Notify,
    /// Calls of back ends that have begun and are not answered.
    calls: Cell<usize>,
    /// Connections that open.
    opening: Cell<usize>,
    /// Other things that are under way.
    others: Cell<usize>,
    /// The mailbox is empty, and everything is written that could be.
    pub delivered: Cell<bool>,
    /// By slot.
    clients: RefCell<BTreeMap<Member, Offer>>,
    /// Connections of back ends that are between two calls.
    callers: RefCell<Vec<Offer>>,
}

impl Hold {
    /// That of a successor: it holds still until it is told otherwise.
    pub fn arriving() -> Hold {
        Hold { held: Cell::new(Held::Arriving), ..Hold::default() }
    }

    fn counter(&self, what: UnderWay) -> &Cell<usize> {
        match what {
            UnderWay::Call => &self.calls,
            UnderWay::Opening => &self.opening,
            UnderWay::Other => &self.others,
        }
    }

    /// How many of those are under way.
    pub fn under_way(&self, what: UnderWay) -> usize {
        self.counter(what).get()
    }

    /// It begins to hold still, if it does not yet.
    pub fn begin(&self) {
        self.began.set(Some(self.began.get().unwrap_or_else(Instant::now)));
    }

    /// How long it has been holding still.
    pub fn since(&self) -> Duration {
        self.began.get().map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// How still it holds.
    pub fn held(&self) -> Held {
        self.held.get()
    }

    /// Whether nothing new may begin.
    pub fn is_on(&self) -> bool {
        self.held.get() != Held::No
    }

    /// Whether the waits of handlers end.
    pub fn cuts(&self) -> bool {
        self.held.get() == Held::Cut
    }

    /// Whether nothing may be written to clients.
    pub fn is_silent(&self) -> bool {
        matches!(self.held.get(), Held::Offered | Held::Moved | Held::Arriving)
    }

    /// Holds so still from now on. Tasks that wait in [`Hold::changed`] go on; connections have to be woken.
    pub fn set(&self, held: Held) {
        if held == Held::No {
            self.clients.take();
            self.callers.take();
            self.began.take();
        }
        self.held.set(held);
        self.changed.notify_waiters();
    }

    /// Waits until that changes.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until something new may begin.
    pub async fn lifted(&self) {
        while self.is_on() {
            self.changed().await;
        }
    }

    /// Waits until it is known who serves. False: the successor does.
    pub async fn settled(&self) -> bool {
        loop {
            match self.held() {
                Held::No => return true,
                Held::Left => return false,
                _ => self.changed().await,
            }
        }
    }

    /// Waits until something may be written.
    pub async fn may_write(&self) {
        while self.is_silent() {
            self.changed().await;
        }
    }

    /// Waits until the waits of handlers end.
    pub async fn cut(&self) {
        while !self.cuts() {
            self.changed().await;
        }
    }

    /// Offers a client's connection, once.
    pub fn offer(&self, slot: Member, offer: impl FnOnce() -> Offer) {
        self.clients.borrow_mut().entry(slot).or_insert_with(offer);
    }

    /// Offers a caller's connection.
    pub fn offer_caller(&self, offer: Offer) {
        self.callers.borrow_mut().push(offer);
    }

    /// Whether that client's connection has been offered.
    pub fn has_offered(&self, slot: Member) -> bool {
        self.clients.borrow().contains_key(&slot)
    }

    /// The slots of all clients that have been offered.
    pub fn slots(&self) -> Vec<Member> {
        self.clients.borrow().keys().copied().collect()
    }

    /// How many have been offered.
    pub fn offered(&self) -> usize {
        self.clients.borrow().len() + self.callers.borrow().len()
    }

    /// The sockets and the rest of all clients that have been offered, and of all callers. It is still known who was.
    pub fn take_offers(&self) -> [Vec<Offer>; 2] {
        let taken = |offer: &mut Offer| Offer { socket: offer.socket, bytes: std::mem::take(&mut offer.bytes) };
        let clients = self.clients.borrow_mut().values_mut().map(taken).collect();
        [clients, self.callers.borrow_mut().iter_mut().map(taken).collect()]
    }
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderWay {
    /// A call of a back end.
    Call,
    /// A client's connection, from the accepted socket on until it is open.
    Opening,
    /// What a script does with a handshake, or what a consumer of a queue has not taken yet: it may stay behind.
    Other,
}

/// One more thing is under way, for as long as this lives.
pub struct Counted {
    hold: Rc<Hold>,
    what: UnderWay,
}

impl Counted {
    /// One more of those.
    pub fn new(hold: &Rc<Hold>, what: UnderWay) -> Counted {
        let counter = hold.counter(what);
        counter.set(counter.get() + 1);
        Counted { hold: hold.clone(), what }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counter = self.hold.counter(self.what);
        counter.set(counter.get() - 1);
    }
}
