//! The log: one line per event, to the console and to a file. A new file begins each day and whenever one is full, unless
//! another program sees to that. The level can change while it runs.
//!
//! Everything that is logged passes [`line`]: texts of clients, scripts or files are made harmless there ([`escape`]),
//! in text and in JSON, so callers log texts as they are.

pub mod access;
pub mod cut;
pub mod escape;
mod file;
mod layout;
mod queue;
pub mod recent;

use std::fmt::{self, Write};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry, reload};

use self::file::LogFile;
use self::layout::{JsonLine, TextFields};
use self::queue::{Writing, begin};

pub use file::Rotation;
pub use queue::Output;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log while it is open. Dropped, it writes what waits.
pub struct Log {
    level: LevelHandle,
    file: Option<Shared>,
    _writers: Vec<Writing>,
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file.
    #[error("the log file {file} cannot be opened: {source}")]
    File {
        /// Its path.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// What writes it.
    #[error("the log's thread could not start: {0}")]
    Thread(io::Error),
    /// Something in this process logs already.
    #[error("the log is open already")]
    Twice,
}

impl Log {
    /// Opens the log for the whole process. `file`: the file besides the console, and its rotation, unless that is another
    /// program's.
    pub fn open(level: LevelFilter, style: Style, file: Option<(&Path, Option<Rotation>)>) -> Result<Log, OpenError> {
        let (filter, level) = reload::Layer::new(Filter { level, overheard: &[], hear: None });
        let file = file.map(|(path, rotation)| open(path, rotation)).transpose()?;
        let shared = file.clone();
        let (console, guard) = console().and_then(|out| begin(Output::Console, out)).map_err(OpenError::Thread)?;
        let mut writers = vec![guard];
        let console = line(style, io::stdout().is_terminal(), console);
        let lines = match file {
            Some(file) => {
                let (file, guard) = begin(Output::File, file).map_err(OpenError::Thread)?;
                writers.push(guard);
                Some(line(style, false, file))
            }
            None => None,
        };
        // The filter is below both layers, so that a line nobody writes is not even formatted.
        let subscriber = tracing_subscriber::registry().with(filter).with(console).with(lines).with(recent::Recent);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| OpenError::Twice)?;
        let level = LevelHandle(level);
        // Nobody has opened one before.
        let _ = OPEN.set(level.clone());
        Ok(Log { level, file: shared, _writers: writers })
    }

    /// Opens the file again under its name of today: for programs that move it away. Lines that wait go there, too. Returns
    /// its path; None: there is no file. After an error the previous file stays in use.
    pub fn reopen(&self) -> io::Result<Option<PathBuf>> {
        self.file.as_ref().map(|file| file.lock().reopen()).transpose()
    }

    /// A handle that changes the level while the log is open.
    pub fn level(&self) -> LevelHandle {
        self.level.clone()
    }
}

/// Changes an open log's level.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<Filter, Registry>);

impl LevelHandle {
    /// Sets the least severe level that is written.
    pub fn set(&self, level: LevelFilter) {
        // Fails only when the subscriber is gone, and then nobody logs.
        let _ = self.0.modify(|filter| filter.level = level);
    }
}

/// The filter of the log that is open.
static OPEN: OnceLock<LevelHandle> = OnceLock::new();

/// Who hears events of the cluster's bus.
type Listener = Box<dyn Fn(&str, &str) + Send + Sync>;

/// From now on `hear` is called with the target and the text of each event of these targets, which is one of the cluster's
/// bus, whatever its level. The text is cut after some hundred bytes. Such events are not logged all the same. It is called
/// on the thread that the event is of, and must not log. Without effect where no log is open.
pub fn overhear(targets: &'static [&'static str], hear: impl Fn(&str, &str) + Send + Sync + 'static) {
    if let Some(open) = OPEN.get() {
        let hear: Listener = Box::new(hear);
        // Fails as above.
        let _ = open.0.modify(|filter| (filter.overheard, filter.hear) = (targets, Some(hear)));
    }
}

/// Which events become lines: those of the level, without what the cluster's bus logs. That are its internals, and at debug
/// its settings with their secrets. `cluster` reports what matters of it.
pub struct Filter {
    level: LevelFilter,
    /// Events of the bus that are not logged, but heard.
    overheard: &'static [&'static str],
    hear: Option<Listener>,
}

impl Filter {
    fn takes(&self, metadata: &Metadata<'_>) -> bool {
        match metadata.target() {
            target if target.starts_with("zenoh") => self.overheard.contains(&target),
            _ => *metadata.level() <= self.level,
        }
    }
}

impl<S: Subscriber> Layer<S> for Filter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.takes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.takes(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.overheard.is_empty() { self.level } else { LevelFilter::TRACE })
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let target = event.metadata().target();
        if !target.starts_with("zenoh") {
            return true;
        }
        if let Some(hear) = &self.hear {
            let mut text = Text::default();
            event.record(&mut text);
            hear(target, &text.0);
        }
        false
    }
}

/// The beginning of an event's text.
#[derive(Default)]
struct Text(String);

impl Text {
    const LONGEST: usize = 512;
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Text::LONGEST - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        // What would follow need not be formatted.
        if text.len() < room { Ok(()) } else { Err(fmt::Error) }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // An error: it was cut.
            let _ = write!(self, "{value:?}");
        }
    }
}

/// Standard output without the library's buffer: what that failed to write would come later, between other lines.
fn console() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// One output's layer.
fn line<S, W>(style: Style, colour: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour);
    match style {
        Style::Text => layer.fmt_fields(TextFields).boxed(),
        Style::Json => layer.json().flatten_event(true).map_event_format(JsonLine).boxed(),
    }
}

/// The file, shared by the thread that writes it and the thread that reopens it.
#[derive(Clone)]
struct Shared(Arc<Mutex<LogFile>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, LogFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

fn open(path: &Path, rotation: Option<Rotation>) -> Result<Shared, OpenError> {
    let file =
        LogFile::open(path, rotation).map_err(|source| OpenError::File { file: path.display().to_string(), source })?;
    Ok(Shared(Arc::new(Mutex::new(file))))
}
