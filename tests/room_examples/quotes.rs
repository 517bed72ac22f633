//! The board of quotes.

use super::common::browser::browser;
use super::common::example::examples;
use super::common::optional::{Outcome, need};
use super::common::process::Process;
use super::common::raw::{self, Raw};
use super::common::{Client, eventually, post};
use super::{HOSTILE, Tab, start};
use serde_json::{Value, json};
use std::process::Command;

fn quote(symbol: &str, seq: usize) -> Value {
    let data = json!({"board": "crypto", "symbol": symbol, "price": seq, "seq": seq, "filling": "x".repeat(300)});
    json!({"c": "board:crypto", "k": symbol, "d": data.to_string()})
}

pub async fn who_does_not_keep_up_gets_the_newest_quote_of_each_symbol() -> Outcome {
    let quotes = start("quotes");
    let at = quotes.server(0);
    let watch = json!({"op": "watch", "board": "crypto"});
    let mut slow = Raw::narrow(at).await;
    slow.write(raw::upgrade().replace("/ws", "/quotes")).await;
    assert_eq!(slow.head().await.status, 101);
    assert_eq!(serde_json::from_str::<Value>(&slow.ask(&watch.to_string()).await).unwrap()["ok"], true);
    let mut good = Client::connect(at, "/quotes").await;
    assert_eq!(good.op(watch).await["ok"], true);
    // Some 1.6 MB: more than may wait for a client, and more than the system takes.
    const COUNT: usize = 4000;
    for batch in 0..COUNT / 100 {
        let publishes = (0..100).map(|i| quote(if i % 2 == 0 { "BTC-USD" } else { "ETH-USD" }, batch * 100 + i));
        let body = Value::Array(publishes.collect()).to_string();
        let (status, reply) = post(quotes.process.api(), "/v1/mesh/publish", &body).await;
        assert!(status == 200 && !reply.contains(r#""f":1"#), "{reply}");
        for i in 0..100 {
            assert_eq!(good.json().await["seq"], batch * 100 + i, "who keeps up gets every quote");
        }
    }
    let mut count = 0;
    let mut newest = [0, 0];
    while newest != [COUNT - 2, COUNT - 1] {
        let quote: Value = serde_json::from_str(&slow.text().await).unwrap();
        let last = &mut newest[usize::from(quote["symbol"] == "ETH-USD")];
        let seq = quote["seq"].as_u64().unwrap() as usize;
        assert!(seq == 0 || seq > *last, "in order, and nothing twice: {quote}");
        *last = seq;
        count += 1;
    }
    assert!(count < COUNT / 2, "{count} quotes came");
    drop((slow, good));
    quotes.stop();
    Ok(())
}

pub async fn the_back_end_of_the_quotes_publishes() -> Outcome {
    need("python3", &["--version"])?;
    let quotes = start("quotes");
    let mut command = Command::new("python3");
    command.arg(examples().join("quotes/backend.py")).env("CONNMIX_API", format!("http://{}", quotes.process.api()));
    let back_end = Process::of(command);
    for board in ["crypto", "metals", "crypto"] {
        // The last quotes come first, and others behind the answer.
        eventually("there are quotes of each board", async || {
            let mut client = Client::connect(quotes.server(0), "/quotes").await;
            client.send(&json!({"op": "watch", "board": board}).to_string()).await;
            let first = client.json().await;
            (first["board"] == board).then_some(())?;
            client.hears("op", "watch").await;
            (client.json().await["board"] == board).then_some(())
        })
        .await;
    }
    drop(back_end);
    quotes.stop();
    Ok(())
}

pub async fn the_page_of_the_quotes_shows_one_board() -> Outcome {
    let browser = browser()?;
    let quotes = start("quotes");
    let hostile = json!({"board": "metals", "symbol": HOSTILE, "price": 7.5}).to_string();
    let (status, _) =
        post(quotes.process.api(), "/v1/mesh/publish", &json!({"c": "board:metals", "d": hostile}).to_string()).await;
    assert_eq!(status, 200);
    let mut tab = Tab::open(browser, &quotes, "quotes", "/quotes", &[]).await;
    tab.shows("state", "watching crypto").await;
    let (_, reply) = post(quotes.process.api(), "/v1/mesh/publish", &quote("BTC-USD", 64000).to_string()).await;
    assert!(reply.contains(r#""s":1"#), "{reply}");
    tab.shows("quotes", "BTC-USD64000").await;
    tab.page.value("document.getElementById('board').value = 'metals'").await;
    tab.page.value("document.getElementById('board').onchange()").await;
    tab.shows("quotes", HOSTILE).await;
    tab.page.until("!document.getElementById('quotes').textContent.includes('BTC')").await;
    tab.is_harmless().await;
    Ok(())
}
