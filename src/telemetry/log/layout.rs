//! How an event becomes a line, where the libraries' own way lets harmful characters through: the fields of a line of
//! text, and the whole of a line of JSON; and where a line is too long. The rest of a line is the engine's own: time,
//! level, module.

use std::fmt::{self, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::cut::{CutStrings, Limited, MARK, TEXTS};
use super::escape::{Escaping, write_json};

/// The text of an event, and its fields as `name=value`.
pub(super) struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Fields { writer, begun: false, left: TEXTS, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Fields<'w> {
    writer: Writer<'w>,
    begun: bool,
    /// Bytes that still fit on the line; 0: it was cut.
    left: usize,
    result: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) -> fmt::Result {
        if std::mem::replace(&mut self.begun, true) {
            self.writer.write_char(' ')?;
        }
        match field.name() {
            "message" => {}
            name if self.writer.has_ansi_escapes() => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
            name => write!(self.writer, "{name}=")?,
        }
        let texts = Limited { out: &mut self.writer, left: &mut self.left };
        match Escaping(texts).write_fmt(value) {
            Err(_) if self.left == 0 => self.writer.write_str(MARK),
            written => written,
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // With its quotes, so that its end is seen.
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_ok() && self.left > 0 {
            self.result = self.write(field, format_args!("{value:?}"));
        }
    }
}

/// A line of JSON, written by the format within.
pub(super) struct JsonLine<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for JsonLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = CutStrings::default();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        write_json(&mut writer, line.out.trim_end_matches('\n'))?;
        writer.write_char('\n')
    }
}
