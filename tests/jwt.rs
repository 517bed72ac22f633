//! `mix.jwt_verify` over whole engines, with keys of all forms, and sets that a server publishes.

mod common;

use common::process::run;
use common::*;
use serde_json::Value as Json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A message is `{token, keys, options}`; what comes back is the claim `sub`, or the err.
const SCRIPT: &str = r#"
function on_message(msg, conn)
  local m = mix.json_decode(msg.data)
  local ok, claims, err = pcall(mix.jwt_verify, m.token, m.keys, m.options)
  conn:send(ok and (claims and mix.json_encode(m.all and claims or claims.sub) or err) or "error: " .. claims)
end
"#;

fn fixture() -> Json {
    serde_json::from_str(include_str!("fixtures/jwt.json")).unwrap()
}

async fn ask(client: &mut Client, token: &Json, keys: &Json, options: Json) -> String {
    client.ask(&serde_json::json!({"token": token, "keys": keys, "options": options}).to_string()).await
}

fn ours() -> Json {
    serde_json::json!({"aud": "push"})
}

/// A server that answers each request with that status and body, and how many it has had.
async fn server(status: u16, body: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
            counted.fetch_add(1, SeqCst);
            let length = body.len();
            let reply = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
            let _ = socket.write_all(reply.as_bytes()).await;
        }
    });
    (addr, count)
}

#[tokio::test]
async fn keys_may_be_text_pem_or_json() {
    let (engine, fixture) = (TestEngine::new(SCRIPT), fixture());
    let mut client = engine.connect().await;
    let tokens = &fixture["tokens"];
    assert_eq!(ask(&mut client, &tokens["HS256"], &fixture["secret"], ours()).await, "\"42\"");
    for alg in ["RS256", "ES256", "EdDSA"] {
        assert_eq!(ask(&mut client, &tokens[alg], &fixture["pem"][alg], ours()).await, "\"42\"", "{alg}");
        let set = Json::String(fixture["jwks"].to_string());
        assert_eq!(ask(&mut client, &tokens[alg], &set, ours()).await, "\"42\"", "{alg}");
        let several = serde_json::json!([fixture["secret"], fixture["pem"][alg]]);
        assert_eq!(ask(&mut client, &tokens[alg], &several, ours()).await, "\"42\"", "{alg}");
        let confused = ask(&mut client, &fixture["confused"][alg], &fixture["pem"][alg], ours()).await;
        assert_eq!(confused, "jwt_verify: no key is there for it: HS256", "{alg}");
    }
    let all = serde_json::json!({"token": tokens["HS256"], "keys": fixture["secret"], "options": ours(), "all": true});
    let claims: Json = serde_json::from_str(&client.ask(&all.to_string()).await).unwrap();
    assert_eq!(claims["id"], "9007199254740993", "exact");
    assert_eq!(
        (&claims["rooms"], &claims["n"], &claims["none"]),
        (&serde_json::json!(["a", "b"]), &1.5.into(), &Json::Null)
    );
    for (options, wanted) in [
        (serde_json::json!({}), "jwt_verify: the token is for another audience (aud)"),
        (serde_json::json!({"aud": ["x"]}), "jwt_verify: the token is for another audience (aud)"),
        (serde_json::json!({"aud": "web", "iss": "me"}), "jwt_verify: the token is from another issuer (iss)"),
        (serde_json::json!({"aud": "web", "alg": "RS256"}), "jwt_verify: the algorithm HS256 is not accepted"),
        (serde_json::json!({"aud": "web", "require": ["jti"]}), "jwt_verify: the claim jti is missing"),
    ] {
        assert_eq!(ask(&mut client, &tokens["HS256"], &fixture["secret"], options.clone()).await, wanted, "{options}");
    }
    let unknown = ask(&mut client, &tokens["HS256"], &fixture["secret"], serde_json::json!({"audience": "x"})).await;
    assert!(
        unknown.ends_with("(no option is called \"audience\"; aud, iss, alg, require and leeway are)"),
        "{unknown}"
    );
    let private = ask(&mut client, &tokens["EdDSA"], &fixture["private"], ours()).await;
    assert_eq!(private, "jwt_verify: a private key was given; only the public key is wanted");
}

#[tokio::test]
async fn a_set_is_fetched_once_for_all_workers() {
    let (engine, fixture) = (TestEngine::with(SCRIPT, "", "workers: 2"), fixture());
    let (addr, requests) = server(200, fixture["jwks"].to_string()).await;
    let url = Json::String(format!("http://{addr}/jwks.json"));
    let mut clients = [engine.connect().await, engine.connect().await];
    for client in &mut clients {
        let request = serde_json::json!({"token": fixture["named"]["ES256"], "keys": url, "options": ours()});
        client.send(&request.to_string()).await;
    }
    for client in &mut clients {
        assert_eq!(client.text().await, "\"42\"");
        assert_eq!(ask(client, &fixture["named"]["RS256"], &url, ours()).await, "\"42\"");
        // A token may name any key: the server is not asked for each.
        let unknown = ask(client, &fixture["unknown"], &url, ours()).await;
        assert_eq!(unknown, "jwt_verify: no key is there for it: EdDSA (kid unknown)");
    }
    assert_eq!(requests.load(SeqCst), 1);
}

#[tokio::test]
async fn what_is_no_set_is_an_err() {
    let (engine, fixture) = (TestEngine::new(SCRIPT), fixture());
    let mut client = engine.connect().await;
    let secret = r#"{"keys": [{"kty": "oct", "k": "YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcywgb3IgbW9yZQ"}]}"#;
    for (status, body, wanted) in [
        (500, String::new(), "answered with status 500"),
        (200, "<html>".to_owned(), ": the JSON Web Keys can't be read: it is no JSON object"),
        (200, secret.to_owned(), ": none of the keys is for HS256, RS256, ES256 or EdDSA"),
        (200, " ".repeat(300_000), "have more than 262144 bytes"),
    ] {
        let (addr, requests) = server(status, body).await;
        let url = Json::String(format!("http://{addr}/keys?secret=x"));
        for _ in 0..3 {
            let err = ask(&mut client, &fixture["tokens"]["HS256"], &url, ours()).await;
            assert!(err.starts_with("jwt_verify: ") && err.ends_with(wanted) && !err.contains("secret="), "{err}");
        }
        assert_eq!(requests.load(SeqCst), 1, "it is not asked again at once");
    }
}

#[test]
fn tests_of_scripts_have_the_time_and_the_set_that_they_say() {
    let fixture = fixture();
    let dir = tempfile::tempdir().unwrap();
    let script = "function on_message(msg, conn)
        local claims, err = mix.jwt_verify(msg.data, mix.server.option('keys'), {aud = 'push'})
        conn:send(claims and claims.sub or err)
      end";
    let test = format!(
        "local token = '{}'
         test.it('verifies with a set', function()
           local app = test.load('app.lua', {{options = {{keys = 'https://id.example/keys'}}}})
           test.http('GET', 'https://id.example/keys', {{body = [==[{}]==]}})
           local c = app:connect()
           c:message(token)
           test.equal(c.sent[1].data, '42')
           test.advance(250000000)
           c:message(token)
           test.equal(c.sent[2].data, 'jwt_verify: the token has expired')
           test.equal(#app.requests, 2)
         end)
         test.it('tells an err', function()
           local app = test.load('app.lua', {{options = {{keys = 'https://id.example/keys'}}}})
           test.http('GET', 'https://id.example/keys', {{status_code = 503}})
           local c = app:connect()
           c:message(token)
           test.match(c.sent[1].data, 'answered with status 503')
         end)
         test.it('verifies with a secret', function()
           local c = test.load('app.lua', {{options = {{keys = '{}'}}}}):connect()
           c:message('{}')
           test.equal(c.sent[1].data, '42')
         end)",
        fixture["named"]["EdDSA"].as_str().unwrap(),
        fixture["jwks"],
        fixture["secret"].as_str().unwrap(),
        fixture["tokens"]["HS256"].as_str().unwrap()
    );
    std::fs::write(dir.path().join("app.lua"), script).unwrap();
    std::fs::write(dir.path().join("app_test.lua"), test).unwrap();
    let ended = run(dir.path(), &["test", "app_test.lua"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
}
