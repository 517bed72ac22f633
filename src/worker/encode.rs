//! What a message is for the connections of socket servers: their scripts' `protocol_encode`.

use std::rc::Rc;

use super::Worker;
use super::session::report;
use crate::message::Message;
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::vm::{Failure, Hook, Returned, Started};
use crate::shard::conn::Conn;
use crate::shard::deliver::Encode;
use crate::shard::outbox::Frame;

impl Encode for Worker {
    fn encode(&self, message: &Message, conns: &[Rc<Conn>], each: &mut dyn FnMut(&Rc<Conn>, Option<Frame>)) {
        // Of servers whose scripts encode for all at once: once a publication.
        let mut shared: Vec<(usize, Option<Frame>)> = Vec::new();
        let mut failed = false;
        let mut tell = |failure: &Failure, conn: &Conn| {
            // A publication to thousands fails for thousands: one line tells of all.
            if !std::mem::replace(&mut failed, true) {
                report(Hook::Encode, failure, conn);
            }
        };
        for conn in conns {
            let server = conn.served.index;
            let frame = match shared.iter().find(|(of, _)| *of == server) {
                Some((_, frame)) => frame.clone(),
                None => {
                    let for_all = self.vm(server).encode_shared;
                    let frame = self.encode_one(message, conn, for_all).map_err(|e| tell(&e, conn)).ok();
                    if for_all {
                        shared.push((server, frame.clone()));
                    }
                    frame
                }
            };
            each(conn, frame);
        }
    }
}

impl Worker {
    fn encode_one(&self, message: &Message, conn: &Conn, for_all: bool) -> Result<Frame, Failure> {
        let this = (!for_all).then(|| ConnRef::of(conn));
        let budget = conn.served.limits.get().handler_timeout;
        let vm = self.vm(conn.served.index);
        match vm.start(Hook::Encode, this, HookArgs::bytes(message.data()), budget) {
            Started::Done(Ok(Returned::Bytes(frame))) => Ok(frame),
            Started::Done(Err(failure)) => Err(failure),
            // It can neither wait nor return anything else.
            Started::Done(Ok(_)) | Started::Suspended(_) => Err(Failure::new("protocol_encode gave no bytes")),
        }
    }
}
