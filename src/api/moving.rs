//! Callers' connections while a successor process takes over: no call begins meanwhile. One that is between two calls goes
//! over as it is; what can't go is answered here once the successor serves.

use std::os::fd::AsRawFd;
use tokio::io::AsyncWriteExt;
use tokio::select;

use super::answer::Answer;
use super::callers::Caller;
use super::error::ApiError;
use super::stage::Stage;
use super::state::Api;
use crate::handover::Encoder;
use crate::shard::hold::{Held, Offer};
use crate::shard::transport::Transport;

impl Api {
    /// Waits until the connection has to look up: the engine ends, or a successor is about to take over.
    pub(super) async fn interrupted(&self) {
        let mut stage = self.stage.clone();
        let _ = stage.wait_for(Stage::interrupts).await;
    }

    /// Waits while the worker holds still, with a connection that is between two calls. `read`: the bytes that have come and
    /// are no whole request. False: it ends here. The successor has it, or it could not go, and the caller has been told.
    pub(super) async fn hold_still(&self, socket: &mut Transport, read: &[u8], caller: Caller) -> bool {
        let (mut stage, mut is_offered) = (self.stage.clone(), false);
        loop {
            match self.hold.held() {
                Held::Offered if socket.may_move() && !caller.center && !is_offered => {
                    is_offered = true;
                    let mut out = Encoder::default();
                    out.data(read);
                    socket.offer(&mut out);
                    self.hold.offer_caller(Offer { socket: socket.as_raw_fd(), bytes: out.bytes.into() });
                }
                Held::Moved | Held::Left => {
                    if !is_offered && (!read.is_empty() || socket.unread() > 0) {
                        let mut answer = Answer::failure(&ApiError::Unavailable, None);
                        answer.ends = true;
                        let mut output = Vec::new();
                        answer.write_http(&httpdate::fmt_http_date(std::time::SystemTime::now()), &mut output);
                        let _ = socket.write_all(&output).await;
                    }
                    return false;
                }
                Held::No if *stage.borrow() != Stage::Moving => {
                    socket.keep();
                    return true;
                }
                _ => {}
            }
            select! {
                () = self.hold.changed() => {}
                _ = stage.changed() => {}
            }
        }
    }

    /// Waits until a call may begin. False: it may not any more, since a successor has taken over.
    pub(super) async fn may_call(&self) -> bool {
        if !self.hold.is_on() {
            return true;
        }
        let mut stage = self.stage.clone();
        loop {
            match self.hold.held() {
                Held::No => return true,
                Held::Moved | Held::Left => return false,
                _ => {}
            }
            select! {
                () = self.hold.changed() => {}
                _ = stage.changed() => {}
            }
        }
    }
}
