//! The language of what commands say to people at a terminal, English or Chinese. The log is English in any case, and so is what
//! scripts and programs read: it is searched for and compared.

use std::fmt;
use std::io;
use std::sync::OnceLock;

/// A language that commands speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Unless the locale says otherwise.
    English,
    /// Simplified characters.
    Chinese,
}

/// That of this process.
static CHOSEN: OnceLock<Language> = OnceLock::new();

impl Language {
    /// That of the locale: of `LC_ALL`, `LC_MESSAGES` and `LANG` the first that is set and not empty decides (POSIX, XBD 8.2).
    pub fn of_environment() -> Language {
        Language::of(["LC_ALL", "LC_MESSAGES", "LANG"].map(|name| std::env::var(name).unwrap_or_default()))
    }

    /// That of these values, of which the first that is not empty decides.
    fn of(values: [String; 3]) -> Language {
        let locale = values.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_ascii_lowercase();
        // LANGUAGE[_TERRITORY][.CODESET][@MODIFIER]
        let mut parts = locale.split('@').next().unwrap_or_default().splitn(2, '.');
        let language = parts.next().unwrap_or_default().split(['_', '-']).next().unwrap_or_default();
        // What is printed is UTF-8: a terminal of another coding shows ASCII alone as it should.
        let is_utf8 = parts.next().is_none_or(|codeset| matches!(codeset, "utf-8" | "utf8"));
        if language == "zh" && is_utf8 { Language::Chinese } else { Language::English }
    }

    /// Has this process speak it. Once, at the start of the command line.
    pub fn choose(self) {
        // A second choice would be a mistake of ours, and changes nothing.
        let _ = CHOSEN.set(self);
    }

    /// That of this process; English unless another one has been chosen.
    pub fn chosen() -> Language {
        CHOSEN.get().copied().unwrap_or(Language::English)
    }
}

/// A text in both languages: for what may go to the log or to a terminal. It is displayed in English.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Both {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

impl Both {
    /// The same in both: a name, a value, or what another program says.
    pub fn same(text: impl Into<String>) -> Both {
        let en = text.into();
        Both { zh: en.clone(), en }
    }

    /// In one of them.
    pub fn in_language(&self, language: Language) -> &str {
        match language {
            Language::English => &self.en,
            Language::Chinese => &self.zh,
        }
    }

    /// For a terminal.
    pub fn spoken(&self) -> &str {
        self.in_language(Language::chosen())
    }

    /// Adds a text at the end.
    pub fn add(&mut self, more: Both) {
        self.en.push_str(&more.en);
        self.zh.push_str(&more.zh);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.en.is_empty()
    }
}

/// A text that has no other language, such as a name.
impl From<&str> for Both {
    fn from(text: &str) -> Both {
        Both::same(text)
    }
}

impl From<String> for Both {
    fn from(text: String) -> Both {
        Both::same(text)
    }
}

/// What the system says, as far as it is usual; anything else is English in both.
pub fn system(error: &io::Error) -> Both {
    let Some(code) = error.raw_os_error() else { return Both::same(error.to_string()) };
    let zh = match error.kind() {
        io::ErrorKind::NotFound => "没有这个文件或目录",
        io::ErrorKind::PermissionDenied => "没有权限",
        io::ErrorKind::AddrInUse => "地址已被占用",
        io::ErrorKind::AddrNotAvailable => "本机没有这个地址",
        io::ErrorKind::ConnectionRefused => "连接被拒绝",
        io::ErrorKind::ConnectionReset => "连接被对方重置",
        io::ErrorKind::TimedOut => "超时",
        _ => return Both::same(error.to_string()),
    };
    Both { en: error.to_string(), zh: format!("{zh} (os error {code})") }
}

impl fmt::Display for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.en)
    }
}

/// A [`Both`] of two texts of `format!`, English first; both have all that follows them.
macro_rules! both {
    ($en:literal, $zh:literal $(, $more:expr)* $(,)?) => {
        $crate::telemetry::language::Both { en: format!($en $(, $more)*), zh: format!($zh $(, $more)*) }
    };
}
pub(crate) use both;

/// What a terminal is told, as a `String` in this process's language: of two texts of `format!`, English first.
macro_rules! spoken {
    ($en:literal, $zh:literal $(, $more:expr)* $(,)?) => {
        match $crate::telemetry::language::Language::chosen() {
            $crate::telemetry::language::Language::English => format!($en $(, $more)*),
            $crate::telemetry::language::Language::Chinese => format!($zh $(, $more)*),
        }
    };
}
pub(crate) use spoken;

/// How many columns of a terminal a text takes: two for each character of East Asia that is wide (Unicode, UAX 11), one for any other.
pub fn columns(text: &str) -> usize {
    let is_wide = |c: char| {
        matches!(u32::from(c),
            0x1100..=0x115F | 0x2E80..=0x303E | 0x3041..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F
            | 0xFF01..=0xFF60 | 0xFFE0..=0xFFE6 | 0x20000..=0x3FFFD)
    };
    text.chars().map(|c| if is_wide(c) { 2 } else { 1 }).sum()
}

/// Spaces that bring a text to that many columns.
pub fn padding(text: &str, wanted: usize) -> String {
    " ".repeat(wanted.saturating_sub(columns(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_decides() {
        let of = |values: [&str; 3]| Language::of(values.map(str::to_owned));
        for (values, language) in [
            (["", "", ""], Language::English),
            (["", "", "zh_CN.UTF-8"], Language::Chinese),
            (["", "", "zh_CN.utf8"], Language::Chinese),
            (["", "", "zh"], Language::Chinese),
            (["", "", "zh-Hans"], Language::Chinese),
            (["", "", "zh_TW.UTF-8@radical"], Language::Chinese),
            (["", "", "zha_CN.UTF-8"], Language::English),
            (["", "C", "zh_CN.UTF-8"], Language::English),
            (["C.UTF-8", "zh_CN.UTF-8", "zh_CN.UTF-8"], Language::English),
            (["POSIX", "", "zh_CN.UTF-8"], Language::English),
            (["", "zh_CN.UTF-8", "en_US.UTF-8"], Language::Chinese),
            (["zh_CN.UTF-8", "en_US.UTF-8", "C"], Language::Chinese),
            // Its terminal would show something else.
            (["", "", "zh_CN.GBK"], Language::English),
        ] {
            assert_eq!(of(values), language, "{values:?}");
        }
    }

    #[test]
    fn a_text_has_all_in_both_languages() {
        let (name, at) = ("x", 7);
        let text = both!("{name} stands in line {at}: {0}", "第 {at} 行有 {name}：{0}", "y");
        assert_eq!(text.in_language(Language::English), "x stands in line 7: y");
        assert_eq!(text.in_language(Language::Chinese), "第 7 行有 x：y");
        assert_eq!((text.spoken(), text.to_string().as_str()), (text.en.as_str(), text.en.as_str()));
        assert_eq!(spoken!("{name}", "某个 {name}"), "x");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        for (text, wide) in [("", 0), ("node", 4), ("节点", 4), ("每秒in", 6), ("（é）", 5)] {
            assert_eq!(columns(text), wide, "{text}");
            assert_eq!(columns(&(text.to_owned() + &padding(text, 9))), 9, "{text}");
        }
        assert_eq!(padding("节点", 3), "");
    }
}
