//! Links of all pages lead to a file and to a heading in it, and what users need is two clicks from the README, in English
//! and in Chinese. The pages that a package holds lead nowhere else than those of the sources: `tests/packages.rs`.

mod common {
    pub mod links;
}

use common::links::{dead, links, pages, resolve};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn links_of_all_pages_lead_somewhere() {
    let found = pages(root());
    for page in ["README.zh-CN.md", "docs/zh/from/connmix.md", "docs/examples/echo/README.md", "clients/go/README.md"] {
        assert!(found.contains(&root().join(page)), "{page}");
    }
    assert!(found.len() > 70, "{found:?}");
    assert_eq!(dead(root()), [""; 0]);
}

/// The pages that one of them links to.
fn next(page: &Path) -> BTreeSet<PathBuf> {
    let targets = links(page).into_iter().map(|link| resolve(page, &link).0);
    targets.map(|target| if target.is_dir() { target.join("README.md") } else { target }).collect()
}

#[test]
fn what_users_need_is_two_clicks_from_either_readme() {
    let is_page = |page: &&PathBuf| page.extension().is_some_and(|end| end == "md") && page.is_file();
    for (readme, docs) in [("README.md", "docs"), ("README.zh-CN.md", "docs/zh")] {
        let one = next(&root().join(readme));
        let two: BTreeSet<PathBuf> = one.iter().filter(is_page).flat_map(|page| next(page)).collect();
        for page in pages(root()) {
            let name = page.strip_prefix(root()).unwrap();
            let is_chinese = name.starts_with("docs/zh");
            let is_needed = name.starts_with(docs) && is_chinese == (docs == "docs/zh") || name.starts_with("clients");
            assert!(!is_needed || one.contains(&page) || two.contains(&page), "{} from {readme}", name.display());
        }
    }
}

#[test]
fn a_dead_link_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let page = "# One\n[a](two.md) [b](#one) [c](two.md#no) `[d](no.md)` [e](no.md) [f](https://example.com/) [g](#one-1)\n\
                ```\n[h](no.md)\n# Two\n```\n## One\n[i](#two)\n";
    std::fs::write(dir.path().join("one.md"), page).unwrap();
    std::fs::write(dir.path().join("two.md"), "# Two: what *else*?\n[a](#two-what-else)\n").unwrap();
    assert_eq!(dead(dir.path()), ["one.md: two.md#no", "one.md: no.md", "one.md: #two"]);
}
