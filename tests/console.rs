//! The console and the demo, in a real browser where one is there: driven over the DevTools protocol as a person would use
//! them, by keyboard too. With `SCREENSHOTS=FOLDER` the same steps write the pictures of the documentation.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::browser::{Page, axe, browser};
use common::optional::Outcome;
use common::process::{Process, address};
use common::{Client, eventually, get, write_config};
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Names and messages that would be markup if anybody took them for it.
const HOSTILE: &str = "<img/src=x/onerror=alert(1)>";

/// Subscribes to what a message names, and says what the API tells of it.
const SCRIPT: &str = r#"
local OK = "ok"
function on_message(msg, conn)
  if msg.data == "fail" then error("failed as asked to") end
  if msg.data == "log" then return mix.log(mix.WARN, "a line <b>of the</b> script") end
  conn:send(conn:subscribe(msg.data, {info = {name = "<b>Ann</b>"}}) or OK)
end
"#;

const RULES: &str = "workers: 2\nchannels: [{match: '<', presence: true}, {match: 'room:', presence: true}]";

/// The engine of a page's test, with its folder and the browser's profile.
struct Scene {
    engine: Process,
    center: SocketAddr,
    page: Page,
    dir: TempDir,
    _profile: TempDir,
}

impl Scene {
    /// `dev` by the shipped configuration and script, and a page of the center.
    async fn shipped(path: &str) -> Result<Scene, common::optional::Missing> {
        let browser = browser()?;
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let config = fs::read_to_string(root.join("connmix.yaml")).unwrap().replace("bind: 0.0.0.0", "bind: 127.0.0.1");
        let config = ["port: 6787", "port: 6789", "port: 6790"].iter().fold(config, |text, port| {
            assert!(text.contains(port));
            text.replace(port, "port: 0")
        });
        fs::write(dir.path().join("connmix.yaml"), config).unwrap();
        fs::create_dir_all(dir.path().join("lua")).unwrap();
        fs::copy(root.join("lua/entry.websocket.lua"), dir.path().join("lua/entry.websocket.lua")).unwrap();
        Scene::open(browser, dir, path).await
    }

    /// `dev` with [`SCRIPT`].
    async fn own(path: &str, engine: &str, top: &str) -> Result<Scene, common::optional::Missing> {
        let browser = browser()?;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
        write_config(&dir.path().join("connmix.yaml"), "", engine, top);
        Scene::open(browser, dir, path).await
    }

    async fn open(browser: &str, dir: TempDir, path: &str) -> Result<Scene, common::optional::Missing> {
        let profile = tempfile::tempdir().unwrap();
        let engine = Process::ready(dir.path(), &["dev"]);
        let center = address(&engine.line("Center "), "http://");
        let mut page = Page::open(browser, profile.path(), "about:blank").await;
        page.listen().await;
        page.goto(&format!("http://{center}{path}")).await;
        Ok(Scene { engine, center, page, dir, _profile: profile })
    }

    /// Goes to a part of the console, and waits until its heading has the focus.
    async fn part(&mut self, hash: &str) {
        self.page.value(&format!("location.hash = {}; 0", json!(hash))).await;
        let name = hash.split('?').next().unwrap();
        self.page.until(&format!("document.querySelector('nav [aria-current]')?.hash === '#{name}'")).await;
    }

    /// Asks why the client on the page gets nothing in a channel.
    async fn why(&mut self, channel: &str) {
        let ask = "const forms = document.querySelectorAll('main form'), form = forms[forms.length - 1];";
        let ask = format!("{{ {ask} form.querySelector('input').value = '{channel}'; form.requestSubmit(); }} 0");
        self.page.value(&ask).await;
    }

    /// Waits until the page shows a text.
    async fn shows(&mut self, text: &str) {
        self.page.until(&format!("document.body.innerText.includes({})", json!(text))).await;
    }

    /// What must hold of every page at its end: no error in the console, nothing asked of another host, no markup of others.
    async fn end(mut self) {
        assert_eq!(self.page.value("document.querySelectorAll('img[onerror], main b b').length").await, 0);
        let (errors, urls) = self.page.heard().await;
        assert_eq!(errors, Vec::<String>::new());
        let own = format!("http://{}/", self.center);
        let others: Vec<&String> = urls.iter().filter(|url| !url.starts_with(&own)).collect();
        assert_eq!(others, Vec::<&String>::new());
        assert!(urls.len() > 5, "{urls:?}");
        let ended = self.engine.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
}

/// Where pictures go, if any are wanted.
fn pictures() -> Option<PathBuf> {
    std::env::var_os("SCREENSHOTS").map(PathBuf::from)
}

impl Scene {
    /// A picture of the page as it is now: wide and narrow, light and dark.
    async fn picture(&mut self, name: &str, variants: &[(&str, u32, u32, bool, &str)]) {
        let Some(folder) = pictures() else { return };
        fs::create_dir_all(&folder).unwrap();
        for &(suffix, width, height, mobile, scheme) in variants {
            self.page.look(width, height, mobile, scheme).await;
            self.page.value("scrollTo(0, 0)").await;
            // Charts and animations go on with the new size.
            tokio::time::sleep(Duration::from_millis(700)).await;
            fs::write(folder.join(format!("{name}{suffix}.png")), self.page.screenshot().await).unwrap();
        }
        self.page.look(1280, 800, false, "light").await;
    }
}

/// The pictures of the demo: what follows their name, width, height, whether it is a phone, the scheme.
const DEMO: [(&str, u32, u32, bool, &str); 2] =
    [("", 1000, 740, false, "light"), ("-narrow-dark", 390, 780, true, "dark")];

impl Scene {
    /// Pictures of the console's overview after some life.
    async fn pictured(&mut self, name: &str) {
        if pictures().is_none() {
            return;
        }
        let mut clients = Vec::new();
        for round in 0..60 {
            if round % 4 == 0 {
                let mut client = Client::connect(self.engine.ws(), "/ws").await;
                client.ask("room:1").await;
                clients.push(client);
            }
            for _ in 0..(3 + (round * 7) % 11) {
                let _ = common::post(self.engine.api(), "/v1/mesh/publish", r#"{"c":"room:1","d":"x"}"#).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.picture(
            name,
            &[
                ("", 1180, 860, false, "light"),
                ("-dark", 1180, 860, false, "dark"),
                ("-narrow", 390, 780, true, "light"),
                ("-narrow-dark", 390, 780, true, "dark"),
            ],
        )
        .await;
        for client in clients {
            client.close().await;
        }
        self.shows("nodes: 1, clients: 1").await;
    }
}

impl Scene {
    /// Publishes a comment as a back end does.
    async fn comment(&mut self, comment: &str) {
        let event = json!({"event": "@video", "data": {"uid": 1001, "video_id": 100001, "msg": comment}});
        self.publish(&event.to_string()).await;
    }

    async fn publish(&self, data: &str) {
        let body = json!({"c": "video:100001", "d": data}).to_string();
        let (status, reply) = common::post(self.engine.api(), "/v1/mesh/publish", &body).await;
        assert_eq!(status, 200, "{reply}");
        assert!(reply.starts_with(r#"{"E":null,"r":{"s":1,"f":0"#), "{reply}");
    }
}

async fn the_demo_shows_comments_and_follows_an_edit() -> Outcome {
    let mut scene = Scene::shipped("/").await?;
    scene.shows("Connected to ws://127.0.0.1:").await;
    scene.shows("1 online").await;
    scene.shows(r#"Its answer was {"result":true}"#).await;
    // By keyboard alone: a comment that would be markup.
    scene.page.value("document.getElementById('text').focus(); 0").await;
    scene.page.type_text(HOSTILE).await;
    scene.page.press("Enter").await;
    scene
        .page
        .until(&format!(
            "[...document.querySelectorAll('#screen .own')].some((line) => line.textContent === {})",
            json!(HOSTILE)
        ))
        .await;
    scene.page.until(&format!("document.getElementById('heard').innerText.includes({})", json!(HOSTILE))).await;
    scene.page.until("document.getElementById('text').value === ''").await;
    let comments = ["Good night, all", "弹幕来了", "What a view!", "there it comes", "first time here"];
    for comment in comments {
        scene.comment(comment).await;
    }
    scene.page.until("document.getElementById('heard').children.length === 6").await;
    // What `dev` tells to try is no JSON.
    scene.publish("Hello, World!").await;
    scene.page.until("document.querySelector('#heard p').textContent === 'Hello, World!'").await;
    let edges = "const edge = (id) => document.getElementById(id).getBoundingClientRect(); edge('online').bottom <= edge('screen').top";
    assert_eq!(scene.page.value(edges).await, true, "no comment flies over the count");
    if pictures().is_some() {
        for variant in DEMO {
            // They fly as far as the screen is wide.
            scene.page.look(variant.1, variant.2, variant.3, variant.4).await;
            scene.page.value("document.getElementById('screen').replaceChildren(); 0").await;
            scene.page.type_text("Hello, World!").await;
            scene.page.press("Enter").await;
            scene.page.until("document.querySelector('#screen .own') !== null").await;
            for comment in comments {
                tokio::time::sleep(Duration::from_millis(700)).await;
                scene.comment(comment).await;
            }
            scene.picture("demo", &[variant]).await;
        }
    }

    // The edit that the page names, and then one that does not work.
    let file = scene.dir.path().join("lua/entry.websocket.lua");
    let text = fs::read_to_string(&file).unwrap();
    let named = "[...document.querySelectorAll('#from code, #to code')].map((code) => code.textContent)";
    let named = scene.page.value(named).await;
    let (from, to) = (named[0].as_str().unwrap(), named[1].as_str().unwrap());
    assert_eq!(text.matches(from).count(), 1);
    scene.page.until(&format!("document.querySelector('#source .here').textContent === {}", json!(from))).await;
    fs::write(&file, text.replace(from, to)).unwrap();
    scene.shows("Version 2 runs.").await;
    scene.page.until(&format!("document.querySelector('#source .here').textContent === {}", json!(to))).await;
    scene.shows(r#""color":"gold""#).await;
    scene
        .page
        .until("[...document.querySelectorAll('#screen span')].every((line) => line.style.color === 'gold')")
        .await;
    fs::write(&file, text.replace(from, "local OK = <b>")).unwrap();
    scene.page.until("document.getElementById('error').innerText.includes('entry.websocket.lua:13')").await;

    // Late comers get what the channel keeps, once it does: the line that the page names.
    fs::write(&file, &text).unwrap();
    let rule = scene.page.value("document.querySelector('#late code').textContent").await;
    let config = scene.dir.path().join("connmix.yaml");
    let lines = scene.engine.lines().len();
    let (text, rule) = (fs::read_to_string(&config).unwrap(), rule.as_str().unwrap());
    let commented = format!("\n  # {rule}\n");
    assert!(text.contains(&commented), "{rule}");
    fs::write(&config, text.replace(&commented, &format!("\n  {rule}\n"))).unwrap();
    scene.engine.line_after(lines, "reloaded connmix.yaml");
    for comment in ["one", "two"] {
        scene.comment(comment).await;
    }
    scene.page.goto("about:blank").await;
    scene.page.goto(&format!("http://{}/", scene.center)).await;
    scene.shows("this page has got 2 of them").await;
    scene
        .page
        .until("[...document.querySelectorAll('#heard p')].map((one) => one.textContent).join() === 'two,one'")
        .await;

    scene
        .page
        .value("const s = document.getElementById('language'); s.value = 'zh'; s.dispatchEvent(new Event('change')); 0")
        .await;
    scene.shows("飞过画面的弹幕").await;
    assert_eq!(scene.page.value("document.documentElement.lang").await, "zh");
    scene.end().await;
    Ok(())
}

async fn the_console_shows_nodes_channels_and_clients() -> Outcome {
    let mut scene = Scene::own("/console/", RULES, "").await?;
    let mut client = Client::connect(scene.engine.ws(), "/ws").await;
    assert_eq!(client.ask(HOSTILE).await, "ok");
    assert_eq!(client.ask("room:7").await, "ok");
    scene.shows("nodes: 1, clients: 1").await;
    scene.shows("channels: 2").await;
    // Figures stand as texts beside each chart.
    scene
        .page
        .until("[...document.querySelectorAll('figure')].every((one) => one.querySelector('.now').textContent)")
        .await;
    assert_eq!(scene.page.value("document.querySelectorAll('figure').length").await, 6);
    scene.page.until("document.querySelector('figure polyline').points.length > 1").await;

    scene.pictured("console").await;
    // By keyboard, from the list of channels to one of them.
    scene.part("channels").await;
    scene.shows(HOSTILE).await;
    scene.page.value("document.querySelector('main form input').focus(); 0").await;
    scene.page.type_text("room:").await;
    scene.page.press("Enter").await;
    scene.page.until("document.querySelectorAll('main tbody tr').length === 1").await;
    // The button, and the list, which may be too wide for a phone.
    for _ in 0..3 {
        scene.page.press("Tab").await;
    }
    assert_eq!(scene.page.value("document.activeElement.textContent").await, "room:7");
    scene.page.press("Enter").await;
    scene.shows(r#"{"name":"<b>Ann</b>"}"#).await;

    scene.page.value("document.querySelector('a[href^=\"#client\"]:not(nav a)').click()").await;
    scene.shows("Subscriptions").await;
    scene.page.until("document.querySelectorAll('.chips a').length === 2").await;
    // Why it gets nothing, in a sentence; in a channel of its, and in another one.
    for (channel, begins) in [("", "connected: "), ("room:7", "subscribed: "), ("news", "never subscribed: ")] {
        scene.why(channel).await;
        let said = "[...document.querySelectorAll('.result')].at(-1).innerText";
        scene.page.until(&format!("{said}.startsWith('{begins}')")).await;
    }
    // It asks before it closes.
    scene.page.value("confirm = () => true; document.querySelector('button.danger').click()").await;
    scene.shows("Connections that were told to close: 1.").await;
    assert_eq!(client.close_frame().await, (1000, "console".into()));
    scene.shows("nodes: 1, clients: 0").await;
    // Of one that has gone it is known how.
    scene.why("room:7").await;
    scene.shows("closed: its connection ended ").await;
    scene.shows("(requested, code 1000): console; it was in room:7 until then").await;
    scene.end().await;
    Ok(())
}

async fn the_console_publishes_and_talks_as_a_client() -> Outcome {
    let mut scene = Scene::own("/console/#send", RULES, "").await?;
    let mut client = Client::connect(scene.engine.ws(), "/ws").await;
    assert_eq!(client.ask("news").await, "ok");
    scene.page.until("document.querySelector('main button')?.disabled === false").await;
    scene.page.value("document.getElementById('channel').focus(); 0").await;
    scene.page.type_text("news").await;
    scene.page.press("Tab").await;
    scene.page.press("Tab").await;
    scene.page.type_text(HOSTILE).await;
    scene.page.press("Tab").await;
    scene.page.press("Enter").await;
    assert_eq!(client.text().await, HOSTILE);
    scene.shows("Connections reached: 1, failed: 0.").await;

    // The address is that of the server, with its path.
    let address = scene.page.value("document.querySelector('[list=urls]').value").await;
    assert_eq!(address, format!("ws://{}/ws", scene.engine.ws()));
    scene.page.value("document.querySelector('[list=urls]').form.requestSubmit()").await;
    scene.shows("open").await;
    let say = "const [, form] = [...document.querySelectorAll('main > div > section > form')]; \
               form.querySelector('textarea').value = 'news'; form.requestSubmit(); 0";
    scene.page.value(say).await;
    scene
        .page
        .until("[...document.querySelectorAll('.lines li.in code')].some((line) => line.textContent === 'ok')")
        .await;
    // The demo does not speak to a script that is no barrage: it leads here.
    scene.page.goto(&format!("http://{}/", scene.center)).await;
    scene.shows("no comments fly here").await;
    assert_eq!(scene.page.value("document.getElementById('form').offsetHeight").await, 0);
    assert_eq!(scene.page.value("document.getElementById('state').textContent").await, "");
    let leads = scene.page.value("document.querySelector('#other a').href").await;
    assert_eq!(leads, format!("http://{}/console/#send", scene.center));
    scene.end().await;
    Ok(())
}

async fn the_console_follows_what_happens() -> Outcome {
    let mut scene = Scene::own("/console/#scripts", RULES, "").await?;
    // Its tail is there once the log's last lines have come.
    scene.page.until("document.querySelector('main tbody td') !== null").await;
    scene.page.value("const [all] = document.querySelectorAll('main input'); all.click(); 0").await;
    scene.page.until("document.querySelector('[aria-label=Log]').innerText.includes(' is ready; API on ')").await;
    let mut client = Client::connect(scene.engine.ws(), "/ws").await;
    client.send("log").await;
    scene
        .page
        .until("document.querySelector('[aria-label=Log]').innerText.includes('a line <b>of the</b> script')")
        .await;
    client.send("fail").await;
    scene
        .page
        .until("/entry\\.lua:4\\b.*failed as asked to/s.test(document.querySelector('.error')?.innerText ?? '')")
        .await;
    // A version that does not work is told with its place, too.
    fs::write(scene.dir.path().join("entry.lua"), format!("{SCRIPT}\nlocal <b>")).unwrap();
    scene.page.until("document.querySelector('main pre')?.innerText.includes('entry.lua:9')").await;
    fs::write(scene.dir.path().join("entry.lua"), format!("{SCRIPT}\n")).unwrap();
    scene.page.until("document.querySelector('main tbody')?.innerText.includes('runs')").await;
    // On a phone tables scroll, and no word of them is cut in two.
    scene.page.look(390, 780, true, "light").await;
    let whole = "[...document.querySelectorAll('td, td code')].flatMap((cell) => [...cell.childNodes]) \
        .filter((node) => node.nodeType === Node.TEXT_NODE && !/\\s/.test(node.data)) \
        .every((word) => { const range = document.createRange(); range.selectNode(word); return range.getClientRects().length < 2 })";
    assert_eq!(scene.page.value(whole).await, true);
    scene.page.look(1280, 800, false, "light").await;

    let mut client = Client::connect(scene.engine.ws(), "/ws").await;
    assert_eq!(client.ask("room:7").await, "ok");
    scene.part("live?channel=room:*").await;
    scene.shows("Watching").await;
    let shown = |text: &str| {
        format!("[...document.querySelectorAll('.lines li')].some((line) => line.innerText.includes({}))", json!(text))
    };
    // What a message holds is shown to those who may write, and only if they ask for it.
    scene.page.value("const [, bodies] = document.querySelectorAll('main [type=checkbox]'); bodies.click(); 0").await;
    for _ in 0..2 {
        scene.page.value("document.querySelector('main form').requestSubmit(); 0").await;
    }
    scene.shows("Watching").await;
    let publish = json!({"c": "room:7", "d": HOSTILE}).to_string();
    eventually("the message is seen", async || {
        let _ = common::post(scene.engine.api(), "/v1/mesh/publish", &publish).await;
        (scene.page.value(&shown(HOSTILE)).await == true).then_some(())
    })
    .await;
    if pictures().is_some() {
        // Begun anew, with less.
        for _ in 0..2 {
            scene.page.value("document.querySelector('main form').requestSubmit(); 0").await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        for text in ["Hello, World!", HOSTILE, r#"{"price": 17.5}"#] {
            let publish = json!({"c": "room:7", "d": text}).to_string();
            let _ = common::post(scene.engine.api(), "/v1/mesh/publish", &publish).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }
    client.send("room:8").await;
    scene.page.until(&shown("room:8")).await;
    scene.picture("console-live", &[("", 1180, 640, false, "light")]).await;
    client.close().await;
    scene.page.until(&shown("peer")).await;
    scene.end().await;
    Ok(())
}

const USERS: &str =
    "access: {users: [{username: ann, password: secret, roles: [read]}, {username: bob, password: secret}]}";

async fn the_console_asks_for_a_login_and_keeps_to_its_roles() -> Outcome {
    let mut scene = Scene::own("/healthz", RULES, USERS).await?;
    let center = scene.center;
    let (status, _) = get(center, "/console/").await;
    assert_eq!(status, 401, "browsers ask for the password then");
    let as_user = |user: &str| json!({"Authorization": format!("Basic {}", STANDARD.encode(format!("{user}:secret")))});
    scene.page.headers(as_user("ann")).await;
    scene.page.goto(&format!("http://{center}/console/#send")).await;
    scene.shows("your user lacks the role write").await;
    assert_eq!(scene.page.value("document.querySelector('main form button').disabled").await, true);
    let forced =
        "fetch('v1/mesh/publish', {method: 'POST', body: '{\"c\":\"news\",\"d\":\"x\"}'}).then((r) => r.status)";
    assert_eq!(scene.page.awaited(forced).await, 403);
    scene.page.headers(as_user("bob")).await;
    assert_eq!(scene.page.awaited(forced).await, 200);
    scene.page.until("document.querySelector('main form button').disabled === false").await;
    let ended = scene.engine.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    Ok(())
}

impl Scene {
    /// What axe-core finds in the page as it is: light and dark, on a phone too.
    async fn barriers(&mut self, axe: &str, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (width, height, mobile, scheme) in
            [(1280, 800, false, "light"), (1280, 800, false, "dark"), (390, 780, true, "light")]
        {
            self.page.look(width, height, mobile, scheme).await;
            let barriers = self.page.barriers(axe).await;
            found.extend(barriers.into_iter().map(|barrier| format!("{name}, {scheme}, {width} wide: {barrier}")));
        }
        found
    }
}

async fn nothing_keeps_people_from_using_the_demo_and_the_console() -> Outcome {
    let axe = axe()?;
    let mut scene = Scene::shipped("/").await?;
    scene.shows("1 online").await;
    scene.comment("Good night, all").await;
    scene.page.until("document.getElementById('heard').children.length === 1").await;
    let mut found = scene.barriers(&axe, "the demo").await;
    scene.end().await;

    let mut scene = Scene::own("/console/", RULES, "").await?;
    let mut client = Client::connect(scene.engine.ws(), "/ws").await;
    client.ask("room:7").await;
    scene.page.until("document.querySelector('figure polyline')?.points.length > 1").await;
    found.extend(scene.barriers(&axe, "the overview").await);
    scene.part("scripts").await;
    scene.shows("runs").await;
    Client::connect(scene.engine.ws(), "/ws").await.send("fail").await;
    scene.page.until("document.querySelector('.error')?.innerText.includes('failed as asked to')").await;
    found.extend(scene.barriers(&axe, "scripts and the log").await);
    scene.part("channels?c=room:7").await;
    scene.page.until("document.querySelector('a[href^=\"#client\"]:not(nav a)') !== null").await;
    found.extend(scene.barriers(&axe, "a channel").await);
    scene.page.value("document.querySelector('a[href^=\"#client\"]:not(nav a)').click()").await;
    scene.shows("Subscriptions").await;
    scene.why("room:7").await;
    scene.shows("subscribed: ").await;
    found.extend(scene.barriers(&axe, "a client").await);
    scene.part("live?channel=room:*").await;
    scene.shows("Watching").await;
    // The workers know of the watcher a moment later.
    eventually("an event", async || {
        client.send("room:7").await;
        (scene.page.value("document.querySelector('.lines li') !== null").await == true).then_some(())
    })
    .await;
    found.extend(scene.barriers(&axe, "live").await);
    scene.part("send").await;
    scene.shows("To one client").await;
    found.extend(scene.barriers(&axe, "sending").await);
    assert!(found.is_empty(), "{found:#?}");
    scene.end().await;
    Ok(())
}

async fn the_console_speaks_chinese_where_the_browser_does() -> Outcome {
    let mut scene = Scene::own("/console/", RULES, "").await?;
    scene.shows("Connections").await;
    scene
        .page
        .value("const s = document.getElementById('language'); s.value = 'zh'; s.dispatchEvent(new Event('change')); 0")
        .await;
    scene.shows("连接数").await;
    scene.part("channels").await;
    scene.shows("名称以此开头").await;
    // The choice lasts.
    let url = format!("http://{}/console/", scene.center);
    scene.page.goto("about:blank").await;
    scene.page.goto(&url).await;
    scene.shows("连接数").await;
    assert_eq!(scene.page.value("document.documentElement.lang").await, "zh");
    scene.end().await;
    Ok(())
}

optional_tests! {
    the_demo_shows_comments_and_follows_an_edit,
    the_console_shows_nodes_channels_and_clients,
    the_console_publishes_and_talks_as_a_client,
    the_console_follows_what_happens,
    the_console_asks_for_a_login_and_keeps_to_its_roles,
    nothing_keeps_people_from_using_the_demo_and_the_console,
    the_console_speaks_chinese_where_the_browser_does,
}
