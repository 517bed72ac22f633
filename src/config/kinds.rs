//! Kinds of keys with one value: numbers, durations, words and the like, each with its bounds and its default.

use super::changes::{Changes, Effect, HIDDEN};
use super::raw::rate::{self, MAX_RATE, RATE_PER};
use super::raw::units::{self, Quantity};
use super::raw::value::{Value, worded};
use super::rows::{Head, Kind, Row};
use super::types::Rate;
use crate::secret::Secret;
use crate::telemetry::language::both;
use serde_json::Value as Json;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A key with one value.
pub struct Leaf<T> {
    kind: &'static str,
    bounds: String,
    /// None = it must be given.
    default: Option<T>,
    read: Box<dyn Fn(&Value<'_>) -> T>,
    /// The value as the file spells it, in JSON.
    show: Box<dyn Fn(&T) -> Json>,
    /// The value as a change shows it.
    tell: fn(&Json) -> String,
    is_secret: bool,
}

impl<T: 'static> Leaf<T> {
    /// A value that is read by `read` and is shown as `show` says; unless that is made otherwise, it is no secret.
    pub fn new(
        kind: &'static str,
        bounds: String,
        default: Option<T>,
        read: impl Fn(&Value<'_>) -> T + 'static,
        show: impl Fn(&T) -> Json + 'static,
    ) -> Leaf<T> {
        Leaf { kind, bounds, default, read: Box::new(read), show: Box::new(show), tell, is_secret: false }
    }

    /// The same, as a secret: its value is never shown.
    pub fn secret(self) -> Leaf<T> {
        Leaf { is_secret: true, ..self }
    }

    /// The same, with another text in changes.
    pub fn told(self, tell: fn(&Json) -> String) -> Leaf<T> {
        Leaf { tell, ..self }
    }

    /// The same with a further check; a returned text is the problem's message.
    pub fn checked(self, check: fn(&T) -> Option<&'static str>) -> Leaf<T> {
        let Leaf { read, .. } = self;
        let read = Box::new(move |at: &Value<'_>| {
            let value = read(at);
            if let Some(message) = check(&value).filter(|_| at.is_set()) {
                at.report(worded(message));
            }
            value
        });
        Leaf { read, ..self }
    }

    /// The same as another type in the program.
    pub fn map<U: 'static>(self, to: fn(T) -> U, from: fn(&U) -> T) -> Leaf<U> {
        let Leaf { kind, bounds, default, read, show, tell, is_secret } = self;
        Leaf {
            kind,
            bounds,
            default: default.map(to),
            read: Box::new(move |at| to(read(at))),
            show: Box::new(move |value| show(&from(value))),
            tell,
            is_secret,
        }
    }
}

impl<T: Clone + PartialEq + 'static> Kind for Leaf<T> {
    type Value = T;

    fn read(&self, at: &Value<'_>) -> T {
        (self.read)(at)
    }

    fn rows(&self, head: &Head, value: Option<&T>, rows: &mut Vec<Row>) {
        let hidden = self.is_secret && value.is_some_and(|value| self.default.as_ref() != Some(value));
        let value = value.filter(|_| head.effect != Effect::Unused).map(&self.show);
        rows.push(Row {
            path: head.path.clone(),
            kind: self.kind,
            bounds: self.bounds.clone(),
            default: self.default.as_ref().map(&self.show),
            effect: head.effect,
            words: head.words.to_owned(),
            value: value.map(|value| if hidden { HIDDEN.into() } else { value }),
            hidden,
        });
    }

    fn compare(&self, head: &Head, old: &T, new: &T, changes: &mut Changes) {
        if old == new {
            return;
        }
        match self.is_secret {
            true => changes.add_hidden(head.effect, &head.path),
            false => {
                let tell = |value| (self.tell)(&(self.show)(value));
                changes.add(head.effect, &head.path, tell(old), tell(new));
            }
        }
    }
}

/// A value in a line of text: texts without quotes, `[a, b]`, and `none` for what is unset.
pub fn tell(value: &Json) -> String {
    match value {
        Json::Null => "none".to_owned(),
        Json::String(text) => text.clone(),
        Json::Array(all) => format!("[{}]", all.iter().map(tell).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn range_of<T>(range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> String {
    format!("{} to {}", show(range.start()), show(range.end()))
}

/// A whole number.
pub fn number<T>(range: RangeInclusive<T>, default: T) -> Leaf<T>
where
    T: TryFrom<i128> + PartialOrd + Copy + Display + Into<Json> + 'static,
{
    let bounds = range_of(&range, T::to_string);
    Leaf::new("number", bounds, Some(default), move |at| at.number(range.clone(), default), |n| (*n).into())
}

/// true or false, by default false.
pub fn flag() -> Leaf<bool> {
    flag_or(false)
}

/// true or false, by default that.
pub fn flag_or(default: bool) -> Leaf<bool> {
    let read = move |at: &Value<'_>| at.parse("true or false", default, |text| text.parse().ok());
    Leaf::new("boolean", "true, false".to_owned(), Some(default), read, |is: &bool| (*is).into())
}

/// A duration.
pub fn duration(range: RangeInclusive<Duration>, default: Duration) -> Leaf<Duration> {
    let bounds = range_of(&range, |time| units::duration(*time));
    let show = |time: &Duration| units::duration(*time).into();
    Leaf::new("duration", bounds, Some(default), move |at| at.duration(range.clone(), default), show)
}

/// A number of bytes.
pub fn size(range: RangeInclusive<usize>, default: usize) -> Leaf<usize> {
    let bounds = range_of(&range, |bytes| units::size(*bytes));
    let show = |bytes: &usize| {
        let text = units::size(*bytes);
        text.parse::<usize>().map_or_else(|_| text.into(), Json::from)
    };
    Leaf::new("size", bounds, Some(default), move |at| at.size(range.clone(), default), show)
}

/// How many of something may come in a time.
pub fn rate() -> Leaf<Rate> {
    rate_of("a number for each time, such as \"10/s\" or \"40/200ms\"", rate::parse_count, |n| n.to_string())
}

/// The same for bytes.
pub fn byte_rate() -> Leaf<Rate> {
    let show = |n: u64| units::size(usize::try_from(n).unwrap_or(usize::MAX));
    rate_of("a size for each time, such as \"64KiB/s\"", units::parse_size, show)
}

fn rate_of(
    expected: &'static str,
    number: fn(&str) -> Quantity<usize>,
    show: impl Fn(u64) -> String + 'static,
) -> Leaf<Rate> {
    let read = move |at: &Value<'_>| {
        let parse = |text: &str| rate::parse_rate(text, number);
        let rate = at.parse(expected, Rate::NONE, parse);
        if rate.count > MAX_RATE || !RATE_PER.contains(&rate.per) {
            let (least, most) = (units::duration(*RATE_PER.start()), units::duration(*RATE_PER.end()));
            at.report(both!(
                "out of range: at most {MAX_RATE}, for each time from {least} to {most}",
                "超出范围：最多 {MAX_RATE}，每段时间从 {least} 到 {most}"
            ));
        }
        rate
    };
    let show = move |rate: &Rate| {
        let per = units::duration(rate.per);
        format!("{}/{}", show(rate.count), if per == "1s" { "s" } else { &per }).into()
    };
    Leaf::new("rate", expected.to_owned(), Some(Rate::NONE), read, show)
}

/// One of a few words, which are what the values are displayed as.
pub fn word<T: Copy + Display + 'static>(words: &'static [T], default: T) -> Leaf<T> {
    word_of(words, &[], default)
}

/// As [`word`], but also accepts the words of older files, each with its present name.
pub fn word_of<T: Copy + Display + 'static>(
    words: &'static [T],
    older: &'static [(&'static str, &'static str)],
    default: T,
) -> Leaf<T> {
    let read = move |at: &Value<'_>| at.word(words, older).unwrap_or(default);
    Leaf::new("word", join(words), Some(default), read, |word| word.to_string().into())
}

fn join(words: &[impl Display]) -> String {
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Any text. If the default is empty, an empty text is the same as none.
pub fn text(default: &'static str) -> Leaf<String> {
    let read = move |at: &Value<'_>| at.text().unwrap_or(default).to_owned();
    let show = move |text: &String| match text.as_str() {
        "" if default.is_empty() => Json::Null,
        text => text.into(),
    };
    Leaf::new("text", "any".to_owned(), Some(default.to_owned()), read, show)
}

/// A secret text; empty is the same as none. It is never shown.
pub fn secret() -> Leaf<Secret> {
    let read = |at: &Value<'_>| at.text().map(Secret::from).unwrap_or_default();
    let show = |secret: &Secret| if secret.is_empty() { Json::Null } else { HIDDEN.into() };
    Leaf { is_secret: true, ..Leaf::new("text", "any".to_owned(), Some(Secret::default()), read, show) }
}

/// A text that must be there and not be empty.
pub fn required() -> Leaf<String> {
    Leaf::new("text", "not empty".to_owned(), None, required_text, |text| text.as_str().into())
}

/// Reads a text that must be there. Messages don't show it, since this reads passwords too.
pub fn required_text(at: &Value<'_>) -> String {
    match at.text() {
        Some(text) if !text.is_empty() => return text.to_owned(),
        Some(_) => at.report(both!("must not be empty", "不能为空")),
        // A list or a section here has been reported already.
        None if at.is_set() => {}
        None => at.report(both!("missing; it must be given", "缺少；必须写出")),
    }
    String::new()
}

/// A text that `parse` understands; `expected` says what that is.
pub fn parsed<T: Clone + 'static>(
    expected: &'static str,
    default: T,
    parse: fn(&str) -> Option<T>,
    show: fn(&T) -> Json,
) -> Leaf<T> {
    let given = default.clone();
    let read = move |at: &Value<'_>| at.parse(expected, given.clone(), parse);
    Leaf::new("text", expected.to_owned(), Some(default), read, show)
}

/// A list of texts that `parse` understands, by default none; `expected` says what each is.
pub fn list<T: Display + 'static>(expected: &'static str, parse: fn(&str) -> Option<T>) -> Leaf<Vec<T>> {
    let read = move |at: &Value<'_>| {
        let one = |item: &Value<'_>| item.parse(expected, None, |text| parse(text).map(Some));
        at.list().iter().filter_map(one).collect()
    };
    Leaf::new("list", format!("each {expected}"), Some(Vec::new()), read, |all| shown_list(all))
}

/// A list of some of a few words, by default none; one that is given twice counts once.
pub fn words<T: Copy + PartialEq + Display + 'static>(words: &'static [T]) -> Leaf<Vec<T>> {
    let read = move |at: &Value<'_>| {
        let mut all: Vec<T> = Vec::new();
        for word in at.list().iter().filter_map(|item| item.word(words, &[])) {
            if !all.contains(&word) {
                all.push(word);
            }
        }
        all
    };
    Leaf::new("list", join(words), Some(Vec::new()), read, |all| shown_list(all))
}

fn shown_list(all: &[impl Display]) -> Json {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}
