//! The chat with moderators.

use super::common::Client;
use super::common::browser::browser;
use super::common::example::Example;
use super::common::optional::Outcome;
use super::{HOSTILE, Tab, start};
use serde_json::{Value, json};

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

pub async fn a_name_is_there_once_whatever_the_workers() -> Outcome {
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

pub async fn moderators_mute_and_kick() -> Outcome {
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

pub async fn the_page_of_the_chat_shows_names_as_text() -> Outcome {
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
