//! The help of the command line, and what it says to wrong usage, in the language of the terminal. The texts are the doc comments
//! of the definitions: English first, and behind `zh:` the same in Chinese.

use clap::builder::PossibleValue;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};
use std::error::Error as _;
use std::fmt::Write;

use super::shell::takes_value;
use crate::telemetry::language::Language;
use crate::telemetry::terminal::complain;

/// What stands between the two languages of a text.
const MARK: &str = " zh: ";

/// The texts that the library for the command line adds.
const ADDED: [(&str, &str); 6] = [
    ("Print help", "显示帮助"),
    ("Print help (see more with '--help')", "显示帮助（'--help' 更详细）"),
    ("Print help (see a summary with '-h')", "显示帮助（'-h' 只显示概要）"),
    ("Print version", "显示版本"),
    ("Print this message or the help of the given subcommand(s)", "显示这里的帮助，或者某个命令的帮助"),
    ("Print help for the subcommand(s)", "要显示哪个命令的帮助"),
];

/// A text in one of its languages.
fn pick(text: &str, language: Language) -> String {
    let (en, zh) = match text.split_once(MARK) {
        Some((en, zh)) => (en, zh),
        None => (text, ADDED.iter().find(|(en, _)| *en == text).map_or(text, |(_, zh)| zh)),
    };
    match language {
        Language::English => en.strip_suffix('.').unwrap_or(en).to_owned(),
        Language::Chinese => zh.to_owned(),
    }
}

/// Definitions that have been built, with all texts in one language.
pub(super) fn texts(command: Command, language: Language) -> Command {
    let about = command.get_about().map(|about| pick(&about.to_string(), language));
    let command = command.mut_subcommands(|below| texts(below, language)).mut_args(|arg| {
        let help = arg.get_help().map(|help| pick(&help.to_string(), language));
        let long = arg.get_long_help().map(|help| pick(&help.to_string(), language));
        with_help(arg, help.unwrap_or_default(), long)
    });
    match about {
        Some(about) => command.about(about),
        None => command,
    }
}

fn with_help(arg: Arg, short: String, long: Option<String>) -> Arg {
    match long {
        Some(long) => arg.help(short).long_help(long),
        None => arg.help(short),
    }
}

/// The same for `--help`: with what the library would say in English, or would not find the language of.
pub(super) fn pages(command: Command, language: Language) -> Command {
    let command = command.mut_subcommands(|below| pages(below, language)).mut_args(|arg| values(arg, language));
    if language == Language::English {
        return command;
    }
    let header = *command.get_styles().get_header();
    let page = format!(
        "{{before-help}}{{about-with-newline}}\n{header}用法:{header:#} {{usage}}\n\n{{all-args}}{{after-help}}"
    );
    command.help_template(page).subcommand_help_heading("命令").mut_args(|arg| {
        let heading = if arg.is_positional() { "参数" } else { "选项" };
        default(arg).help_heading(heading)
    })
}

/// Lists the values that an option may have.
fn values(arg: Arg, language: Language) -> Arg {
    let values: Vec<PossibleValue> = if takes_value(&arg) { arg.get_possible_values() } else { Vec::new() };
    let is_told = values.iter().any(|value| value.get_help().is_some());
    if values.is_empty() || !is_told && language == Language::English {
        return arg;
    }
    let heading = match language {
        Language::English => ["possible values: ", "Possible values:"],
        Language::Chinese => ["可选值：", "可选值："],
    };
    let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let short = format!("{help} [{}{}]", heading[0], names.join(", "));
    let mut long = format!("{help}\n\n{}", heading[1]);
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default() + 1;
    for value in &values {
        let help = value.get_help().map(|help| pick(&help.to_string(), language)).unwrap_or_default();
        // A string takes everything.
        let _ = write!(long, "\n- {:<width$} {help}", format!("{}:", value.get_name()));
    }
    with_help(arg, short, is_told.then_some(long)).hide_possible_values(true)
}

/// Tells an option's default in Chinese.
fn default(arg: Arg) -> Arg {
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if !takes_value(&arg) || defaults.is_empty() || arg.is_hide_default_value_set() {
        return arg;
    }
    let quoted =
        |value: &String| if value.contains(char::is_whitespace) { format!("{value:?}") } else { value.clone() };
    let told = format!("[默认：{}]", defaults.iter().map(quoted).collect::<Vec<_>>().join(" "));
    let short = arg.get_help().map(|help| format!("{help} {told}"));
    let long = arg.get_long_help().map(|help| format!("{help}\n\n{told}"));
    with_help(arg, short.unwrap_or(told), long).hide_default_value(true)
}

/// Prints what a wrong command line, or one that asks for help, is answered, and ends the process.
pub(super) fn end(error: &Error, language: Language) -> ! {
    match error.kind() {
        // These are pages, in the language already.
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::DisplayVersion => {
            error.exit()
        }
        _ if language == Language::English => error.exit(),
        _ => {
            complain!("{}", complaint(error));
            std::process::exit(error.exit_code())
        }
    }
}

/// What is wrong with a command line, in Chinese.
fn complaint(error: &Error) -> String {
    let told = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        Some(ContextValue::Number(number)) => number.to_string(),
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        _ => String::new(),
    };
    let (arg, value, prior) =
        (told(ContextKind::InvalidArg), told(ContextKind::InvalidValue), told(ContextKind::PriorArg));
    let mut text = "错误：".to_owned();
    text += &match error.kind() {
        ErrorKind::UnknownArgument => format!("不认识的参数 '{arg}'"),
        ErrorKind::InvalidSubcommand => format!("没有这个命令：'{}'", told(ContextKind::InvalidSubcommand)),
        ErrorKind::InvalidValue if value.is_empty() => format!("'{arg}' 后面需要一个值"),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let why = error.source().map_or_else(String::new, |why| format!("：{}", wrong_value(&why.to_string())));
            format!("'{arg}' 的值 '{value}' 无效{why}")
        }
        ErrorKind::MissingRequiredArgument => format!("缺少必需的参数：{arg}"),
        ErrorKind::MissingSubcommand => format!("'{}' 后面需要一个命令", told(ContextKind::InvalidSubcommand)),
        ErrorKind::ArgumentConflict if arg == prior || prior.is_empty() => format!("'{arg}' 只能写一次"),
        ErrorKind::ArgumentConflict => format!("'{arg}' 不能与 '{prior}' 一起使用"),
        ErrorKind::TooManyValues => format!("'{arg}' 后面的值 '{value}' 是多余的"),
        kind => kind.to_string(),
    };
    let (possible, commands) = (told(ContextKind::ValidValue), told(ContextKind::ValidSubcommand));
    for (what, list) in [("可选值", possible), ("命令", commands)] {
        if !list.is_empty() {
            text += &format!("\n  [{what}：{list}]");
        }
    }
    let near = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue].map(told);
    near.iter().filter(|near| !near.is_empty()).for_each(|near| text += &format!("\n\n  提示：是不是 '{near}'？"));
    if let Some(usage) = told(ContextKind::Usage).strip_prefix("Usage: ") {
        text += &format!("\n\n用法: {usage}");
    }
    text + "\n\n'--help' 会说明用法。"
}

/// What the library says of a value, in Chinese where that is known.
fn wrong_value(why: &str) -> String {
    match why.split_once(" is not in ") {
        Some((value, range)) => format!("{value} 不在 {range} 之内"),
        None if why.starts_with("invalid digit") || why.starts_with("invalid float") => "应为数字".to_owned(),
        None => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_chinese(text: &str) -> bool {
        text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
    }

    /// All texts of a command and of those below it, each with whose it is.
    fn all(command: &Command, path: &str) -> Vec<(String, String)> {
        let path = format!("{path} {}", command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let mut texts = vec![(path.clone(), about)];
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let of = format!("{path} {}", arg.get_id());
            for value in arg.get_possible_values().iter().filter(|_| takes_value(arg)) {
                // Those of shells are commands.
                let help = value.get_help().filter(|help| !help.to_string().contains("connmix completions "));
                texts.extend(help.map(|help| (format!("{of} {}", value.get_name()), help.to_string())));
            }
            texts.push((of, arg.get_help().map(ToString::to_string).unwrap_or_default()));
        }
        texts.extend(command.get_subcommands().flat_map(|below| all(below, &path)));
        texts
    }

    #[test]
    fn every_text_of_the_help_is_there_in_both_languages() {
        let written = all(&super::super::definitions(), "");
        assert!(written.len() > 100, "{}", written.len());
        for (of, text) in &written {
            let (en, zh) = (pick(text, Language::English), pick(text, Language::Chinese));
            assert!(!en.is_empty() && !has_chinese(&en) && !en.contains(MARK), "English of{of}: {text}");
            assert!(has_chinese(&zh) && !zh.contains(MARK), "Chinese of{of}: {text}");
        }
    }

    #[test]
    fn pages_are_in_one_language() {
        for language in [Language::English, Language::Chinese] {
            let command = pages(texts(super::super::definitions(), language), language);
            // The texts of values stay as they are written; the pages list them.
            for (of, text) in all(&command, "").into_iter().filter(|(_, text)| !text.contains(MARK)) {
                assert_eq!(has_chinese(&text), language == Language::Chinese, "{of}: {text}");
            }
        }
    }

    #[test]
    fn wrong_usage_is_told_in_chinese() {
        let command = || pages(texts(super::super::definitions(), Language::Chinese), Language::Chinese);
        for (args, says) in [
            (&["serve"][..], "没有这个命令：'serve'"),
            (&["devv"], "是不是 'dev'？"),
            (&["single", "-x"], "不认识的参数 '-x'"),
            (&["single", "-p"], "'--workers <N>' 后面需要一个值"),
            (&["single", "-p", "many"], "'--workers <N>' 的值 'many' 无效：应为数字"),
            (&["single", "-p", "257"], "257 不在 0..=256 之内"),
            (&["new"], "缺少必需的参数：<NAME>"),
            (&["new", "x", "--template", "chatt"], "[可选值：barrage, chat"),
            (&["check", "--strict", "--explain", "x"], "不能与"),
        ] {
            let error = command().try_get_matches_from([&["connmix"], args].concat()).unwrap_err();
            let said = complaint(&error);
            assert!(said.contains(says), "{args:?}: {said}");
            assert!(said.starts_with("错误：") && !said.contains("Usage"), "{said}");
        }
    }
}
