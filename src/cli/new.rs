//! `new`: a folder to begin with. Everything in it is built into the program, so that it fits its version.

use clap::{Args, ValueEnum};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::greeting::quoted;
use crate::telemetry::language::{Language, spoken};
use crate::telemetry::terminal::say;

/// What to make.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The folder to make; it must not be there, or be empty
    /// zh: 要新建的目录；必须不存在，或者是空的
    #[arg(value_name = "NAME")]
    name: PathBuf,
    /// What it is to be
    /// zh: 建成什么
    #[arg(long, value_enum, default_value_t = Template::Barrage)]
    template: Template,
}

/// What a project begins as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// Comments over a video
    /// zh: 视频弹幕
    Barrage,
    /// Rooms to talk in
    /// zh: 聊天室
    Chat,
    /// A user's messages, on every device
    /// zh: 用户的消息，发到他的每个设备
    Messages,
    /// Last quotes and new ones
    /// zh: 最近的报价和新的报价
    Quotes,
    /// Devices over TCP, and a dashboard
    /// zh: 通过 TCP 接入的设备，以及一个仪表盘
    Device,
}

/// What to do with a project; in it there is one, in the language of its maker.
const README: &str = "README.md";
const CHINESE: &str = "README.zh-CN.md";

macro_rules! template {
    ($folder:literal: $($to:literal = $from:literal),+) => {
        &[
            ("connmix.yaml", include_str!(concat!("../../templates/", $folder, "/connmix.yaml"))),
            (README, include_str!(concat!("../../templates/", $folder, "/README.md"))),
            (CHINESE, include_str!(concat!("../../templates/", $folder, "/README.zh-CN.md"))),
            $(($to, include_str!(concat!("../../", $from)))),+
        ]
    };
}

impl Template {
    /// Its files: where they go, and what they hold.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Template::Barrage => template!("barrage":
                "lua/barrage.lua" = "lua/entry.websocket.lua",
                "lua/barrage_test.lua" = "lua/entry.websocket_test.lua"),
            Template::Chat => template!("chat":
                "lua/chat.lua" = "docs/examples/chat/chat.lua",
                "lua/chat_test.lua" = "templates/chat/chat_test.lua"),
            Template::Messages => template!("messages":
                "lua/messages.lua" = "templates/messages/messages.lua",
                "lua/messages_test.lua" = "templates/messages/messages_test.lua"),
            Template::Quotes => template!("quotes":
                "lua/quotes.lua" = "templates/quotes/quotes.lua",
                "lua/quotes_test.lua" = "templates/quotes/quotes_test.lua"),
            Template::Device => template!("device":
                "lua/device.lua" = "docs/examples/device/device.lua",
                "lua/dashboard.lua" = "docs/examples/device/dashboard.lua",
                "lua/device_test.lua" = "templates/device/device_test.lua",
                "lua/dashboard_test.lua" = "templates/device/dashboard_test.lua"),
        }
    }

    /// What a file holds in the project. The script that ships has another name there.
    fn text(self, text: &str) -> String {
        match self {
            Template::Barrage => text.replace("entry.websocket.lua", "barrage.lua"),
            _ => text.to_owned(),
        }
    }
}

impl Options {
    /// Makes it, and says what comes next.
    pub(super) fn run(&self) -> Result<(), String> {
        let shown = self.name.display();
        match fs::read_dir(&self.name) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(spoken!("{shown} is there already, and not empty", "{shown} 已经存在，而且不是空的"));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{shown}: {e}")),
        }
        let (taken, left_out) = match Language::chosen() {
            Language::English => (README, CHINESE),
            Language::Chinese => (CHINESE, README),
        };
        for (to, text) in self.template.files().iter().filter(|(to, _)| *to != left_out) {
            let file = self.name.join(if *to == taken { README } else { to });
            write(&file, &self.template.text(text)).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        let readme = self.name.join(README);
        let readme = readme.display();
        say!(
            "{}",
            spoken!(
                "{shown} is ready. What to do with it stands in {readme}",
                "{shown} 已经建好。接下来做什么，写在 {readme} 里"
            )
        );
        let folder = quoted(&shown.to_string());
        say!("\n    cd {folder}\n    connmix test\n    connmix dev");
        Ok(())
    }
}

/// Writes a new file, with its folder. One that is there stays.
fn write(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::OpenOptions::new().write(true).create_new(true).open(file)?.write_all(text.as_bytes())
}
