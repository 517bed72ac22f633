//! The examples of `docs/examples` that have a tutorial and a page: the real program with many workers, real clients, the pages in a
//! real browser; their Lua tests; and that the tutorials build what the folders hold.

mod common;

use common::browser::{Page, browser};
use common::example::{Example, examples};
use common::optional::Outcome;
use common::process::run;
use common::{Client, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// The examples, by the names of their folders and tutorials.
const EXAMPLES: [&str; 2] = ["moderated", "quiz"];

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

// All of them.

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

// moderated

/// The key of a moderator, as the tutorial makes it.
fn key(name: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"change-me").unwrap();
    mac.update(format!("moderator:{name}").as_bytes());
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

/// A connection that asks to enter, and the answer.
async fn enter(chat: &Example, name: &str, session: &str, key: Option<&str>) -> (Client, Value) {
    let mut client = Client::connect(chat.server(0), "/chat").await;
    let session = format!("session-of-{session}-1234567890");
    let answer = client.op(json!({"op": "enter", "room": "tea", "name": name, "session": session, "key": key})).await;
    (client, answer)
}

async fn a_name_is_there_once_whatever_the_workers() -> Outcome {
    let chat = start("moderated");
    let (mut ann, answer) = enter(&chat, "Ann", "ann", None).await;
    let info = json!({"name": "Ann", "moderator": false});
    assert_eq!(answer["people"], json!([{"id": answer["id"], "info": info}]));
    // Of many that want a name at the same moment one gets it, and the room hears of that one alone.
    let sessions: Vec<String> = (0..24).map(|i| format!("bob-{i}")).collect();
    let entering = sessions.iter().map(|session| enter(&chat, "Bob", session, None));
    let mut bobs = futures_util::future::join_all(entering).await;
    let won: Vec<usize> = (0..bobs.len()).filter(|i| bobs[*i].1["ok"] == true).collect();
    assert_eq!(won.len(), 1, "{bobs:?}", bobs = bobs.iter().map(|bob| &bob.1).collect::<Vec<_>>());
    let (mut bob, old) = bobs.swap_remove(won[0]);
    let joined = ann.hears("event", "@join").await;
    assert_eq!(joined["data"], json!({"c": old["id"], "i": {"name": "Bob", "moderator": false}}));
    drop(bobs);

    // He comes back before his lost connection was noticed.
    let (again, answer) = enter(&chat, "bob", &sessions[won[0]], None).await;
    assert_eq!(answer["ok"], true);
    assert_eq!(bob.closed().await, (4008, "you are here on another connection".into()));
    // The old one goes before the new one comes, or after.
    let mut news = [ann.json().await, ann.json().await];
    news.sort_by_key(|news| news["event"].to_string());
    assert_eq!((&news[0]["event"], &news[0]["data"]["c"]), (&json!("@join"), &answer["id"]));
    assert_eq!((&news[1]["event"], &news[1]["data"]["c"]), (&json!("@leave"), &old["id"]));
    assert_eq!(enter(&chat, "Bob", "another", None).await.1["error"], "that name is taken");
    drop(again);
    ann.hears("event", "@leave").await;
    assert_eq!(enter(&chat, "Bob", "another", None).await.1["ok"], true);
    chat.stop();
    Ok(())
}

async fn moderators_mute_and_kick() -> Outcome {
    let chat = start("moderated");
    let (mut ann, _) = enter(&chat, "Ann", "ann", None).await;
    let (mut bob, _) = enter(&chat, "Bob", "bob", None).await;
    assert_eq!(
        enter(&chat, "Mia", "eve", Some(&key("Eve"))).await.1["error"],
        "that is no key for a moderator of this name"
    );
    let (mut mia, _) = enter(&chat, "Mia", "mia", Some(&key("Mia"))).await;
    let say = json!({"op": "say", "text": "hello"});
    assert_eq!(bob.op(say.clone()).await["ok"], true);
    assert_eq!(ann.hears("event", "say").await, json!({"event": "say", "name": "Bob", "text": "hello"}));

    let mute = json!({"op": "mute", "name": "BOB", "seconds": 3000});
    assert_eq!(ann.op(mute.clone()).await["error"], "only moderators can");
    assert_eq!(mia.op(mute).await["ok"], true);
    let told = json!({"event": "mute", "name": "Bob", "seconds": 3000, "by": "Mia"});
    assert_eq!([ann.hears("event", "mute").await, bob.hears("event", "mute").await], [told.clone(), told]);
    assert!(bob.op(say.clone()).await["error"].as_str().unwrap().starts_with("you are muted for another "));
    // A new version of the script knows of it, and so does his next connection.
    chat.change("chat.lua", "you are muted", "sorry, you are muted");
    assert!(bob.op(say.clone()).await["error"].as_str().unwrap().starts_with("sorry, you are muted"));
    drop(bob);
    ann.hears("event", "@leave").await;
    let (mut bob, _) = enter(&chat, "Bob", "elsewhere", None).await;
    assert!(bob.op(say.clone()).await["error"].is_string());
    assert_eq!(mia.op(json!({"op": "mute", "name": "Bob", "seconds": 0})).await["ok"], true);
    assert_eq!(bob.op(say).await["ok"], true);

    assert_eq!(mia.op(json!({"op": "kick", "name": "Bob"})).await["ok"], true);
    assert_eq!(bob.hears("event", "kick").await, json!({"event": "kick", "name": "Bob", "by": "Mia"}));
    assert_eq!(bob.closed().await, (4003, "kicked".into()));
    ann.hears("event", "kick").await;
    ann.hears("event", "@leave").await;
    let (_, answer) = enter(&chat, "bob", "bob", None).await;
    assert!(answer["error"].as_str().unwrap().starts_with("you have been kicked; come back in "), "{answer}");
    drop((ann, mia));
    chat.stop();
    Ok(())
}

async fn the_page_of_the_chat_shows_names_as_text() -> Outcome {
    let browser = browser()?;
    let chat = start("moderated");
    let (mut eve, answer) = enter(&chat, HOSTILE, "eve", None).await;
    assert_eq!(answer["ok"], true);
    let fields = [("name", "Mia"), ("key", &key("Mia"))];
    let mut tab = Tab::open(browser, &chat, "moderated", "/chat", &fields).await;
    tab.shows("state", "you are in").await;
    tab.shows("people", HOSTILE).await;
    tab.shows("count", "2 here").await;
    assert_eq!(eve.op(json!({"op": "say", "text": "<img src=y>"})).await["ok"], true);
    tab.shows("lines", &format!("{HOSTILE}: <img src=y>")).await;
    tab.is_harmless().await;
    let (_ann, _) = enter(&chat, "Ann", "ann", None).await;
    tab.shows("lines", "Ann has come").await;
    tab.shows("count", "3 here").await;
    // The buttons beside the first name, who is not a moderator.
    tab.click("#people button").await;
    assert_eq!(eve.hears("event", "mute").await["name"], HOSTILE);
    tab.click("#people button + button").await;
    assert_eq!(eve.closed().await.0, 4003);
    tab.shows("count", "2 here").await;
    tab.is_harmless().await;
    // What the page says is told to everybody.
    tab.page.value("document.getElementById('text').value = 'peace'").await;
    tab.page.value("document.getElementById('say').requestSubmit()").await;
    tab.shows("lines", "Mia: peace").await;
    drop(tab);
    chat.stop();
    Ok(())
}

// quiz

/// How fast its clock goes here.
const FAST: (&str, &str) = ("every(1,", "every(0.05,");

async fn player(quiz: &Example, name: &str) -> Client {
    let secret: String = name.bytes().take(10).map(|byte| format!("-{byte:02X}")).collect();
    let name: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    Client::connect(quiz.server(0), &format!("/quiz?name={name}&player=secret-of-a-player{secret}")).await
}

async fn the_quiz_has_one_clock_whatever_the_workers_and_reloads() -> Outcome {
    let quiz = start("quiz");
    let mut ann = player(&quiz, "Ann").await;
    quiz.change("quiz.lua", FAST.0, FAST.1);
    // Each question is asked once, and each second is counted once, for two rounds; a reload between.
    for round in 0..2 {
        ann.hears("event", "question").await;
        let mut left = ann.hears("event", "time").await["left"].as_u64().unwrap();
        assert!(left == 9 || round == 0, "{left}");
        if round == 1 {
            quiz.change("quiz.lua", "that question is not open", "no such question is open");
        }
        loop {
            let news = ann.json().await;
            match news["event"].as_str().unwrap() {
                "time" => left -= 1,
                "result" => break,
                _ => continue,
            }
            assert_eq!(news["left"], left, "{news}");
        }
        assert_eq!(left, 1);
    }
    drop(ann);
    quiz.stop();
    Ok(())
}

async fn of_many_answers_of_a_player_one_counts() -> Outcome {
    let quiz = start("quiz");
    let mut tabs = Vec::new();
    for _ in 0..16 {
        tabs.push(player(&quiz, "Ann").await);
    }
    let mut bob = player(&quiz, "Bob").await;
    let id = bob.hears("event", "question").await["question"].take();
    // Ann answers in many tabs at once, rightly.
    let answer = json!({"op": "answer", "question": id, "choice": 2});
    let answers = tabs.iter_mut().map(|tab| tab.op(answer.clone()));
    let answers = futures_util::future::join_all(answers).await;
    assert_eq!(answers.iter().filter(|answer| answer["ok"] == true).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| answer["ok"] == true || answer["error"] == "you have answered already"));
    let wrong = json!({"op": "answer", "question": id, "choice": 1});
    assert_eq!(bob.op(wrong).await["ok"], true);
    quiz.change("quiz.lua", FAST.0, FAST.1);
    let result = bob.hears("event", "result").await;
    let best = result["best"].as_array().unwrap();
    assert_eq!((best.len(), &best[0]["name"]), (1, &json!("Ann")), "{result}");
    assert!((100..=200).contains(&best[0]["score"].as_u64().unwrap()), "{result}");
    assert_eq!(bob.op(answer).await["error"], "that question is not open");
    drop((bob, tabs));
    quiz.stop();
    Ok(())
}

async fn many_right_answers_at_once_are_all_among_the_best() -> Outcome {
    let quiz = start("quiz");
    let mut players = Vec::new();
    for i in 0..10 {
        players.push(player(&quiz, &format!("P{i}")).await);
    }
    let id = players[0].hears("event", "question").await["question"].take();
    let answer = json!({"op": "answer", "question": id, "choice": 2});
    let answers = players.iter_mut().map(|player| player.op(answer.clone()));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer["ok"], true);
    }
    quiz.change("quiz.lua", FAST.0, FAST.1);
    let result = players[0].hears("event", "result").await;
    let names = result["best"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>().len(), 10, "{result}");
    drop(players);
    quiz.stop();
    Ok(())
}

async fn the_page_of_the_quiz_plays() -> Outcome {
    let browser = browser()?;
    let quiz = start("quiz");
    let mut eve = player(&quiz, HOSTILE).await;
    let mut tab = Tab::open(browser, &quiz, "quiz", "/quiz", &[("name", "Ann")]).await;
    tab.shows("state", "you are in").await;
    tab.shows("online", "2 playing").await;
    let answer = |question: &Value| json!({"op": "answer", "question": question["question"], "choice": 2});
    // A question that has all of its time, in case the browser took most of that of the first.
    let mut question = eve.hears("event", "question").await;
    if question["left"] != 10 {
        question = eve.hears("event", "question").await;
    }
    tab.shows("question", question["text"].as_str().unwrap()).await;
    tab.click("#choices button").await;
    tab.shows("state", "your answer has been taken").await;
    assert_eq!(eve.op(answer(&question)).await["ok"], true);
    quiz.change("quiz.lua", FAST.0, FAST.1);
    tab.shows("best", HOSTILE).await;
    tab.is_harmless().await;
    drop((eve, tab));
    quiz.stop();
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
);
