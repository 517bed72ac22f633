//! The examples of `docs/examples` that have a tutorial and a page: the real program with many workers, real clients, the pages in a
//! real browser; their Lua tests; and that the tutorials build what the folders hold.

mod common;
#[path = "room_examples/live.rs"]
mod live;
#[path = "room_examples/moderated.rs"]
mod moderated;
#[path = "room_examples/quiz.rs"]
mod quiz;
#[path = "room_examples/quotes.rs"]
mod quotes;

use common::browser::Page;
use common::example::{Example, examples};
use common::optional::Outcome;
use common::process::run;
use common::{Client, eventually};
use live::{
    a_room_is_full_at_its_bound, the_page_of_the_live_room_goes_on_where_it_was,
    what_many_say_at_once_is_added_up_and_the_host_is_heard, who_comes_late_or_back_misses_no_comment,
};
use moderated::{
    a_name_is_there_once_whatever_the_workers, moderators_mute_and_kick, the_page_of_the_chat_shows_names_as_text,
};
use quiz::{
    many_right_answers_at_once_are_all_among_the_best, of_many_answers_of_a_player_one_counts,
    the_page_of_the_quiz_plays, the_quiz_has_one_clock_whatever_the_workers_and_reloads,
};
use quotes::{
    the_back_end_of_the_quotes_publishes, the_page_of_the_quotes_shows_one_board,
    who_does_not_keep_up_gets_the_newest_quote_of_each_symbol,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// The examples, by the names of their folders and tutorials.
const EXAMPLES: [&str; 4] = ["live", "moderated", "quiz", "quotes"];

/// A name that would be a tag if a page took it for HTML.
const HOSTILE: &str = "<img src=x onerror=document.title='caught'>";

/// More workers than the machine may have, so that clients of one room are in several.
fn start(name: &str) -> Example {
    Example::start_with(name, &[("engine:\n", "engine:\n  workers: 4\n")])
}

impl Client {
    /// The next message that has that text there; what comes before it is passed over.
    async fn hears(&mut self, field: &str, text: &str) -> Value {
        loop {
            let message = self.json().await;
            if message[field] == text {
                return message;
            }
        }
    }

    /// Code and reason of the close frame; what comes before it is passed over.
    async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Ok(tokio_tungstenite::tungstenite::Message::Close(Some(frame))) = self.next().await {
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    /// Sends a request; its answer, whatever comes before.
    async fn op(&mut self, request: Value) -> Value {
        self.send(&request.to_string()).await;
        self.hears("op", request["op"].as_str().unwrap()).await
    }
}

/// The page of an example in a browser, connected to it once its form was filled in.
struct Tab {
    page: Page,
    _profile: TempDir,
}

impl Tab {
    /// `fields`: what is typed into the form `enter`, by the ids of its inputs.
    async fn open(browser: &str, example: &Example, name: &str, path: &str, fields: &[(&str, &str)]) -> Tab {
        let profile = tempfile::tempdir().unwrap();
        let file = examples().join(name).join("index.html");
        let url = format!("file://{}?url=ws://{}{path}", file.display(), example.server(0));
        let mut page = Page::open(browser, profile.path(), &url).await;
        for (id, value) in fields {
            page.value(&format!("document.getElementById('{id}').value = {}", json!(value))).await;
        }
        if !fields.is_empty() {
            page.value("document.getElementById('enter').requestSubmit()").await;
        }
        Tab { page, _profile: profile }
    }

    /// Waits until an element's text holds that.
    async fn shows(&mut self, id: &str, text: &str) {
        let read = format!("document.getElementById('{id}').textContent");
        let read = async || self.page.value(&read).await.as_str()?.contains(text).then_some(());
        eventually(&format!("{id} shows {text:?}"), read).await;
    }

    async fn click(&mut self, selector: &str) {
        let button = format!("document.querySelector({})", json!(selector));
        self.page.until(&format!("{button} !== null")).await;
        self.page.value(&format!("{button}.click()")).await;
    }

    /// Whoever wrote it, it was no HTML.
    async fn is_harmless(&mut self) {
        assert_eq!(self.page.value("document.querySelector('img')").await, Value::Null);
        assert_ne!(self.page.value("document.title").await, "caught");
    }
}

async fn their_lua_tests_pass() -> Outcome {
    for name in EXAMPLES {
        let dir = examples().join(name);
        let ended = run(&dir, &["test"]);
        assert_eq!(ended.code, Some(0), "{name}: {}{}", ended.out, ended.err);
    }
    Ok(())
}

async fn their_scripts_have_no_warnings() -> Outcome {
    for name in EXAMPLES {
        let ended = run(&examples().join(name), &["check", "--strict"]);
        assert_eq!(ended.code, Some(0), "{name}: {}{}", ended.out, ended.err);
    }
    Ok(())
}

/// The lines of a tutorial's code in that language. Of the configuration also how far they are indented.
fn code_of(tutorial: &str, language: &str) -> BTreeSet<String> {
    let opening = format!("```{language}\n");
    let blocks = tutorial.split(&opening).skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks.flat_map(str::lines).map(|line| line.trim().to_owned()).collect()
}

/// The lines of an example's files with that ending, without comments and what is empty.
fn lines_of(name: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for entry in fs::read_dir(examples().join(name)).unwrap() {
        let path = entry.unwrap().path();
        if wanted(path.file_name().unwrap().to_str().unwrap()) {
            let text = fs::read_to_string(path).unwrap();
            lines.extend(text.lines().map(|line| line.trim().to_owned()));
        }
    }
    lines
}

async fn the_tutorials_build_what_the_folders_hold() -> Outcome {
    let is_code = |line: &&String| !line.is_empty() && !line.starts_with("--") && !line.starts_with('#');
    for name in EXAMPLES {
        let tutorial = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/tutorial-{name}.md"));
        let tutorial = fs::read_to_string(tutorial).unwrap();
        let (lua, yaml) = (code_of(&tutorial, "lua"), code_of(&tutorial, "yaml"));
        for (part, whole) in [
            (&lua, lines_of(name, |file| file.ends_with(".lua"))),
            (&lines_of(name, |file| file.ends_with(".lua") && !file.ends_with("_test.lua")), lua.clone()),
            (&yaml, lines_of(name, |file| file == "connmix.yaml")),
            (&lines_of(name, |file| file == "connmix.yaml"), yaml.clone()),
        ] {
            let missing: Vec<_> = part.difference(&whole).filter(is_code).collect();
            assert!(missing.is_empty(), "{name}: the tutorial and the example differ in {missing:#?}");
        }
    }
    Ok(())
}

optional_tests!(
    their_lua_tests_pass,
    their_scripts_have_no_warnings,
    the_tutorials_build_what_the_folders_hold,
    a_name_is_there_once_whatever_the_workers,
    moderators_mute_and_kick,
    the_page_of_the_chat_shows_names_as_text,
    the_quiz_has_one_clock_whatever_the_workers_and_reloads,
    of_many_answers_of_a_player_one_counts,
    many_right_answers_at_once_are_all_among_the_best,
    the_page_of_the_quiz_plays,
    who_comes_late_or_back_misses_no_comment,
    what_many_say_at_once_is_added_up_and_the_host_is_heard,
    a_room_is_full_at_its_bound,
    the_page_of_the_live_room_goes_on_where_it_was,
    who_does_not_keep_up_gets_the_newest_quote_of_each_symbol,
    the_back_end_of_the_quotes_publishes,
    the_page_of_the_quotes_shows_one_board,
);
