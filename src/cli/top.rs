//! `top`: the figures of a running engine, a line each second, as its page of metrics tells them.

use clap::Args;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::remote::{NobodyReads, Out, Remote, ask_again, tell_gap, wait_for};
use crate::telemetry::language::{Language, padding};

/// What to watch.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// One line after a second, and the end
    /// zh: 一秒之后打印一行就结束
    #[arg(long)]
    once: bool,
    /// Seconds between two lines
    /// zh: 两行之间的秒数
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    every: u32,
    /// A JSON object instead of each line
    /// zh: 每行改为一个 JSON 对象
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// The page of metrics.
const PATH: &str = "/metrics";
/// Lines between two headings.
const HEADING: usize = 20;

/// A page of metrics: what all samples of a name come to.
struct Page {
    at: Instant,
    sums: HashMap<String, f64>,
}

impl Page {
    fn read(text: &str) -> Page {
        let mut sums = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((sample, value)) = line.rsplit_once(' ') else { continue };
            let (Some(name), Ok(value)) = (sample.split('{').next(), value.parse::<f64>()) else { continue };
            *sums.entry(name.to_owned()).or_insert(0.0) += value;
        }
        Page { at: Instant::now(), sums }
    }

    /// None: the page does not have it, as that of a center.
    fn get(&self, name: &str) -> Option<f64> {
        self.sums.get(name).copied()
    }
}

/// One column: its heading in English and in Chinese, its key in JSON, and how its value is made of two pages.
struct Column {
    heading: [&'static str; 2],
    key: &'static str,
    value: fn(&Page, &Page) -> Option<f64>,
    show: fn(f64) -> String,
}

fn rate(before: &Page, now: &Page, name: &str) -> Option<f64> {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    // A counter that has become smaller: the process has started anew.
    let grown = (now.get(name)? - before.get(name)?).max(0.0);
    Some(if seconds > 0.0 { grown / seconds } else { 0.0 })
}

fn whole(value: f64) -> String {
    match value {
        value if value >= 1e7 => format!("{:.1}M", value / 1e6),
        value if value >= 1e5 => format!("{:.0}k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

fn fine(value: f64) -> String {
    format!("{value:.2}")
}

fn bytes(value: f64) -> String {
    match value {
        value if value >= 1e10 => format!("{:.1}G", value / (1 << 30) as f64),
        value => format!("{:.0}M", value / (1 << 20) as f64),
    }
}

const COLUMNS: [Column; 13] = [
    Column {
        heading: ["nodes", "节点"],
        key: "nodes",
        value: |_, now| now.get("connmix_center_registry_engine_nodes"),
        show: whole,
    },
    Column {
        heading: ["clients", "客户端"],
        key: "clients",
        value: |_, now| now.get("connmix_engine_servers_clients").or(now.get("connmix_center_registry_clients")),
        show: whole,
    },
    Column {
        heading: ["chan", "频道"],
        key: "channels",
        value: |_, now| now.get("connmix_engine_channels"),
        show: whole,
    },
    Column {
        heading: ["in/s", "收到/秒"],
        key: "messages_per_second",
        value: |before, now| rate(before, now, "connmix_engine_servers_read_messages_total"),
        show: whole,
    },
    Column {
        heading: ["publ/s", "发布/秒"],
        key: "publishes_per_second",
        value: |before, now| rate(before, now, "connmix_engine_publishes_total"),
        show: whole,
    },
    Column {
        heading: ["deliv/s", "投递/秒"],
        key: "deliveries_per_second",
        value: |before, now| rate(before, now, "connmix_engine_deliveries_total"),
        show: whole,
    },
    Column {
        heading: ["drop/s", "丢弃/秒"],
        key: "dropped_per_second",
        value: |before, now| rate(before, now, "connmix_engine_dropped_messages_total"),
        show: whole,
    },
    Column {
        heading: ["handl/s", "调用/秒"],
        key: "handlers_per_second",
        value: |before, now| rate(before, now, "connmix_engine_handler_duration_seconds_count"),
        show: whole,
    },
    Column { heading: ["ms", "毫秒"], key: "handler_mean_ms", value: handler_mean, show: fine },
    Column {
        heading: ["err/s", "错误/秒"],
        key: "handler_errors_per_second",
        value: |before, now| rate(before, now, "connmix_engine_handler_errors_total"),
        show: whole,
    },
    Column {
        heading: ["cpu%", "cpu%"],
        key: "cpu_percent",
        value: |before, now| Some(100.0 * rate(before, now, "process_cpu_seconds_total")?),
        show: whole,
    },
    Column {
        heading: ["lua", "lua"],
        key: "lua_bytes",
        value: |_, now| now.get("connmix_engine_lua_memory_bytes"),
        show: bytes,
    },
    Column {
        heading: ["memory", "内存"],
        key: "memory_bytes",
        value: |_, now| now.get("process_resident_memory_bytes"),
        show: bytes,
    },
];

/// How long a call of a hook took, on average, in milliseconds.
fn handler_mean(before: &Page, now: &Page) -> Option<f64> {
    let calls = rate(before, now, "connmix_engine_handler_duration_seconds_count")?;
    let seconds = rate(before, now, "connmix_engine_handler_duration_seconds_sum")?;
    Some(if calls > 0.0 { 1000.0 * seconds / calls } else { 0.0 })
}

impl Options {
    /// Prints lines until nobody reads them.
    pub(super) fn run(&self) -> Result<(), String> {
        // The engine's page has everything.
        let (api, out) = (self.remote.api(6789)?, Out::new());
        wait_for(async {
            let mut before = Page::read(&api.read(PATH).await?);
            for at in 0.. {
                tokio::time::sleep(Duration::from_secs(self.every.into())).await;
                let now = match api.read(PATH).await {
                    Ok(text) => Page::read(&text),
                    Err(why) => {
                        tell_gap(&why);
                        Page::read(&ask_again(&api, PATH).await?.text().await?)
                    }
                };
                if self.print(&out, at, &before, &now).is_err() || self.once {
                    break;
                }
                before = now;
            }
            Ok(())
        })
    }

    fn print(&self, out: &Out, at: usize, before: &Page, now: &Page) -> Result<(), NobodyReads> {
        if self.json {
            return out.line(&json(before, now).to_string());
        }
        if at.is_multiple_of(HEADING) {
            out.line(&out.colour(1, &headings(Language::chosen())))?;
        }
        let shown = |column: &Column| (column.value)(before, now).map_or_else(|| "-".to_owned(), column.show);
        out.line(&COLUMNS.iter().map(|column| format!("{:>8}", shown(column))).collect::<String>())
    }
}

/// The headings, in columns as wide as those of the values.
fn headings(language: Language) -> String {
    let of = |column: &Column| match language {
        Language::English => column.heading[0],
        Language::Chinese => column.heading[1],
    };
    COLUMNS.iter().map(of).map(|heading| padding(heading, 8) + heading).collect()
}

fn json(before: &Page, now: &Page) -> serde_json::Value {
    let number = |value: f64| match value as i64 {
        // Counts and bytes are whole: they are no less where readers expect that.
        whole if whole as f64 == value => whole.into(),
        _ => value.into(),
    };
    let value =
        |column: &Column| (column.key.to_owned(), (column.value)(before, now).map_or(serde_json::Value::Null, number));
    COLUMNS.iter().map(value).collect::<serde_json::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::language::columns;

    #[test]
    fn headings_are_as_wide_in_both_languages() {
        let wide = [Language::English, Language::Chinese].map(|language| columns(&headings(language)));
        assert_eq!(wide, [8 * COLUMNS.len(); 2]);
        assert!(headings(Language::Chinese).starts_with("    节点"), "{}", headings(Language::Chinese));
    }

    #[test]
    fn rates_are_made_of_two_pages() {
        let mut before = Page::read(
            "# HELP x y\nconnmix_engine_deliveries_total{protocol=\"socket\"} 5\nconnmix_engine_deliveries_total{protocol=\"websocket\"} 10\n\
             connmix_engine_handler_duration_seconds_count 1\nconnmix_engine_handler_duration_seconds_sum 0.5\n",
        );
        let now = Page::read(
            "connmix_engine_deliveries_total 45\nconnmix_engine_channels 3\n\
             connmix_engine_handler_duration_seconds_count 3\nconnmix_engine_handler_duration_seconds_sum 0.508\n",
        );
        before.at = now.at - Duration::from_secs(2);
        let shown = json(&before, &now);
        assert_eq!((&shown["deliveries_per_second"], &shown["channels"]), (&15.into(), &3.into()));
        assert!((shown["handler_mean_ms"].as_f64().unwrap() - 4.0).abs() < 1e-6);
        assert!(shown["cpu_percent"].is_null(), "it is not on the page");
        assert_eq!([whole(7.4), whole(123_456.0), whole(12_345_678.0), bytes(3e6)], ["7", "123k", "12.3M", "3M"]);
    }

    #[test]
    fn every_figure_is_one_that_the_documents_name() {
        let (source, doc) = (include_str!("top.rs"), include_str!("../../docs/metrics.md"));
        let own = source.split("#[cfg(test)]").next().unwrap();
        for name in own.split('"').filter(|word| word.starts_with("connmix_") || word.starts_with("process_")) {
            let family = name.trim_end_matches("_count").trim_end_matches("_sum");
            assert!(doc.contains(&format!("| `{family}` |")), "{name}");
        }
    }
}
