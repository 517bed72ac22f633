//! `man`: the manual page, made of the same definitions as the help.

use clap::{Arg, Command};
use std::fmt::Write;

use super::shell::{about, commands, options, spellings, takes_value};

/// What stands on the page besides.
const REST: &str = r#".SH EXIT STATUS
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
.SH ENVIRONMENT
.TP
.BR CONNMIX_PASSWORD ", " CONNMIX_TOKEN
Who calls an API: the password of
.BR \-\-user ,
or a token.
.TP
.B NO_COLOR
Without colours.
"#;

/// A text with what troff gives a meaning taken as it is.
fn plain(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    // A point at the beginning of a line would be a request.
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// The page of section 1.
pub(super) fn page(root: &Command) -> String {
    let mut out = String::new();
    let version = env!("CARGO_PKG_VERSION");
    // It can't fail, here and below.
    let _ = writeln!(out, ".TH CONNMIX 1 \"\" \"connmix {version}\" \"User Commands\"");
    let name = about(root.get_about());
    let _ = writeln!(out, ".SH NAME\nconnmix \\- {}", plain(name.trim_end_matches('.')));
    out.push_str(".SH SYNOPSIS\n.B connmix\n.I COMMAND\n.RI [ OPTIONS ]\n.SH DESCRIPTION\n");
    let _ = writeln!(out, "{}", plain(&name));
    out.push_str(".SH OPTIONS\n");
    for arg in root.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional()) {
        option(&mut out, arg);
    }
    out.push_str(".SH COMMANDS\n");
    for node in commands(root).iter().skip(1) {
        let _ = writeln!(out, ".SS {}", plain(&usage(&node.words[1..], node.command)));
        let _ = writeln!(out, "{}", plain(&about(node.command.get_about())));
        for arg in node.command.get_positionals() {
            let _ = writeln!(out, ".TP\n.I {}\n{}", plain(&value(arg)), plain(&about(arg.get_help())));
        }
        for arg in options(root, node.command).into_iter().filter(|arg| !arg.is_global_set()) {
            option(&mut out, arg);
        }
    }
    out.push_str(REST);
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

fn option(out: &mut String, arg: &Arg) {
    let mut head = plain(&spellings(arg).join(", "));
    if takes_value(arg) {
        let _ = write!(head, " {}", plain(&value(arg)));
    }
    let _ = writeln!(out, ".TP\n\\fB{head}\\fR\n{}", plain(&about(arg.get_help())));
    let listed: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if takes_value(arg) && !listed.is_empty() {
        let _ = writeln!(out, "One of: {}.", plain(&listed.join(", ")));
    }
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if takes_value(arg) && !defaults.is_empty() {
        let _ = writeln!(out, "Default: {}.", plain(&defaults.join(" ")));
    }
}
