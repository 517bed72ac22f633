//! `mix.shared` over whole engines: one table for all workers, servers and versions of a script.

mod common;

use common::scripts::SHOW;
use common::*;
use std::fs;

#[tokio::test]
async fn all_workers_count_in_one_table() {
    let engine = TestEngine::with(SHOW, "", "workers: 4");
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(engine.connect().await);
    }
    let count = "for _ = 1, 500 do assert(mix.shared.incr('hits', 1)) end return 'done'";
    for client in &mut clients {
        client.send(count).await;
    }
    for client in &mut clients {
        assert_eq!(client.text().await, "done");
    }
    assert_eq!(clients[0].ask("return mix.shared.get('hits')").await, "4000, nil");
    // Of all that want a lock, one gets it.
    for client in &mut clients {
        client.send("return (mix.shared.add('lock', conn:client_id()))").await;
    }
    let mut got = 0;
    for client in &mut clients {
        got += usize::from(client.text().await == "true");
    }
    assert_eq!(got, 1);
    // Everybody adds itself to a list; who comes second tries again.
    let join = "repeat local old = mix.shared.get('list') local new = mix.shared.get('list') or {} new[#new + 1] = #new \
                until mix.shared.cas('list', old, new) return 'in'";
    for client in &mut clients {
        client.send(join).await;
    }
    for client in &mut clients {
        assert_eq!(client.text().await, "in");
    }
    assert_eq!(clients[0].ask("return #mix.shared.get('list')").await, "8");
    let (_, page) = get(engine.at.api, "/metrics").await;
    assert!(page.contains("\nconnmix_engine_shared_keys 3\n"), "{page}");
}

#[tokio::test]
async fn it_outlives_a_reload_and_its_bound_is_live() {
    let engine = TestEngine::with(SHOW, "", "workers: 2\nluavm: {sharedLimit: 4KiB}");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("return mix.shared.set('a', {1, {b = true}})").await, "nil");
    let full = client.ask("return mix.shared.set('large', ('x'):rep(5000))").await;
    assert!(
        full.starts_with("mix.shared is full: it would hold ") && full.ends_with("(engine.luavm.sharedLimit)"),
        "{full}"
    );
    assert_eq!(client.ask("return mix.shared.get('large'), mix.shared.get('a')").await, r#"nil, [1,{"b":true}], nil"#);
    fs::write(engine.path("entry.lua"), format!("{SHOW}\nversion = 2")).unwrap();
    eventually("the reload", async || (client.ask("return version").await == "2").then_some(())).await;
    assert_eq!(client.ask("return mix.shared.get('a')").await, r#"[1,{"b":true}], nil"#);
    let file = engine.path("connmix.yaml");
    let config = fs::read_to_string(&file).unwrap().replace("sharedLimit: 4KiB", "sharedLimit: 64KiB");
    fs::write(&file, config).unwrap();
    eventually("the new bound", async || {
        (client.ask("return mix.shared.set('large', ('x'):rep(5000))").await == "nil").then_some(())
    })
    .await;
}

#[tokio::test]
async fn wrong_arguments_are_told() {
    let engine = TestEngine::new(SHOW);
    let mut client = engine.connect().await;
    for (call, wanted) in [
        ("get()", "bad argument #1 to 'get' (string expected, got no value)"),
        ("get('')", "bad argument #1 to 'get' (key of 1 to 1024 bytes expected, got one of 0)"),
        ("set('a', print)", "bad argument #2 to 'set' (plain value expected, got a function)"),
        ("set('a', 1, 0)", "bad argument #3 to 'set' (more than 0 and at most 315360000 seconds expected, got 0)"),
        ("add('a')", "bad argument #2 to 'add' (value expected, got no value)"),
        ("incr('a', 0/0)", "bad argument #2 to 'incr' (finite number expected, got NaN)"),
    ] {
        let said = client.ask(&format!("return mix.shared.{call}")).await;
        assert!(said.starts_with("error: ") && said.ends_with(wanted), "{call}: {said}");
    }
    let said = client.ask("mix.shared.set('a', 'x') return mix.shared.incr('a', 1)").await;
    assert_eq!(said, "nil, incr of \"a\": what is there is not a number");
    let ended = client
        .ask("mix.shared.set('b', 1, 0.05) repeat mix.sleep(0.02) until mix.shared.get('b') == nil return mix.shared.keys('b')")
        .await;
    assert_eq!(ended, "[], nil");
}
