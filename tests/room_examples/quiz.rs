//! The quiz.

use super::common::Client;
use super::common::browser::browser;
use super::common::example::Example;
use super::common::optional::Outcome;
use super::{HOSTILE, Tab, start};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// How fast its clock goes here.
const FAST: (&str, &str) = ("every(1,", "every(0.05,");

async fn player(quiz: &Example, name: &str) -> Client {
    let secret: String = name.bytes().take(10).map(|byte| format!("-{byte:02X}")).collect();
    let name: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    Client::connect(quiz.server(0), &format!("/quiz?name={name}&player=secret-of-a-player{secret}")).await
}

pub async fn the_quiz_has_one_clock_whatever_the_workers_and_reloads() -> Outcome {
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

pub async fn of_many_answers_of_a_player_one_counts() -> Outcome {
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

pub async fn many_right_answers_at_once_are_all_among_the_best() -> Outcome {
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

pub async fn the_page_of_the_quiz_plays() -> Outcome {
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
