//! Lines on their way to one output. No thread of the engine waits for it: a thread of its own writes. It is bounded in
//! bytes: if the disk or the reader of the console can't keep up, further lines are left out and counted, and the count
//! is logged once lines flow again. So are lines that the output fails to take (a full disk, a pipe without a reader);
//! the other output is told of that when it begins.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// The bytes that may wait for one output.
const WAITING: usize = 16 * 1024 * 1024;
/// The bytes that a line counts for besides its text.
const LINE: usize = 64;
/// The least time between two reports of an output that fails. One that takes some lines and others not, such as a
/// disk that is nearly full, would double its lines otherwise.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause before a line is offered again to an output that does not block and takes nothing now.
const FULL: Duration = Duration::from_millis(5);
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

/// What is logged of an output itself.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// So many lines were left out: it was too slow.
    Slow(u64),
    /// It fails, and why.
    Fails(String),
    /// It takes lines again, after so many were lost; and why they were.
    TakesAgain(u64, String),
}

/// An output that has failed to take lines.
#[derive(Default)]
struct Failing {
    /// It failed at the last line.
    now: bool,
    /// The end of the last line that it took is missing.
    torn: bool,
    why: String,
    /// Lines that it failed to take and that have not been reported.
    lines: u64,
    reported: Option<Instant>,
}

impl Failing {
    /// Writes a line; what is to be logged of that.
    fn write(&mut self, writer: &mut impl Write, line: &[u8]) -> (io::Result<()>, Option<News>) {
        let written = self.write_whole(writer, line);
        let due = self.reported.is_none_or(|at| at.elapsed() >= PAUSE);
        let news = match &written {
            Err(e) => {
                self.lines += 1;
                self.why = e.to_string();
                (!std::mem::replace(&mut self.now, true) && due).then(|| News::Fails(self.why.clone()))
            }
            Ok(()) => {
                self.now = false;
                (self.lines > 0 && due)
                    .then(|| News::TakesAgain(std::mem::take(&mut self.lines), std::mem::take(&mut self.why)))
            }
        };
        if news.is_some() {
            self.reported = Some(Instant::now());
        }
        (written, news)
    }

    fn write_whole(&mut self, writer: &mut impl Write, line: &[u8]) -> io::Result<()> {
        if self.torn {
            // So that it does not become one with this line.
            write_all(writer, b"\n").map_err(|(e, _)| e)?;
            self.torn = false;
        }
        write_all(writer, line).map_err(|(e, written)| {
            self.torn = written > 0;
            e
        })?;
        writer.flush()
    }
}

/// Writes all of it; else the error, and how much was written. An output that does not block is waited for.
fn write_all(writer: &mut impl Write, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while written < bytes.len() {
        match writer.write(&bytes[written..]) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(n) => written += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL),
            Err(e) => return Err((e, written)),
        }
    }
    Ok(())
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

    /// The writing thread. `tell` logs what becomes of the output.
    fn run(&self, mut writer: impl Write, tell: impl Fn(Output, News)) {
        let mut failing = Failing::default();
        loop {
            let mut state = self.state();
            if state.untold > 0 && state.bytes <= self.most / 2 {
                let untold = std::mem::take(&mut state.untold);
                drop(state);
                tell(self.output, News::Slow(untold));
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
            let (written, news) = failing.write(&mut writer, &line);
            let mut state = self.state();
            state.bytes -= line.len() + LINE;
            if written.is_err() {
                LEFT_OUT[self.output as usize].fetch_add(1, Relaxed);
            }
            drop(state);
            if let Some(news) = news {
                tell(self.output, news);
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
    begin_with(output, WAITING, writer, |output, news| {
        let output = output.name();
        match news {
            News::Slow(lines) => {
                tracing::error!(
                    "{lines} lines of the log were left out of the {output}: it was not written fast enough"
                );
            }
            News::Fails(why) => tracing::error!("the log's {output} cannot be written: {why}; its lines are left out"),
            News::TakesAgain(lines, why) => {
                tracing::error!(
                    "{lines} lines of the log were left out of the {output}: it could not be written: {why}"
                );
            }
        }
    })
}

fn begin_with(
    output: Output,
    most: usize,
    writer: impl Write + Send + 'static,
    tell: impl Fn(Output, News) + Send + 'static,
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
        let tell = move |_, news| drop(told.send(format!("{news:?}")));
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
        want.insert(5, "Slow(16)".into());
        assert_eq!(got, want);
        // The end waits for what was taken in.
        log.write_all(b"last").unwrap();
        go.send(()).unwrap();
        drop(writing);
        assert_eq!(lines.try_recv().as_deref(), Ok("last"));
    }

    /// A disk with that much room.
    struct Disk {
        room: usize,
        text: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            self.room -= n;
            self.text.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_is_full_is_told_once_and_lines_stay_apart() {
        let (mut disk, mut failing) = (Disk { room: 13, text: Vec::new() }, Failing::default());
        let mut write = |disk: &mut Disk, line: &str| failing.write(disk, line.as_bytes());
        assert!(matches!(write(&mut disk, "one line\n"), (Ok(()), None)));
        let (written, news) = write(&mut disk, "two lines\n");
        assert_eq!(news, Some(News::Fails(written.unwrap_err().to_string())));
        for _ in 0..3 {
            assert!(matches!(write(&mut disk, "three lines\n"), (Err(_), None)));
        }
        disk.room = 1000;
        assert!(matches!(write(&mut disk, "four lines\n"), (Ok(()), None)), "so soon nothing is told again");
        failing.reported = None;
        let Some(News::TakesAgain(lines, why)) = failing.write(&mut disk, b"five lines\n").1 else { panic!() };
        assert!(lines == 4 && why.contains("No space left"), "{lines} {why}");
        assert!(failing.write(&mut disk, b"six lines\n").1.is_none());
        assert_eq!(String::from_utf8(disk.text).unwrap(), "one line\ntwo \nfour lines\nfive lines\nsix lines\n");
    }
}
