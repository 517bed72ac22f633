//! Blocks of code in the pages that no other test runs as a whole: each part of a configuration is one that the engine
//! takes, each piece of Lua can be compiled, and JSON is JSON.

mod common {
    pub mod links;
}

use common::links::pages;
use connmix::config::load::load;
use std::fs;
use std::path::Path;

/// A block of a page: where it is, its language, its text without what all of its lines are indented by.
struct Block {
    place: String,
    language: String,
    text: String,
}

fn blocks() -> Vec<Block> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut blocks = Vec::new();
    for page in pages(root) {
        let text = fs::read_to_string(&page).unwrap();
        let name = page.strip_prefix(root).unwrap().display();
        let mut open: Option<Block> = None;
        for (n, line) in text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(language), None) => {
                    let (place, language) = (format!("{name}:{}", n + 1), language.to_owned());
                    open = Some(Block { place, language, text: String::new() });
                }
                (None, Some(block)) => block.text += &format!("{line}\n"),
                (None, None) => {}
            }
        }
    }
    for block in &mut blocks {
        let lines = block.text.lines().filter(|line| !line.trim().is_empty());
        let indent = lines.map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
        block.text = block.text.lines().map(|line| format!("{}\n", line.get(indent..).unwrap_or(""))).collect();
    }
    blocks
}

fn of(language: &str) -> Vec<Block> {
    blocks().into_iter().filter(|block| block.language == language).collect()
}

/// What is wrong with a configuration, but for files that are not here and hashes that are only hinted at.
fn problems(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("connmix.yaml");
    fs::write(&file, text).unwrap();
    let Err(problems) = load(&file) else { return Vec::new() };
    let form = ["unknown key", "not valid YAML", "expected"];
    let list = problems.list.into_iter().filter(|problem| !problem.key.ends_with("passwordHash"));
    list.map(|problem| problem.message.en).filter(|message| form.iter().any(|part| message.contains(part))).collect()
}

#[test]
fn every_part_of_a_configuration_is_taken_where_it_belongs() {
    // Where a part may stand: the whole file, the engine, one of its servers, a rule of its channels.
    let places = [
        ("", 0, "engine: {servers: [{}]}"),
        ("", 0, ""),
        ("engine:\n  servers: [{}]\n", 2, ""),
        ("engine:\n", 2, ""),
        ("engine:\n  servers:\n    - entry: x\n", 6, ""),
        ("engine:\n  servers:\n", 4, ""),
        ("engine:\n  servers: [{}]\n  channels:\n    - match: x\n", 6, ""),
        ("engine:\n  servers: [{}]\n  channels:\n", 4, ""),
    ];
    let mut checked = 0;
    for Block { place, text, .. } in of("yaml") {
        if ["kind: ", "scrape_configs:"].iter().any(|of_others| text.contains(of_others)) {
            continue;
        }
        let tried: Vec<Vec<String>> = places
            .iter()
            .map(|(before, indent, behind)| {
                let indented = text.lines().map(|line| format!("{}{line}\n", " ".repeat(*indent)));
                problems(&format!("{before}{}{behind}", indented.collect::<String>()))
            })
            .collect();
        assert!(tried.iter().any(Vec::is_empty), "{place}\n{text}\n{tried:#?}");
        checked += 1;
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn every_piece_of_lua_can_be_compiled() {
    let lua = mlua::Lua::new();
    let pieces = of("lua");
    assert!(pieces.len() > 120, "{}", pieces.len());
    for Block { place, text, .. } in pieces {
        // Some list expressions, one a line, with what they give.
        let mut lines = text.lines().filter(|line| !line.is_empty());
        let mut is_list = || lines.all(|line| lua.load(format!("return {line}")).into_function().is_ok());
        if let Err(e) = lua.load(&text).into_function()
            && !is_list()
        {
            panic!("{place}: {e}\n{text}");
        }
    }
}

#[test]
fn json_is_json() {
    for Block { place, text, .. } in of("json") {
        // Some show one value a line.
        let one = serde_json::from_str::<serde_json::Value>(&text).map(drop);
        let each = || text.lines().try_for_each(|line| serde_json::from_str::<serde_json::Value>(line).map(drop));
        if let Err(e) = one.or_else(|_| each()) {
            panic!("{place}: {e}\n{text}");
        }
    }
}
