//! `man`: the manual page, made of the same definitions as the help.

use clap::{Arg, Command};
use std::fmt::Write;

use super::shell::{about, commands, options, spellings, takes_value};
use crate::telemetry::language::Language;

/// What stands on the page besides, in English and in Chinese.
const REST: [&str; 2] = [
    r#".SH EXIT STATUS
.TP
0
It stopped cleanly, or did what it was asked.
.TP
1
The configuration, a script or the system has a problem, or a test failed; standard error says which.
.TP
2
The command line is wrong; or there was no test to run.
.TP
3
.BR client :
the server closed with another code than 1000 and 1001.
.SH FILES
.TP
.I connmix.yaml
The configuration, in the working directory;
.B \-f
names another.
.TP
.I lua/
Scripts, where the configuration says.
.SH SIGNALS
.TP
.BR TERM ", " INT ", " QUIT
Stop: clients are told, calls under way are answered. A second one stops at once.
.TP
.B HUP
Read the configuration, scripts and certificates anew.
.TP
.B USR1
Open the log file anew, after it has been moved away.
.TP
.B USR2
As upgrade: the program that now lies at its path takes over.
.SH ENVIRONMENT
.TP
.BR CONNMIX_PASSWORD ", " CONNMIX_TOKEN
Who calls an API: the password of
.BR \-\-user ,
or a token.
.TP
.B NO_COLOR
Without colours.
.TP
.BR LC_ALL ", " LC_MESSAGES ", " LANG
The first that is set is the locale: with one of Chinese (zh_CN.UTF\-8), help, hints and problems are told in Chinese. The log is English
in any case.
"#,
    r#".SH 退出码
.TP
0
正常停止，或者完成了任务。
.TP
1
配置、脚本或系统有问题，或者有测试没有通过；标准错误里写明是哪个。
.TP
2
命令行有误；或者没有可运行的测试。
.TP
3
.BR client ：
服务器以 1000 和 1001 以外的关闭码关闭了连接。
.SH 文件
.TP
.I connmix.yaml
工作目录里的配置文件；
.B \-f
指定另一个。
.TP
.I lua/
脚本，位置由配置决定。
.SH 信号
.TP
.BR TERM 、 INT 、 QUIT
停止：会通知客户端，应答进行中的调用。第二个信号使它立即停止。
.TP
.B HUP
重新读取配置、脚本和证书。
.TP
.B USR1
在日志文件被移走之后，重新打开日志文件。
.TP
.B USR2
与 upgrade 相同：由路径上现在的程序接手。
.SH 环境变量
.TP
.BR CONNMIX_PASSWORD 、 CONNMIX_TOKEN
以谁的身份调用 API：
.B \-\-user
的密码，或者令牌。
.TP
.B NO_COLOR
不使用颜色。
.TP
.BR LC_ALL 、 LC_MESSAGES 、 LANG
其中第一个有值的就是语言环境：是中文（zh_CN.UTF\-8）时，帮助、提示和问题以中文显示。日志总是英文。
"#,
];

/// A text with what troff gives a meaning taken as it is.
fn plain(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    // A point at the beginning of a line would be a request.
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// The page of section 1.
pub(super) fn page(root: &Command, language: Language) -> String {
    let mut out = String::new();
    let word = |en: &'static str, zh: &'static str| if language == Language::Chinese { zh } else { en };
    let version = env!("CARGO_PKG_VERSION");
    // It can't fail, here and below.
    let _ = writeln!(out, ".TH CONNMIX 1 \"\" \"connmix {version}\" \"{}\"", word("User Commands", "用户命令"));
    let name = about(root.get_about());
    let _ = writeln!(out, ".SH {}\nconnmix \\- {}", word("NAME", "名称"), plain(name.trim_end_matches('.')));
    let (synopsis, description) = (word("SYNOPSIS", "概要"), word("DESCRIPTION", "描述"));
    let _ = writeln!(out, ".SH {synopsis}\n.B connmix\n.I COMMAND\n.RI [ OPTIONS ]\n.SH {description}");
    let _ = writeln!(out, "{}", plain(&name));
    let _ = writeln!(out, ".SH {}", word("OPTIONS", "选项"));
    for arg in root.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional()) {
        option(&mut out, arg, language);
    }
    let _ = writeln!(out, ".SH {}", word("COMMANDS", "命令"));
    for node in commands(root).iter().skip(1) {
        let _ = writeln!(out, ".SS {}", plain(&usage(&node.words[1..], node.command)));
        let _ = writeln!(out, "{}", plain(&about(node.command.get_about())));
        for arg in node.command.get_positionals() {
            let _ = writeln!(out, ".TP\n.I {}\n{}", plain(&value(arg)), plain(&about(arg.get_help())));
        }
        for arg in options(root, node.command).into_iter().filter(|arg| !arg.is_global_set()) {
            option(&mut out, arg, language);
        }
    }
    out.push_str(word(REST[0], REST[1]));
    out
}

/// The words of a command, and what it needs.
fn usage(words: &[&str], command: &Command) -> String {
    let mut usage = words.join(" ");
    for arg in command.get_positionals() {
        let value = value(arg);
        let _ = if arg.is_required_set() { write!(usage, " {value}") } else { write!(usage, " [{value}]") };
    }
    usage
}

/// What stands for its value.
fn value(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    match names.first() {
        Some(name) => name.to_string(),
        None => arg.get_id().to_string().to_uppercase(),
    }
}

fn option(out: &mut String, arg: &Arg, language: Language) {
    let (one_of, default, end, space) = match language {
        Language::English => ("One of: ", "Default: ", ".", " "),
        Language::Chinese => ("可选值：", "默认：", "。", ""),
    };
    let mut head = plain(&spellings(arg).join(", "));
    if takes_value(arg) {
        let _ = write!(head, " {}", plain(&value(arg)));
    }
    let mut help = about(arg.get_help());
    let listed: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let lists = [(one_of, listed.join(", ")), (default, defaults.join(" "))];
    for (what, list) in lists.into_iter().filter(|(_, list)| takes_value(arg) && !list.is_empty()) {
        // Sentences, one behind the other.
        if !help.is_empty() {
            help.push_str(if help.ends_with(end) { "" } else { end });
            help.push_str(space);
        }
        let _ = write!(help, "{what}{list}{end}");
    }
    let _ = writeln!(out, ".TP\n\\fB{head}\\fR\n{}", plain(&help));
}
