//! The live room.

use super::common::browser::browser;
use super::common::example::Example;
use super::common::optional::Outcome;
use super::common::{Client, eventually, post};
use super::{HOSTILE, Tab, start};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const VIDEO: &str = "video:100001";

/// A comment of a back end; its position.
async fn comment(live: &Example, text: &str) -> Value {
    let event = json!({"event": "@video", "data": {"msg": text}}).to_string();
    let (_, reply) = post(live.process.api(), "/v1/mesh/publish", &json!({"c": VIDEO, "d": event}).to_string()).await;
    let mut reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(reply["E"], Value::Null);
    reply["r"]["p"].take()
}

/// A viewer of a video; the comments that came before the answer to `subscribe`, and that.
async fn watch(live: &Example, since: Option<&Value>) -> (Client, Vec<String>, Value) {
    let mut client = Client::connect(live.server(0), "/live").await;
    client.send(&json!({"op": "subscribe", "channel": "100001@video", "since": since}).to_string()).await;
    let mut earlier = Vec::new();
    loop {
        let message = client.json().await;
        match comment_of(&message) {
            Some((text, _)) => earlier.push(text),
            None if message.get("c").is_none() => return (client, earlier, message),
            None => {} // how many are watching
        }
    }
}

/// What a comment says, and its position.
fn comment_of(message: &Value) -> Option<(String, Value)> {
    let event: Value = serde_json::from_str(message["d"].as_str()?).unwrap();
    (event["event"] == "@video").then(|| (event["data"]["msg"].as_str().unwrap().to_owned(), message["p"].clone()))
}

impl Client {
    async fn next_comment(&mut self) -> (String, Value) {
        loop {
            if let Some(comment) = comment_of(&self.json().await) {
                return comment;
            }
        }
    }
}

pub async fn who_comes_late_or_back_misses_no_comment() -> Outcome {
    // Room for all that this test says.
    let live = Example::start_with("live", &[("engine:\n", "engine:\n  workers: 4\n"), ("40/200ms", "4000/200ms")]);
    let (mut ann, earlier, answer) = watch(&live, None).await;
    assert_eq!((earlier.len(), &answer["recovered"], &answer["online"]), (0, &json!(true), &json!(1)));
    for i in 0..60 {
        comment(&live, &format!("comment {i}")).await;
    }
    let (mut bob, earlier, answer) = watch(&live, None).await;
    let wanted: Vec<String> = (10..60).map(|i| format!("comment {i}")).collect();
    assert_eq!((earlier, &answer["online"]), (wanted, &json!(2)));
    ann.send(&json!({"op": "comment", "channel": "100001@video", "msg": "by Ann"}).to_string()).await;
    let (text, position) = bob.next_comment().await;
    assert_eq!(text, "by Ann");
    drop(bob);
    for i in 0..5 {
        comment(&live, &format!("missed {i}")).await;
    }
    live.change("live.lua", "subscribe first", "please subscribe first");
    let (mut bob, earlier, answer) = watch(&live, Some(&position)).await;
    assert_eq!((earlier.len(), &earlier[0][..], &answer["recovered"]), (5, "missed 0", &json!(true)));
    comment(&live, "news").await;
    assert_eq!(bob.next_comment().await.0, "news");
    // Nobody knows that position.
    let (_, earlier, answer) = watch(&live, Some(&json!("nonsense"))).await;
    assert_eq!((earlier.len(), &answer["recovered"]), (50, &json!(false)));
    drop((ann, bob));
    live.stop();
    Ok(())
}

pub async fn what_many_say_at_once_is_added_up_and_the_host_is_heard() -> Outcome {
    // A window that lasts for the whole of what is said.
    let live = Example::start_with("live", &[("engine:\n", "engine:\n  workers: 4\n"), ("40/200ms", "40/3s")]);
    let mut viewers = Vec::new();
    for _ in 0..8 {
        viewers.push(watch(&live, None).await.0);
    }
    // The same words from all workers: 20 are delivered one by one.
    let say = json!({"op": "comment", "channel": "100001@video", "msg": "666"}).to_string();
    for viewer in &mut viewers {
        for _ in 0..5 {
            viewer.send(&say).await;
        }
    }
    let ann = &mut viewers[0];
    let mut events = BTreeSet::new();
    let (mut count, mut heard) = (0, 0);
    let mut host = false;
    while count < 40 {
        let message = ann.json().await;
        if comment_of(&message).is_some_and(|(text, _)| text == "666") {
            count += message["n"].as_u64().unwrap_or(1);
            heard += 1;
            events.insert(message["d"].as_str().unwrap().to_owned());
        }
        // What the audience has for this window is used up.
        if heard == 20 && !host {
            let event = json!({"event": "@video", "data": {"msg": "silence"}}).to_string();
            let body = json!({"c": VIDEO, "d": event, "pr": "high"}).to_string();
            let (_, reply) = post(live.process.api(), "/v1/mesh/publish", &body).await;
            assert!(reply.contains(r#""s":8"#), "{reply}");
            assert_eq!(ann.next_comment().await.0, "silence");
            host = true;
        }
    }
    assert_eq!((count, events.len()), (40, 1), "{events:?}");
    assert!(heard < 40, "{heard} comments came");
    drop(viewers);
    live.stop();
    Ok(())
}

pub async fn a_room_is_full_at_its_bound() -> Outcome {
    let changes = [("engine:\n", "engine:\n  workers: 4\n"), ("maxSubscribers: 10000", "maxSubscribers: 2")];
    let live = Example::start_with("live", &changes);
    let (ann, _, _) = watch(&live, None).await;
    let (_bob, _, _) = watch(&live, None).await;
    let (mut eve, _, answer) = watch(&live, None).await;
    assert_eq!(answer["code"], 1);
    assert!(answer["msg"].as_str().unwrap().contains("is full"), "{answer}");
    drop(ann);
    let subscribe = json!({"op": "subscribe", "channel": "100001@video"}).to_string();
    eventually("there is room for another", async || {
        eve.send(&subscribe).await;
        let answer = eve.json().await;
        (answer["result"] == true).then_some(())
    })
    .await;
    Ok(())
}

pub async fn the_page_of_the_live_room_goes_on_where_it_was() -> Outcome {
    let browser = browser()?;
    let live = start("live");
    comment(&live, HOSTILE).await;
    let mut tab = Tab::open(browser, &live, "live", "/live&video=100001", &[]).await;
    tab.shows("state", "connected").await;
    tab.shows("online", "1 watching").await;
    tab.shows("earlier", HOSTILE).await;
    tab.page.value("document.getElementById('msg').value = 'from the page'").await;
    tab.page.value("document.getElementById('comment').requestSubmit()").await;
    tab.shows("screen", "from the page").await;
    // Its connection ends, and something is said meanwhile; perhaps it is back already.
    let close = json!({"ch": VIDEO, "code": 1012}).to_string();
    post(live.process.api(), "/v1/mesh/close", &close).await;
    comment(&live, "meanwhile").await;
    comment(&live, "afterwards").await;
    tab.shows("earlier", "afterwards").await;
    let list = tab.page.value("[...document.querySelectorAll('#earlier li')].map((item) => item.textContent)").await;
    assert_eq!(list, json!(["afterwards", "meanwhile", "from the page", HOSTILE]));
    tab.is_harmless().await;
    Ok(())
}
