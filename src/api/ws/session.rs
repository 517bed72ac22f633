//! One connection of the WebSocket API. It reads while there is room for more calls and answers. Calls are begun in the
//! order they came, many are under way, and their answers leave in that order, many in one write.

mod still;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, timeout};

use self::still::{Still, counted, still};
use super::access::Access;
use super::calls::Calls;
use super::request::{Call, Ready, Work};
use super::write_buffer::{FrameKind, WriteBuffer, write_event};
use crate::api::answer::Answer;
use crate::api::callers::Caller;
use crate::api::error::ApiError;
use crate::api::fields::invalid;
use crate::api::stage::Stage;
use crate::api::state::Api;
use crate::config::Config;
use crate::message::{CloseReason, close_code};
use crate::queue::Consumer;
use crate::shard::hold::Counted;
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::CallResult;
use crate::wire::frame;
use crate::wire::reader::{Event, Input, Reader};

/// The bytes that may wait for a back end. Above that, the connection is not read and gets no messages of a queue.
const MAX_WAITING: usize = 256 * 1024;
/// The size of the read buffer.
const READ_BUFFER: usize = 64 * 1024;
/// The bytes that the kernel may hold unsent for a consumer: they would be lost with the connection.
const UNSENT: usize = 64 * 1024;
/// The most writes in one event loop turn.
const WRITES: usize = 4;
/// How long an ending connection may take to answer the calls under way, and then to close its socket.
const LINGER: Duration = Duration::from_secs(2);
/// How often a connection without a time limit checks whether it has one now.
const UNLIMITED: Duration = Duration::from_secs(60);

/// Serves a connection to its end, starting with the bytes in `read`.
pub(in crate::api) async fn serve(api: Rc<Api>, socket: Transport, read: Vec<u8>, caller: Caller, access: Access) {
    // Answers are gathered here: the kernel is not to wait for more.
    socket.send_at_once();
    let (mut stage, mut reconfigured) = (api.stage.clone(), api.reconfigured.subscribe());
    let mut session = Session::new(api.clone(), socket, caller, access);
    // Changes since the upgrade request was checked are seen here, later ones by the loop below.
    session.state.check_access();
    if !read.is_empty() {
        let mut read = read;
        session.reader.keep(&mut Input::new(&mut read));
        session.kept = true;
    }
    let ended = loop {
        tokio::select! {
            biased;
            () = session.run() => break true,
            _ = stage.wait_for(Stage::is_draining) => break false,
            () = api.hold.changed() => {}
            // An idle connection checks its access too.
            Ok(()) = reconfigured.changed() => {}
        }
    };
    if !ended {
        session.run().await;
    }
    session.state.settle_rest();
    if session.state.closed {
        // The back end's last bytes are read, so that ours are not lost to a reset.
        let Session { state: State { mut socket, consumer, .. }, .. } = session;
        drop(consumer);
        let _ = timeout(LINGER, async {
            socket.shutdown().await?;
            tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
        })
        .await;
    }
}

/// How a connection's turn ended.
enum Turn {
    /// There is more to do; other tasks run first.
    More,
    Over,
}

struct Session {
    reader: Reader,
    /// The reader holds frames that found no room.
    kept: bool,
    state: State,
}

/// Everything but the reader, which lends the events that this handles.
struct State {
    api: Rc<Api>,
    socket: Transport,
    caller: Caller,
    access: Access,
    /// The configuration when access was last looked at.
    config: Arc<Config>,
    calls: Calls,
    out: WriteBuffer,
    /// An answer's text, while it is made.
    text: Vec<u8>,
    consumer: Option<Consumer>,
    /// The close frame that ends the connection once all calls are answered.
    ending: Option<Rc<[u8]>>,
    /// The close frame is among the bytes to be written.
    closed: bool,
    /// What the worker waits for while it holds still.
    counted: Option<Counted>,
    last_read: Instant,
    pinged: bool,
    /// Detects silence; once the connection ends, the end of its time.
    alarm: Pin<Box<Sleep>>,
}

impl Session {
    fn new(api: Rc<Api>, socket: Transport, caller: Caller, access: Access) -> Session {
        let config = api.config.load_full();
        let alarm = Box::pin(sleep(api.read_timeout().unwrap_or(UNLIMITED) / 2));
        let state = State {
            api,
            socket,
            caller,
            access,
            config,
            calls: Calls::default(),
            out: WriteBuffer::default(),
            text: Vec::new(),
            consumer: None,
            ending: None,
            closed: false,
            counted: None,
            last_read: Instant::now(),
            pinged: false,
            alarm,
        };
        Session { reader: Reader::new(), kept: false, state }
    }

    async fn run(&mut self) {
        let mut poll = |cx: &mut Context<'_>| {
            let polled = self.poll(cx);
            let state = &mut self.state;
            state.counted = counted(&state.api.hold, !state.calls.is_empty(), !state.out.is_empty());
            polled
        };
        while let Turn::More = poll_fn(&mut poll).await {
            // Unlike a plain wake-up, this lets the runtime poll the sockets first.
            yield_now().await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        self.state.look_at_access();
        match still(&self.state.api.hold, !self.state.out.is_empty() && !self.state.closed) {
            Still::No => {}
            Still::Pauses => return Poll::Pending,
            Still::Over => return Poll::Ready(Turn::Over),
        }
        if self.state.api.stage().is_draining() {
            self.state.end(CloseReason::shutdown(Duration::ZERO));
        }
        if self.state.poll_alarm(cx).is_ready() {
            return Poll::Ready(Turn::Over);
        }
        let mut writes = 0;
        loop {
            let state = &mut self.state;
            state.poll_calls(cx);
            state.take_messages(cx);
            match state.poll_write(cx) {
                Poll::Ready(Ok(0)) if state.closed => return Poll::Ready(Turn::Over),
                Poll::Ready(Ok(0)) | Poll::Pending => {}
                Poll::Ready(Ok(_)) => {
                    // There is room again, maybe for more messages.
                    writes += 1;
                    if writes == WRITES || state.api.time.is_others_turn() {
                        return Poll::Ready(Turn::More);
                    }
                    continue;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Turn::Over),
            }
            if !state.may_begin() {
                return Poll::Pending;
            }
            if self.kept {
                self.kept = false;
                self.handle(&mut [], cx);
                return Poll::Ready(Turn::More);
            }
            match self.poll_read(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Turn::Over),
                Poll::Ready(Ok(count)) if count == READ_BUFFER || self.kept || self.state.ending.is_some() => {
                    return Poll::Ready(Turn::More);
                }
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Reads once through the worker's buffer and handles what came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let api = self.state.api.clone();
        let mut buffer = api.read_buffer.take();
        buffer.resize(READ_BUFFER, 0);
        let mut chunk = ReadBuf::new(&mut buffer);
        let read = Pin::new(&mut self.state.socket).poll_read(cx, &mut chunk);
        let count = chunk.filled().len();
        if count > 0 {
            self.state.last_read = Instant::now();
            self.state.pinged = false;
            self.handle(chunk.filled_mut(), cx);
        }
        api.read_buffer.set(buffer);
        read.map_ok(|()| count)
    }

    /// Takes frames from the bytes read (or kept) until they are used up or there is no room for more calls.
    fn handle(&mut self, bytes: &mut [u8], cx: &mut Context<'_>) {
        let mut input = Input::new(bytes);
        self.take(&mut input, cx);
        self.state.api.time.charge_frames(input.take_frames());
    }

    fn take(&mut self, input: &mut Input<'_>, cx: &mut Context<'_>) {
        let state = &mut self.state;
        let limit = state.config.api.max_body_size;
        while state.ending.is_none() {
            if !state.may_begin() || state.api.time.is_others_turn() {
                self.reader.keep(input);
                self.kept = true;
                return;
            }
            match self.reader.next(input, limit) {
                Ok(None) => return,
                Ok(Some(Event::Text(text))) => {
                    let calls = &mut state.calls;
                    state.api.time.timed(text.len(), || calls.begin(text, &state.api, cx));
                }
                Ok(Some(Event::Binary(_) | Event::Compressed(..))) => {
                    let error = invalid("requests are text messages; this one was binary");
                    state.calls.refuse(error);
                }
                Ok(Some(Event::Ping(payload))) => state.out.frame(&frame::encode_pong(payload)),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(close))) => {
                    state.left();
                    state.ending = Some(frame::encode_close_reply(close.map(|(code, _)| code)));
                    state.alarm.as_mut().reset(Instant::now() + LINGER);
                }
                Err(violation) => state.end(violation.into()),
            }
        }
    }
}

impl State {
    /// Whether another call may be begun.
    fn may_begin(&self) -> bool {
        self.ending.is_none() && self.calls.has_room() && self.out.len() < MAX_WAITING && !self.api.hold.is_on()
    }

    /// Polls the newest call, if other calls have to wait for it, and answers the oldest ones.
    fn poll_calls(&mut self, cx: &mut Context<'_>) {
        self.calls.poll_newest(cx);
        while self.out.len() < MAX_WAITING
            && let Some((method, request_id, ready)) = self.calls.next_ready(cx)
        {
            let outcome = match ready {
                Ready::Done(outcome) => outcome,
                Ready::Queue(call) => {
                    let consumer = self.consumer.get_or_insert_with(|| {
                        self.socket.bound_unsent(UNSENT);
                        self.api.queue.consumer()
                    });
                    call.run(consumer)
                }
                Ready::Ping => {
                    self.out.text(b"pong", FrameKind::Other);
                    continue;
                }
            };
            self.api.counts.called(method, outcome.as_ref().map_or_else(ApiError::label, |_| CallResult::Ok));
            self.text.clear();
            Answer::write_text(outcome, request_id, &mut self.text);
            self.out.text(&self.text, FrameKind::Other);
        }
    }

    /// Takes messages of the queue while there is room.
    fn take_messages(&mut self, cx: &mut Context<'_>) {
        if self.ending.is_some() || self.api.hold.is_on() {
            return;
        }
        while self.out.len() < MAX_WAITING
            && let Some(given) = self.consumer.as_ref().and_then(|consumer| consumer.take(cx.waker()))
        {
            self.api.time.charge_event();
            self.text.clear();
            write_event(&given, self.api.mesh.node().0, &mut self.text);
            let what = if given.key.is_some() { FrameKind::Other } else { FrameKind::Event };
            self.out.text(&self.text, what);
        }
        // A large message must not leave a large buffer behind.
        self.text.shrink_to(READ_BUFFER);
    }

    /// Writes once; returns how much. The close frame follows when everything else is answered.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.calls.is_empty()
            && !self.closed
            && let Some(close) = &self.ending
        {
            self.out.frame(close);
            self.closed = true;
        }
        if self.out.is_empty() {
            // With TLS, what is written may still be with the transport.
            return Pin::new(&mut self.socket).poll_flush(cx).map_ok(|()| 0);
        }
        let written = match Pin::new(&mut self.socket).poll_write(cx, self.out.rest()) {
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => written,
            Poll::Pending => return Poll::Pending,
        };
        if let Ok(written) = written {
            let events = self.out.advance(written);
            if let (Some(consumer), true) = (&self.consumer, events > 0) {
                consumer.written(events);
            }
        }
        Poll::Ready(written)
    }

    /// Ends the connection with a close frame, after the answers to the calls under way.
    fn end(&mut self, reason: CloseReason) {
        if self.ending.is_some() {
            return;
        }
        // Other consumers may have the messages that were prefetched for it; messages on their way go on.
        if let Some(consumer) = &self.consumer {
            let _ = consumer.unpop(None);
        }
        let (code, text) = reason.frame().unwrap_or((close_code::NORMAL, "".into()));
        self.ending = Some(frame::encode_close(code, &text));
        self.alarm.as_mut().reset(Instant::now() + LINGER);
    }

    /// The back end has closed and reads nothing any more, so messages that it has not got go back.
    fn left(&mut self) {
        self.settle_rest();
        let begun = self.out.cut();
        if let (Some(consumer), Some(FrameKind::Event)) = (self.consumer.take(), begun) {
            consumer.written(1);
        }
    }

    /// Drops the calls that are not answered; messages that they settle are settled.
    fn settle_rest(&mut self) {
        for Call { work, .. } in self.calls.drain() {
            if let (Work::Ready(Ready::Queue(call)), Some(consumer)) = (work, &self.consumer) {
                // Nobody hears the answer.
                let _ = call.run(consumer);
            }
        }
    }

    /// Ends the connection of a user or a page that may not call any more.
    fn look_at_access(&mut self) {
        let now = self.api.config.load();
        if Arc::ptr_eq(&now, &self.config) {
            return;
        }
        self.config = Arc::clone(&now);
        drop(now);
        self.check_access();
    }

    fn check_access(&mut self) {
        if !self.access.is_granted(&self.config, self.caller) {
            self.end(CloseReason::Violation { code: close_code::POLICY, what: "access was taken away".into() });
        }
    }

    /// Pings a silent back end, and ends the connection of one that stays silent. Ready: the time to end is up.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            if self.ending.is_some() {
                return Poll::Ready(());
            }
            let Some(timeout_after) = self.api.read_timeout() else {
                self.alarm.as_mut().reset(Instant::now() + UNLIMITED);
                continue;
            };
            if !self.may_begin() {
                // The connection is not read, so silence means nothing.
                self.last_read = Instant::now();
            }
            let silent = self.last_read.elapsed();
            if silent >= timeout_after {
                self.end(CloseReason::ReadTimeout);
                continue;
            }
            if silent >= timeout_after / 2 && !self.pinged {
                self.out.frame(&frame::encode_ping(b""));
                self.pinged = true;
            }
            let next = if self.pinged { timeout_after } else { timeout_after / 2 };
            // Not at once again: the time limits may have changed.
            let soonest = Instant::now() + Duration::from_millis(1);
            self.alarm.as_mut().reset((self.last_read + next).max(soonest));
        }
        Poll::Pending
    }
}
