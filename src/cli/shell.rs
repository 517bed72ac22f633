//! `completions`: what bash, zsh and fish complete, made of the same definitions as the help.

use clap::{Arg, Command, ValueEnum};
use std::fmt::Write;

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// source <(connmix completions bash)
    Bash,
    /// connmix completions zsh > "${fpath[1]}/_connmix"
    Zsh,
    /// connmix completions fish > ~/.config/fish/completions/connmix.fish
    Fish,
}

/// A command with all that may stand behind it.
pub(super) struct Node<'a> {
    /// The words from the program's name on.
    pub(super) words: Vec<&'a str>,
    pub(super) command: &'a Command,
}

/// All commands that people see, each behind the one that it belongs to.
pub(super) fn commands(root: &Command) -> Vec<Node<'_>> {
    let mut all = vec![Node { words: vec![root.get_name()], command: root }];
    let mut at = 0;
    while let Some(Node { words, command }) = all.get(at) {
        let words = words.clone();
        let below = command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
        let below: Vec<_> = below
            .map(|command| Node { words: words.iter().copied().chain([command.get_name()]).collect(), command })
            .collect();
        at += 1;
        all.splice(at..at, below);
    }
    all
}

/// The options of a command that people see, those that hold everywhere among them.
pub(super) fn options<'a>(root: &'a Command, command: &'a Command) -> Vec<&'a Arg> {
    let own = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    let everywhere = root.get_arguments().filter(|arg| arg.is_global_set() && !arg.is_hide_set());
    let mut all: Vec<&Arg> = own.collect();
    for arg in everywhere {
        if !command.get_arguments().any(|known| known.get_id() == arg.get_id()) {
            all.push(arg);
        }
    }
    all
}

/// Its spellings, the short one first.
pub(super) fn spellings(arg: &Arg) -> Vec<String> {
    let short = arg.get_short().map(|short| format!("-{short}"));
    short.into_iter().chain(arg.get_long().map(|long| format!("--{long}"))).collect()
}

/// Whether a value follows it.
pub(super) fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// The values that it may have, if there is a list.
fn values(arg: &Arg) -> Vec<String> {
    match takes_value(arg) {
        true => arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect(),
        false => Vec::new(),
    }
}

/// What it is for, on one line.
pub(super) fn about(text: Option<impl std::fmt::Display>) -> String {
    text.map(|text| text.to_string()).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The script of a shell.
pub(super) fn script(shell: Shell, root: &Command) -> String {
    match shell {
        Shell::Bash => bash(root),
        Shell::Zsh => zsh(root),
        Shell::Fish => fish(root),
    }
}

/// What may stand behind a command: its options and the commands below it.
fn words(root: &Command, node: &Node<'_>) -> String {
    let options = options(root, node.command).into_iter().flat_map(spellings);
    let below = node.command.get_subcommands().filter(|command| !command.is_hide_set());
    let positional = node.command.get_positionals().flat_map(values);
    let all: Vec<String> =
        below.map(|command| command.get_name().to_owned()).chain(positional).chain(options).collect();
    all.join(" ")
}

fn bash(root: &Command) -> String {
    let all = commands(root);
    let mut out = String::from("# bash completion for connmix\n_connmix() {\n");
    out.push_str("    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at=connmix i words=\n");
    out.push_str("    for ((i = 1; i < COMP_CWORD; i++)); do\n        case \"$at ${COMP_WORDS[i]}\" in\n");
    for node in &all[1..] {
        // It can't fail, here and below.
        let _ = writeln!(out, "            \"{0}\") at=\"{0}\" ;;", node.words.join(" "));
    }
    out.push_str("        esac\n    done\n    case \"$at $prev\" in\n");
    for node in &all {
        for arg in options(root, node.command).into_iter().filter(|arg| takes_value(arg)) {
            let patterns: Vec<String> =
                spellings(arg).iter().map(|spelling| format!("\"{} {spelling}\"", node.words.join(" "))).collect();
            // A folder is not the end of a path.
            let (kind, complete) = match values(arg) {
                values if values.is_empty() => ("compopt -o filenames 2>/dev/null; ", "-f".to_owned()),
                values => ("", format!("-W \"{}\"", values.join(" "))),
            };
            let _ = writeln!(
                out,
                "        {}) {kind}mapfile -t COMPREPLY < <(compgen {complete} -- \"$cur\"); return ;;",
                patterns.join(" | ")
            );
        }
    }
    out.push_str("    esac\n    case \"$at\" in\n");
    for node in &all {
        let _ = writeln!(out, "        \"{}\") words=\"{}\" ;;", node.words.join(" "), words(root, node));
    }
    out.push_str(
        "    esac\n    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}\ncomplete -o default -F _connmix connmix\n",
    );
    out
}

/// A text within single quotes; what zsh's descriptions give a meaning is taken out of it.
fn zsh_text(text: &str) -> String {
    text.replace('\'', "'\\''").replace(['[', ']'], "").replace(':', "\\:")
}

fn zsh(root: &Command) -> String {
    let mut out = String::from("#compdef connmix\n# zsh completion for connmix\n");
    for node in commands(root).iter().rev() {
        let name = format!("_{}", node.words.join("_").replace('-', "_"));
        let _ = writeln!(out, "\n{name}() {{\n    local context state state_descr line\n    typeset -A opt_args");
        let below: Vec<&Command> = node
            .command
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && command.get_name() != "help")
            .collect();
        let mut lines = Vec::new();
        for arg in options(root, node.command) {
            let all = spellings(arg);
            let help = zsh_text(&about(arg.get_help()));
            let value = match (takes_value(arg), values(arg)) {
                (false, _) => String::new(),
                (true, values) if values.is_empty() => ":value:_files".to_owned(),
                (true, values) => format!(":value:({})", values.join(" ")),
            };
            for spelling in &all {
                lines.push(format!("'({}){spelling}[{help}]{value}'", all.join(" ")));
            }
        }
        if below.is_empty() {
            for arg in node.command.get_positionals() {
                let values = values(arg);
                let what = if values.is_empty() { "_files".to_owned() } else { format!("({})", values.join(" ")) };
                lines.push(format!("'::{}:{what}'", zsh_text(arg.get_id().as_ref())));
            }
        } else {
            lines.push("'1:command:->command'".into());
            lines.push("'*::argument:->argument'".into());
        }
        let _ = writeln!(out, "    _arguments -C \\\n        {}", lines.join(" \\\n        "));
        if !below.is_empty() {
            out.push_str("    case $state in\n        command)\n            local -a commands=(\n");
            for command in &below {
                let about = zsh_text(&about(command.get_about()));
                let _ = writeln!(out, "                '{}:{about}'", command.get_name());
            }
            out.push_str("            )\n            _describe command commands ;;\n        argument)\n            case $line[1] in\n");
            for command in &below {
                let _ = writeln!(
                    out,
                    "                {0}) {name}_{1} ;;",
                    command.get_name(),
                    command.get_name().replace('-', "_")
                );
            }
            out.push_str("            esac ;;\n    esac\n");
        }
        out.push_str("}\n");
    }
    out.push_str("\nif [ \"$funcstack[1]\" = \"_connmix\" ]; then\n    _connmix \"$@\"\nelse\n    compdef _connmix connmix\nfi\n");
    out
}

fn fish(root: &Command) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut out = String::from("# fish completion for connmix\n");
    for node in commands(root) {
        let below: Vec<&Command> = node
            .command
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && command.get_name() != "help")
            .collect();
        let names: Vec<&str> = below.iter().map(|command| command.get_name()).collect();
        let mut conditions: Vec<String> =
            node.words[1..].iter().map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
        if !names.is_empty() {
            conditions.push(format!("not __fish_seen_subcommand_from {}", names.join(" ")));
        }
        let when =
            if conditions.is_empty() { String::new() } else { format!(" -n {}", quote(&conditions.join("; and "))) };
        for command in below {
            let about = quote(&about(command.get_about()));
            let _ = writeln!(out, "complete -c connmix -f{when} -a {} -d {about}", command.get_name());
        }
        for value in node.command.get_positionals().flat_map(values) {
            let _ = writeln!(out, "complete -c connmix -f{when} -a {value}");
        }
        for arg in options(root, node.command) {
            let short = arg.get_short().map_or_else(String::new, |short| format!(" -s {short}"));
            let long = arg.get_long().map_or_else(String::new, |long| format!(" -l {long}"));
            let value = match (takes_value(arg), values(arg)) {
                (false, _) => String::new(),
                (true, values) if values.is_empty() => " -r -F".to_owned(),
                (true, values) => format!(" -x -a {}", quote(&values.join(" "))),
            };
            let _ = writeln!(out, "complete -c connmix{when}{short}{long}{value} -d {}", quote(&about(arg.get_help())));
        }
    }
    out
}
