//! The bodies on their seeds, and on what comes of seeds by damage. `PROPTEST_CASES` makes it try for longer.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of `fuzz/corpus/NAME`.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = folder().join("corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A change of some bytes: where, how far, and what is put there.
type Damage = (u8, Index, Index, Vec<u8>);

/// What comes of a seed, with another one at hand.
fn damaged(seed: &[u8], other: &[u8], all: &[Damage]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (kind, from, to, put) in all {
        let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        match kind % 6 {
            0 => drop(bytes.splice(from..from, put.iter().copied())),
            1 => drop(bytes.splice(from..to.min(from + 8), put.iter().copied())),
            2 => drop(bytes.drain(from..to)),
            3 => bytes.truncate(to),
            4 => bytes.extend_from_within(from..to),
            _ => drop(bytes.splice(from..from, other.iter().copied().take(to - from + 1))),
        }
    }
    bytes
}

fn try_target(name: &str) {
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| run(name, seed));
    let damage = (any::<u8>(), any::<Index>(), any::<Index>(), vec(any::<u8>(), 0..6));
    proptest!(ProptestConfig::default(), |(one: Index, other: Index, damage in vec(damage, 0..6))| {
        let bytes = damaged(&seeds[one.index(seeds.len())], &seeds[other.index(seeds.len())], &damage);
        run(name, &bytes);
    });
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                try_target(stringify!($name));
            }
        )*
        const TRIED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! { handshake frames proxy records http configuration json php_unpack parse_str pattern packets mesh }

#[test]
fn every_body_is_tried_here_and_has_its_target() {
    assert_eq!(TARGETS.map(|(name, _)| name), TRIED);
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in TRIED {
        let path = format!("targets/{name}.rs");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{path}\"\n")), "{name} in fuzz/Cargo.toml");
        let target = fs::read_to_string(folder().join(path)).unwrap();
        assert!(target.contains(&format!("run(\"{name}\", bytes)")), "{target}");
    }
}
