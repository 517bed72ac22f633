//! The web pages that the center serves: the console, and in `dev` the demo. Their files are embedded; `console/` has them.
//! The calls that they make stand below `/console/v1`, so that they go to the port that the pages come from: a page may call
//! no other.

use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::answer::Answer;
use super::error::ApiError;
use super::fields::invalid;
use super::query::pairs;
use super::state::Api;
use crate::cluster::Behind;
use crate::config::file::read;
use crate::config::{Config, Protocol};
use crate::hub::{NodeFigures, Question};

/// What stands in front of the paths of calls.
pub(super) const CALLS: &str = "/console";
/// The most bytes of a script that are shown.
const MAX_SHOWN: usize = 64 * 1024;

/// A file of the pages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    path: &'static str,
    kind: &'static str,
    body: &'static str,
}

macro_rules! pages {
    ($($path:literal: $kind:ident $file:literal,)*) => {
        [$(Page { path: $path, kind: $kind, body: include_str!(concat!("../../", $file)) },)*]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The demo, which only `dev` serves. Its page is the first.
static DEMO: [Page; 5] = pages! {
    "/": HTML "console/demo/index.html",
    "/demo/demo.css": CSS "console/demo/demo.css",
    "/demo/demo.js": JS "console/demo/demo.js",
    "/demo/picture.js": JS "console/demo/picture.js",
    "/demo/connmix.js": JS "clients/js/connmix.js",
};

static CONSOLE: [Page; 15] = pages! {
    "/console/": HTML "console/index.html",
    "/console/console.css": CSS "console/console.css",
    "/console/icon.svg": SVG "console/icon.svg",
    "/console/main.js": JS "console/main.js",
    "/console/api.js": JS "console/api.js",
    "/console/dom.js": JS "console/dom.js",
    "/console/words.js": JS "console/words.js",
    "/console/chart.js": JS "console/chart.js",
    "/console/overview.js": JS "console/overview.js",
    "/console/channels.js": JS "console/channels.js",
    "/console/client.js": JS "console/client.js",
    "/console/send.js": JS "console/send.js",
    "/console/live.js": JS "console/live.js",
    "/console/scripts.js": JS "console/scripts.js",
    "/console/servers.js": JS "console/servers.js",
};

/// Nothing comes from elsewhere, and nothing stands in the page itself. Scripts put text into it and never markup, which
/// `trusted-types` insists on. The WebSocket client of the console, and the demo, connect to servers for clients: these have
/// ports of their own, and in a cluster other hosts.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What there is of it.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// `/console` without the slash.
    Moved,
    /// The root: the demo in `dev`, and elsewhere the way to the console.
    Root,
    /// A file.
    Page(&'static Page),
    /// How all nodes are.
    Figures,
    /// What holds for a channel.
    Rule,
    /// The script of the first WebSocket server, in `dev`.
    Script,
}

/// The part at that path.
pub(super) fn find(path: &str) -> Option<Part> {
    Some(match path {
        CALLS => Part::Moved,
        "/" => Part::Root,
        "/console/v1/figures" => Part::Figures,
        "/console/v1/rule" => Part::Rule,
        "/console/v1/script" => Part::Script,
        path => Part::Page(CONSOLE.iter().chain(&DEMO).find(|page| page.path == path)?),
    })
}

impl Part {
    /// Whether that configuration has it.
    pub(super) fn is_served(self, config: &Config) -> bool {
        match self {
            Part::Page(page) => config.dev || !DEMO.contains(page),
            Part::Script => config.dev,
            Part::Moved | Part::Root | Part::Figures | Part::Rule => true,
        }
    }

    /// Whether a browser may open it.
    pub(super) fn is_page(self) -> bool {
        matches!(self, Part::Page(_) | Part::Moved | Part::Root)
    }
}

impl Page {
    /// It, with what browsers are to keep to.
    fn answer(&self) -> Answer {
        let extra: [(HeaderName, &'static str); 6] = [
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-cache"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ];
        Answer::text(self.kind, self.body.to_owned()).with(extra)
    }
}

/// Refuses the console, and what it reads, where everybody on the network could use it.
pub(super) fn check_open(config: &Config) -> Result<(), ApiError> {
    if config.users.is_empty() && config.center.is_beyond_loopback() {
        let why = "the console is off, and so are /v1/tail and /v1/why at this port: center.apiServer listens on more than \
                   loopback, and there are no access.users";
        return Err(ApiError::Forbidden(why.into()));
    }
    Ok(())
}

/// What `GET /console/v1/figures` tells.
#[derive(Serialize)]
struct Figures {
    /// Unix time in milliseconds.
    now: u64,
    /// Who asks may publish and close, too.
    write: bool,
    dev: bool,
    nodes: Vec<NodeFigures>,
    /// Nodes that did not answer in time.
    u: u64,
}

/// What holds for a channel, as far as calls of the console depend on it.
#[derive(Serialize)]
struct Rule {
    presence: bool,
    history: bool,
}

/// A script, as `dev` shows it.
#[derive(Serialize)]
struct Shown {
    /// Its file.
    file: String,
    text: String,
    /// Its beginning alone is shown.
    cut: bool,
}

impl Api {
    /// Answers a request for a part of the console, of one who may write or may not.
    pub(super) async fn console(&self, part: Part, query: &str, write: bool) -> Result<Answer, ApiError> {
        match part {
            Part::Root if self.config.load().dev => Ok(DEMO[0].answer()),
            // For those who leave out the slash at its end, or all of it. Not to be kept: `dev` may be next at this address.
            Part::Moved | Part::Root => Ok(Answer::moved("/console/").with([(CACHE_CONTROL, "no-store")])),
            Part::Page(page) => Ok(page.answer()),
            Part::Figures => self.figures(write).await,
            Part::Rule => self.rule(query),
            Part::Script => self.script().await,
        }
    }

    /// What the center's configuration says of the channel that a query names.
    fn rule(&self, query: &str) -> Result<Answer, ApiError> {
        let mut channel = None;
        for pair in pairs(query) {
            let (name, value) = pair?;
            if name == "c" {
                channel = Some(value);
            }
        }
        let channel = channel.ok_or_else(|| invalid("parameter \"c\" is missing"))?;
        let config = self.config.load();
        let rule = config.rule_of(&channel);
        let rule = Rule {
            presence: rule.is_some_and(|rule| rule.presence),
            history: rule.is_some_and(|rule| rule.is_ordered()),
        };
        Ok(Answer::to_call(Ok(rule), None))
    }

    /// How all nodes are.
    async fn figures(&self, write: bool) -> Result<Answer, ApiError> {
        if !self.mesh.is_serving() {
            return Err(ApiError::Joining);
        }
        let answer = self.mesh.ask(Question::Figures, Behind::default()).await.await;
        let mut nodes = answer.nodes;
        nodes.sort_by(|a, b| (a.started, &a.node).cmp(&(b.started, &b.node)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let figures = Figures { now, write, dev: self.config.load().dev, nodes, u: answer.unanswered };
        Ok(Answer::to_call(Ok(figures), None))
    }

    /// The script that `dev` shows.
    async fn script(&self) -> Result<Answer, ApiError> {
        let entry: Option<PathBuf> = {
            let config = self.config.load();
            let first = config.servers.iter().find(|server| server.protocol == Protocol::Websocket);
            first.filter(|_| config.dev).map(|server| server.entry.clone())
        };
        // A center that is a process of its own has no script.
        let Some(entry) = entry else { return Ok(Answer::to_call(Ok(None::<Shown>), None)) };
        let file = crate::script::program::shown(&entry);
        let text = tokio::task::spawn_blocking(move || read(&entry, MAX_SHOWN as u64 + 1)).await;
        // It may be gone for a moment while an editor saves it.
        let Ok(Ok(mut text)) = text else { return Err(ApiError::Unavailable) };
        let cut = text.len() > MAX_SHOWN;
        text.truncate(MAX_SHOWN);
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(Answer::to_call(Ok(Some(Shown { file, text, cut })), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_has_its_path_and_all_are_small() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let names = |folder: &str| -> BTreeSet<String> {
            let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
            let files = files.filter(|entry| entry.file_type().unwrap().is_file());
            files.map(|entry| entry.file_name().into_string().unwrap()).collect()
        };
        let served = |pages: &[Page]| -> BTreeSet<String> {
            let name = |page: &Page| page.path.rsplit('/').next().unwrap().to_owned();
            pages.iter().map(name).map(|name| if name.is_empty() { "index.html".into() } else { name }).collect()
        };
        assert_eq!(names(folder), served(&CONSOLE));
        let mut demo = names(&format!("{folder}/demo"));
        demo.insert("connmix.js".into());
        assert_eq!(demo, served(&DEMO));
        let bytes = |pages: &[Page]| pages.iter().map(|page| page.body.len()).sum::<usize>();
        assert!(bytes(&CONSOLE) < 80_000, "{}", bytes(&CONSOLE));
        assert!(bytes(&DEMO) < 40_000, "{}", bytes(&DEMO));
    }

    #[test]
    fn no_page_names_another_host_or_has_code_or_style_in_it() {
        for page in CONSOLE.iter().chain(&DEMO) {
            for part in ["http://", "https://", "innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("] {
                let found = page.body.lines().find(|line| line.contains(part) && !line.contains("www.w3.org/2000/svg"));
                assert_eq!(found, None, "{}", page.path);
            }
            if page.kind == HTML {
                for part in ["style=", "<style", " on", "javascript:"] {
                    let tags = page.body.split('<').filter_map(|tag| tag.split('>').next());
                    let found = tags.into_iter().find(|tag| format!("<{tag}").contains(part));
                    assert_eq!(found, None, "{}", page.path);
                }
            }
        }
    }
}
