//! Lines on their way to one output. No thread of the engine waits for it: a thread of its own writes. It is bounded in
//! bytes: if the disk or the reader of the console can't keep up, further lines are left out and counted, and the count
//! is logged once lines flow again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// The bytes that may wait for one output.
const WAITING: usize = 16 * 1024 * 1024;
/// The bytes that a line counts for besides its text.
const LINE: usize = 64;
/// The longest that the end waits for what is still to be written.
const END: Duration = Duration::from_secs(2);

/// One of the log's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Console,
    /// The file.
    File,
}

static LEFT_OUT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

impl Output {
    /// All of them.
    pub const ALL: [Output; 2] = [Output::Console, Output::File];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Output::Console => "console",
            Output::File => "file",
        }
    }

    /// Lines that were left out, or that it failed to write, since the process began.
    pub fn left_out(self) -> u64 {
        LEFT_OUT[self as usize].load(Relaxed)
    }
}

#[derive(Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    /// What waits and what is being written.
    bytes: usize,
    /// Lines that were left out and not reported yet.
    untold: u64,
    closing: bool,
    closed: bool,
}

struct Queue {
    output: Output,
    most: usize,
    state: Mutex<State>,
    /// There is a line, or the end.
    come: Condvar,
    /// Everything is written.
    gone: Condvar,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, line: &[u8]) {
        let mut state = self.state();
        let weight = line.len() + LINE;
        if state.closed || state.bytes + weight > self.most {
            self.leave_out(&mut state);
            return;
        }
        state.bytes += weight;
        state.lines.push_back(line.into());
        drop(state);
        self.come.notify_one();
    }

    fn leave_out(&self, state: &mut State) {
        state.untold += 1;
        LEFT_OUT[self.output as usize].fetch_add(1, Relaxed);
    }

    /// The writing thread. `tell` says how many lines were left out.
    fn run(&self, mut writer: impl Write, tell: impl Fn(Output, u64)) {
        loop {
            let mut state = self.state();
            if state.untold > 0 && state.bytes <= self.most / 2 {
                let untold = std::mem::take(&mut state.untold);
                drop(state);
                tell(self.output, untold);
                continue;
            }
            let Some(line) = state.lines.pop_front() else {
                if state.closing {
                    state.closed = true;
                    self.gone.notify_all();
                    return;
                }
                drop(self.come.wait(state));
                continue;
            };
            drop(state);
            let written = writer.write_all(&line).and_then(|()| writer.flush());
            let mut state = self.state();
            state.bytes -= line.len() + LINE;
            if written.is_err() {
                self.leave_out(&mut state);
                // A broken output would get the same report again and again: lines that it failed to write are not reported.
                state.untold -= 1;
            }
        }
    }
}

/// Where an output's lines go: cheap to clone; each call of `write` is one line.
#[derive(Clone)]
pub(super) struct Lines(Arc<Queue>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.offer(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// The writing thread, until it is dropped: then what waits is written first.
pub(super) struct Writing(Arc<Queue>);

impl Drop for Writing {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closing = true;
        self.0.come.notify_one();
        drop(self.0.gone.wait_timeout_while(state, END, |state| !state.closed));
    }
}

/// Begins to write an output.
pub(super) fn begin(output: Output, writer: impl Write + Send + 'static) -> io::Result<(Lines, Writing)> {
    begin_with(output, WAITING, writer, |output, lines| {
        tracing::error!(
            "{lines} lines of the log were left out of the {}: it was not written fast enough",
            output.name()
        );
    })
}

fn begin_with(
    output: Output,
    most: usize,
    writer: impl Write + Send + 'static,
    tell: impl Fn(Output, u64) + Send + 'static,
) -> io::Result<(Lines, Writing)> {
    let queue = Arc::new(Queue { output, most, state: Mutex::default(), come: Condvar::new(), gone: Condvar::new() });
    let own = queue.clone();
    std::thread::Builder::new().name(format!("log-{}", output.name())).spawn(move || own.run(writer, tell))?;
    Ok((Lines(queue.clone()), Writing(queue)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// An output that takes a line when it is let.
    struct Slow {
        let_in: Receiver<()>,
        taken: Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.let_in.recv();
            let _ = self.taken.send(String::from_utf8_lossy(line).into_owned());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_what_was_left_out_is_told() {
        let ((go, let_in), (taken, lines)) = (channel(), channel());
        let told = taken.clone();
        let tell = move |_, n| drop(told.send(format!("{n} left out")));
        let most = 10 * (100 + LINE);
        let (mut log, writing) = begin_with(Output::File, most, Slow { let_in, taken }, tell).unwrap();
        let before = Output::File.left_out();
        for i in 0..25 {
            log.write_all(format!("{i:0100}").as_bytes()).unwrap();
        }
        assert_eq!((log.0.state().bytes, Output::File.left_out() - before), (most, 15));
        // A line larger than all the room is left out, too.
        log.write_all(&vec![b'x'; 2 * most]).unwrap();
        (0..10).for_each(|_| go.send(()).unwrap());
        let got: Vec<String> = lines.iter().take(11).collect();
        let mut want: Vec<String> = (0..10).map(|i| format!("{i:0100}")).collect();
        want.insert(5, "16 left out".into());
        assert_eq!(got, want);
        // The end waits for what was taken in.
        log.write_all(b"last").unwrap();
        go.send(()).unwrap();
        drop(writing);
        assert_eq!(lines.try_recv().as_deref(), Ok("last"));
    }
}
