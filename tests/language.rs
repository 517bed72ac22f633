//! The language of the terminal: what the real program says under a locale of Chinese and under others. The log is English.

mod common;

use common::process::{Ended, Process};
use common::*;
use std::net::TcpListener;
use std::path::Path;
use tempfile::TempDir;

const ECHO: &str = "function on_message(msg, conn) conn:send(msg.data) end";

/// A folder with a configuration on free ports, and its script.
fn folder(script: &str, server: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), server, "workers: 2", "");
    dir
}

/// Runs the program under these variables of the locale; the others are empty.
fn run_under(dir: &Path, locale: &[(&str, &str)], args: &[&str]) -> Ended {
    let set = |name: &str| locale.iter().find(|(of, _)| *of == name).map_or("", |(_, value)| *value);
    let all = ["LC_ALL", "LC_MESSAGES", "LANG"].map(|name| (name, Path::new(set(name))));
    Process::start_with(dir, args, &all).ended()
}

fn in_chinese(dir: &Path, args: &[&str]) -> Ended {
    run_under(dir, &[("LANG", "zh_CN.UTF-8")], args)
}

fn has_chinese(text: &str) -> bool {
    text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
}

#[test]
fn the_locale_decides() {
    let dir = tempfile::tempdir().unwrap();
    for (locale, chinese) in [
        (&[][..], false),
        (&[("LANG", "C.UTF-8")], false),
        (&[("LANG", "en_US.UTF-8")], false),
        (&[("LANG", "zh_CN.UTF-8")], true),
        (&[("LC_MESSAGES", "zh_CN.UTF-8"), ("LANG", "en_US.UTF-8")], true),
        (&[("LC_ALL", "C"), ("LC_MESSAGES", "zh_CN.UTF-8"), ("LANG", "zh_CN.UTF-8")], false),
        (&[("LC_ALL", "zh_TW.UTF-8"), ("LANG", "C")], true),
    ] {
        let help = run_under(dir.path(), locale, &["--help"]);
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""), "{locale:?}");
        assert_eq!(has_chinese(&help.out), chinese, "{locale:?}: {}", help.out);
        assert!(help.out.contains(if chinese {
            "用法: connmix [OPTIONS] <COMMAND>"
        } else {
            "Usage: connmix [OPTIONS] <COMMAND>"
        }));
    }
}

#[test]
fn a_project_has_its_readme_in_the_language_of_its_maker() {
    for template in ["barrage", "chat", "messages", "quotes", "device"] {
        for (locale, chinese) in [("zh_CN.UTF-8", true), ("C.UTF-8", false)] {
            let dir = tempfile::tempdir().unwrap();
            let made = run_under(dir.path(), &[("LANG", locale)], &["new", "p", "--template", template]);
            assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
            let readme = std::fs::read_to_string(dir.path().join("p/README.md")).unwrap();
            assert_eq!(has_chinese(&readme), chinese, "{template} {locale}");
            let pages = std::fs::read_dir(dir.path().join("p")).unwrap();
            let pages = pages.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "md"));
            assert_eq!(pages.count(), 1);
        }
    }
}

#[test]
fn the_help_of_every_command_is_there_in_both_languages() {
    let dir = tempfile::tempdir().unwrap();
    let english = run_under(dir.path(), &[], &["help"]);
    let listed = english.out.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let (en, zh) = (run_under(dir.path(), &[], &["help", command]), in_chinese(dir.path(), &["help", command]));
        assert_eq!((en.code, zh.code), (Some(0), Some(0)), "{command}");
        assert!(!has_chinese(&en.out) && !en.out.contains("zh:"), "{}", en.out);
        // Each line that says something does so in Chinese; what has no words is an option's name, or an example.
        for word in [
            "Usage:",
            "Options:",
            "Arguments:",
            "Commands:",
            "Print ",
            "[default",
            "possible values",
            "Possible values",
        ] {
            assert!(!zh.out.contains(word), "{word} in {}", zh.out);
        }
        assert!(
            zh.out.contains("用法: connmix ") && zh.out.contains("选项:\n") && !zh.out.contains("zh:"),
            "{}",
            zh.out
        );
        assert_eq!(zh.out, in_chinese(dir.path(), &[command, "--help"]).out);
        let options = |text: &str| text.matches(" --").count();
        assert_eq!(options(&en.out), options(&zh.out), "{}\n{}", en.out, zh.out);
    }
    let new = in_chinese(dir.path(), &["new", "--help"]).out;
    for part in ["- barrage:  视频弹幕", "- chat:     聊天室", "[默认：barrage]"] {
        assert!(new.contains(part), "{part} in {new}");
    }
    assert!(run_under(dir.path(), &[], &["new", "--help"]).out.contains("- chat:     Rooms to talk in"));
    let man = in_chinese(dir.path(), &["man"]);
    assert!(
        man.out.contains(".SH 名称\n") && man.out.contains(".SH 环境变量\n") && !man.out.contains("zh:"),
        "{}",
        man.out
    );
    assert!(in_chinese(dir.path(), &["man"]).out.contains("\n配置文件。默认：connmix.yaml。\n"));
    let completions = in_chinese(dir.path(), &["completions", "fish"]).out;
    assert!(completions.contains("-d '打印手册页'"), "{completions}");
}

#[test]
fn wrong_usage_is_told_in_chinese() {
    let dir = tempfile::tempdir().unwrap();
    for (args, says) in [
        (&["serve"][..], "没有这个命令：'serve'"),
        (&["single", "-x"], "不认识的参数 '-x'"),
        (&["single", "-p", "257"], "'--workers <N>' 的值 '257' 无效：257 不在 0..=256 之内"),
        (&["test", "--timeout", "0"], "应为 0.01 到 3600 的数字"),
    ] {
        let ended = in_chinese(dir.path(), args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{args:?}: {ended:?}");
        assert!(ended.err.starts_with("错误：") && ended.err.contains(says), "{args:?}: {}", ended.err);
    }
    assert!(in_chinese(dir.path(), &["serve"]).err.contains("\n\n用法: connmix [OPTIONS] <COMMAND>\n"));
}

#[test]
fn problems_of_a_configuration_are_told_in_chinese_and_their_places_stay() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), ECHO).unwrap();
    for (config, says) in [
        (
            "engine:\n  servers: [{entry: entry.lua, readTimout: 1}]\n",
            ":2:32: engine.servers[0].readTimout: 没有这个配置项 \"readTimout\"；是不是 \"readTimeout\"？",
        ),
        (
            "engine:\n  servers: [{entry: entry.lua, readTimeout: 25h}]\n",
            ": engine.servers[0].readTimeout: 超出范围：\"25h\"；必须从 0s 到 24h",
        ),
        ("engine:\n  servers: [{entry: entry.lua, port: x}]\n", ": engine.servers[0].port: 应为整数，实际是 \"x\""),
        ("engine:\n  workers: [1]\n  servers: [{entry: entry.lua}]\n", ": engine.workers: 应为整数，实际是列表"),
        ("engine:\n  servers: [{entry: none.lua}]\n", ": engine.servers[0].entry: 没有这个脚本："),
        (
            "logging: {format: loud}\nengine:\n  servers: [{entry: entry.lua}]\n",
            ": logging.format: 应为以下之一：text, json，实际是 \"loud\"",
        ),
        ("engine: {servers: []}\n", ": engine.servers: 至少需要一个 server"),
        ("engine: [1\n", "不是有效的 YAML："),
    ] {
        std::fs::write(dir.path().join("connmix.yaml"), config).unwrap();
        let ended = in_chinese(dir.path(), &["check"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.starts_with("connmix.yaml:") && ended.err.contains(says), "{config}: {}", ended.err);
        assert!(!has_chinese(&run_under(dir.path(), &[], &["check"]).err), "{config}");
    }
    let missing = in_chinese(dir.path(), &["check", "-f", "none.yaml"]);
    let says = "none.yaml: 无法读取：没有这个文件或目录 (os error 2)；请用 -f FILE 指定文件";
    assert!(missing.err.starts_with(says), "{}", missing.err);
}

#[test]
fn a_check_of_scripts_hints_in_chinese() {
    let script = "function on_message(msg, conn)\n  mix.json_decod(msg.data)\nend\nfunction on_colse() end\n";
    let dir = folder(script, "");
    let warned = in_chinese(dir.path(), &["check"]);
    assert_eq!(
        warned.err,
        "entry.lua:2: 警告：mix 没有 'json_decod'；是不是 'json_decode'？\n\
         entry.lua:4: 警告：没有地方调用全局函数 'on_colse'；是不是钩子 'on_close'？"
    );
    assert!(warned.out.ends_with("connmix.yaml: 2 个警告；1 个 server"), "{}", warned.out);
    assert_eq!(in_chinese(dir.path(), &["check", "--strict"]).code, Some(1));
    // The error itself is what scripts see.
    std::fs::write(dir.path().join("entry.lua"), format!("{ECHO}\nmix.json_decoed('x')")).unwrap();
    let failed = in_chinese(dir.path(), &["check"]);
    let says = "entry.lua:2: attempt to call field 'json_decoed' (a nil value)；mix 没有 'json_decoed'；是不是 'json_decode'？";
    assert_eq!((failed.code, failed.err.lines().next()), (Some(1), Some(says)));
    let dir = folder(ECHO, "tls: {cert: none.pem, key: none.pem}");
    let certificate = in_chinese(dir.path(), &["check"]).err;
    assert!(
        certificate.contains("engine.servers[0].tls: 无法读取 ") && certificate.contains("没有这个文件"),
        "{certificate}"
    );
    let production = in_chinese(folder(ECHO, "readTimeout: 0").path(), &["check", "--production"]);
    assert!(production.err.contains("engine.servers[0].readTimeout: 警告：0 表示没有上限："), "{production:?}");
}

#[test]
fn commands_say_in_chinese_what_stopped_them() {
    let dir = folder(ECHO, "");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = std::fs::read_to_string(dir.path().join("connmix.yaml")).unwrap();
    let at = taken.local_addr().unwrap();
    let server = config.rfind("port: 0").unwrap();
    let config = format!("{}port: {}{}", &config[..server], at.port(), &config[server + "port: 0".len()..]);
    std::fs::write(dir.path().join("connmix.yaml"), config).unwrap();
    let ended = in_chinese(dir.path(), &["single"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains(&format!(": 无法监听 {at}：地址已被占用 (os error 98)")), "{ended:?}");
    let upgrade = in_chinese(dir.path(), &["upgrade"]);
    assert_eq!(upgrade.err, "找不到以 connmix.yaml 运行的进程：连接被拒绝 (os error 111)");
    let why = in_chinese(dir.path(), &["why", "7", "--url", "nowhere"]);
    assert_eq!(why.err, "nowhere: 应为 http:// 或 https://HOST:PORT/PATH");
    let none = in_chinese(dir.path(), &["test"]);
    assert_eq!((none.code, none.err.starts_with("没有测试：")), (Some(2), true), "{none:?}");
    let test = "test.it('works', function() end)\ntest.it('fails', function() error('no') end)";
    std::fs::write(dir.path().join("a_test.lua"), test).unwrap();
    let tested = in_chinese(dir.path(), &["test"]);
    assert!(tested.out.contains("  通过  works\n  失败  fails\n"), "{tested:?}");
    assert!(tested.out.contains("2 个测试：1 个通过，1 个失败 ("), "{tested:?}");
}

#[test]
fn the_log_is_english() {
    let dir = folder(ECHO, "");
    let process = Process::start_with(dir.path(), &["dev"], &[("LC_ALL", Path::new("zh_CN.UTF-8"))]);
    let ready = process.line(" is ready; ");
    assert!(!has_chinese(&ready), "{ready}");
    process.line("保存后立即生效");
    std::fs::write(dir.path().join("entry.lua"), format!("{ECHO}\nfunction on_colse() end")).unwrap();
    let warned = process.line("warning: nothing calls the global function 'on_colse'; did you mean the hook");
    assert!(!has_chinese(&warned), "{warned}");
    let stopped = process.stop();
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
}
