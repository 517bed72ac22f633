//! Links between Markdown pages.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// All pages below a folder, but for what is built there or hidden.
pub fn pages(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.to_owned()];
    let mut pages = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if name.starts_with('.') || name == "target" || entry.file_type().unwrap().is_symlink() {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// The lines of a page that are no code.
fn prose(page: &str) -> Vec<&str> {
    let mut is_code = false;
    let is_prose = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        is_code ^= fence;
        !is_code && !fence
    };
    page.lines().filter(is_prose).collect()
}

/// Where a page links to, as it is written there; no other sites.
pub fn links(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let mut links = Vec::new();
    for line in prose(&text) {
        // Every other part stands between two backticks.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let targets = plain.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        links.extend(targets.map(|(link, _)| link.to_owned()).filter(|link| !link.contains(':')));
    }
    links
}

/// The file that a link of a page leads to, and the heading in it.
pub fn resolve(page: &Path, link: &str) -> (PathBuf, String) {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let mut target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().to_owned() };
    for part in Path::new(file).components() {
        match part {
            std::path::Component::ParentDir => drop(target.pop()),
            std::path::Component::CurDir => {}
            part => target.push(part),
        }
    }
    (target, anchor.to_owned())
}

/// The names of a page's headings, as forges make them.
fn anchors(page: &str) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let headings =
        prose(page).into_iter().filter(|line| line.trim_start_matches('#').starts_with(' ') && line.starts_with('#'));
    let name = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before = seen.entry(name.clone()).or_insert(0);
        *before += 1;
        if *before == 1 { name } else { format!("{name}-{}", *before - 1) }
    };
    headings.map(name).collect()
}

/// The links of all pages below a folder that lead nowhere: `PAGE: LINK`.
pub fn dead(root: &Path) -> Vec<String> {
    let mut dead = Vec::new();
    for page in pages(root) {
        for link in links(&page) {
            let (target, anchor) = resolve(&page, &link);
            let is_there = match fs::read_to_string(&target) {
                Ok(text) => anchor.is_empty() || anchors(&text).contains(&anchor),
                // A folder, or no text.
                Err(_) => target.exists(),
            };
            if !is_there {
                dead.push(format!("{}: {link}", page.strip_prefix(root).unwrap().display()));
            }
        }
    }
    dead
}
