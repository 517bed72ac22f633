//! Encodes a message for connections of socket servers, with their scripts' `protocol_encode`.

use std::rc::Rc;

use super::Worker;
use super::failures::report;
use super::measure::Began;
use crate::message::Message;
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::vm::{Failure, Hook, Returned, Started};
use crate::shard::conn::Conn;
use crate::shard::encoding::{Encode, Encoded};
use crate::shard::outbox::Frame;

impl Encode for Worker {
    fn encode(&self, message: &Message, conn: &Rc<Conn>, encoded: &mut Encoded) -> Option<Frame> {
        let server = conn.served.index;
        if let Some((_, frame)) = encoded.shared.iter().find(|(of, _)| *of == server) {
            return frame.clone();
        }
        let for_all = self.vm(server).encode_shared;
        let frame = self.encode_one(message, conn, for_all).inspect_err(|failure| {
            // A publication to thousands may fail thousands of times: one line reports them all.
            if !std::mem::replace(&mut encoded.failed, true) {
                report(Hook::Encode, failure, conn, &self.shard);
            }
        });
        let frame = frame.ok();
        if for_all {
            encoded.shared.push((server, frame.clone()));
        }
        frame
    }
}

impl Worker {
    fn encode_one(&self, message: &Message, conn: &Conn, for_all: bool) -> Result<Frame, Failure> {
        let this = (!for_all).then(|| ConnRef::of(conn));
        let budget = conn.served.limits.get().handler_timeout;
        let vm = self.vm(conn.served.index);
        let began = Began::now(&vm, Hook::Encode);
        let result = match vm.start(Hook::Encode, this, HookArgs::bytes(message.data()), budget) {
            Started::Done(result) => result,
            // This hook can't wait.
            Started::Suspended(_) => Ok(Returned::Nothing),
        };
        began.ended(Hook::Encode, &result, conn);
        match result? {
            Returned::Bytes(frame) => Ok(frame),
            // This hook can't return anything else.
            _ => Err(Failure::new("protocol_encode gave no bytes")),
        }
    }
}
