//! The Chinese pages say what the English ones say, as far as a program can tell: the same headings, the same blocks of code but
//! for comments, tables of the same shape; and each pair is linked both ways.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What of a page is the same in both languages.
#[derive(Debug, Default, PartialEq)]
struct Shape {
    /// The levels of the headings.
    headings: Vec<usize>,
    /// Each block: its language and its lines, without comments.
    blocks: Vec<Vec<String>>,
    /// The columns of each row, for each table.
    tables: Vec<Vec<usize>>,
    /// Items of lists.
    items: usize,
}

/// A line of code without its comment.
fn code(line: &str) -> String {
    let comment = ["# ", "// ", "-- "].iter().filter_map(|mark| line.find(mark)).min();
    line[..comment.unwrap_or(line.len())].trim_end().to_owned()
}

fn shape(page: &str) -> Shape {
    let mut shape = Shape::default();
    let (mut is_code, mut is_table) = (false, false);
    for line in page.lines() {
        let fence = line.trim_start().starts_with("```");
        if fence && !is_code {
            shape.blocks.push(vec![line.trim().to_owned()]);
        } else if !fence && is_code {
            shape.blocks.last_mut().unwrap().push(code(line));
        }
        is_code ^= fence;
        if is_code || fence {
            continue;
        }
        let level = line.chars().take_while(|c| *c == '#').count();
        if level > 0 && line[level..].starts_with(' ') {
            shape.headings.push(level);
        }
        shape.items += usize::from(line.trim_start().starts_with("- "));
        if line.starts_with('|') {
            if !is_table {
                shape.tables.push(Vec::new());
            }
            // A bar that belongs to a cell is escaped.
            shape.tables.last_mut().unwrap().push(line.replace(r"\|", "").matches('|').count() - 1);
        }
        is_table = line.starts_with('|');
    }
    shape
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// All pages in a folder and in the folders below it, but those that are left out.
fn below(folder: PathBuf, left_out: &Path) -> Vec<PathBuf> {
    let (mut folders, mut pages) = (vec![folder], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path != left_out {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// Each page of `docs/zh` with its English one.
fn pages() -> Vec<(PathBuf, PathBuf)> {
    let zh = docs().join("zh");
    let english = |page: &PathBuf| docs().join(page.strip_prefix(&zh).unwrap());
    below(zh.clone(), Path::new("")).into_iter().map(|page| (page.clone(), english(&page))).collect()
}

#[test]
fn every_page_is_there_in_chinese() {
    let zh = docs().join("zh");
    let all = below(docs(), &zh);
    assert!(all.len() > 30, "{all:?}");
    let missing: Vec<PathBuf> =
        all.into_iter().filter(|page| !zh.join(page.strip_prefix(docs()).unwrap()).exists()).collect();
    assert!(missing.is_empty(), "not in docs/zh: {missing:#?}");
}

#[test]
fn each_page_has_the_shape_of_its_english_one() {
    let pages = pages();
    assert!(!pages.is_empty());
    for (chinese, english) in pages {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (ours, theirs) = (shape(&read(&chinese)), shape(&read(&english)));
        let name = chinese.display();
        assert_eq!(ours.headings, theirs.headings, "levels of the headings of {name}");
        assert_eq!(ours.blocks, theirs.blocks, "blocks of code in {name}");
        assert_eq!(ours.tables, theirs.tables, "columns of each row of each table in {name}");
        assert_eq!(ours.items, theirs.items, "items of lists in {name}");
    }
}

/// What `connmix new` writes is in the language of its user.
#[test]
fn each_readme_of_a_template_has_the_shape_of_its_english_one() {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let folders: Vec<PathBuf> = fs::read_dir(templates).unwrap().map(|entry| entry.unwrap().path()).collect();
    let folders: Vec<_> = folders.iter().filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 5);
    for folder in folders {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let (ours, theirs) = (read("README.zh-CN.md"), read("README.md"));
        assert_eq!(shape(&ours), shape(&theirs), "{}", folder.display());
        // What stands between backticks is typed as it is.
        let typed = |page: &str| page.split('`').skip(1).step_by(2).map(code).collect::<BTreeSet<String>>();
        assert_eq!(typed(&ours), typed(&theirs), "{}", folder.display());
    }
}

#[test]
fn both_pages_lead_to_each_other_at_their_top() {
    for (chinese, english) in pages() {
        for (from, to, text) in [(&chinese, &english, "English"), (&english, &chinese, "中文")] {
            let page = fs::read_to_string(from).unwrap();
            let start = format!("[{text}](");
            let link = page.lines().take(3).find_map(|line| line.strip_prefix(&start)?.strip_suffix(')'));
            let link = link.unwrap_or_else(|| panic!("{}: no line {start}...) at its top", from.display()));
            let leads = from.parent().unwrap().join(link).canonicalize();
            assert_eq!(leads.ok(), to.canonicalize().ok(), "{}: {link}", from.display());
        }
    }
}

/// Links within the documentation lead somewhere.
#[test]
fn links_of_the_chinese_pages_lead_to_files() {
    for (chinese, _) in pages() {
        let page = fs::read_to_string(&chinese).unwrap();
        for rest in page.split("](").skip(1) {
            let link = rest.split(')').next().unwrap();
            let path = link.split('#').next().unwrap();
            if !path.is_empty() && !link.contains("://") {
                assert!(chinese.parent().unwrap().join(path).exists(), "{}: {link}", chinese.display());
            }
        }
    }
}

#[test]
fn a_difference_is_found() {
    let page = "# A\n\n- x\n\n```sh\nls   # all\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n";
    let same = "# 甲\n\n- 项\n\n```sh\nls   # 全部\n```\n\n| 甲 | 乙 |\n|---|---|\n| 1 | 2 |\n";
    assert_eq!(shape(page), shape(same));
    for (from, to) in
        [("# 甲", "## 甲"), ("ls", "ll"), ("| 1 | 2 |\n", ""), ("| 1 | 2 |", "| 1 | 2 | 3 |"), ("- 项\n", "")]
    {
        assert_ne!(shape(page), shape(&same.replace(from, to)), "{from}");
    }
}
