//! Every error code has a page in `docs/errors`, and every page a code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a block that defines codes begins with.
const BLOCKS: &[&str] = &["fn code(", "mod codes {", "impl Reason {"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The texts of all sources of the program and its members.
fn texts() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for member in [
        "audit",
        "catalog",
        "consent",
        "ingest",
        "pipelines",
        "query",
        "synth",
        "warehouse",
        ".",
    ] {
        sources(&root.join(member).join("src"), &mut found);
    }
    found
        .into_iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

/// The words in quotes that look like codes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2).filter(|word| {
        word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && word.bytes().any(|byte| byte.is_ascii_lowercase())
    })
}

/// The codes that blocks of `text` define. A block ends where its indentation does.
fn codes(text: &str) -> BTreeSet<&str> {
    let mut codes = BTreeSet::new();
    let mut end: Option<String> = None;
    for line in text.lines() {
        match &end {
            Some(closing) if line == closing => end = None,
            Some(_) => codes.extend(quoted(line)),
            None if BLOCKS.iter().any(|block| line.contains(block)) => {
                let indent = line.len() - line.trim_start().len();
                end = Some(format!("{}}}", " ".repeat(indent)));
            }
            None => {}
        }
    }
    codes
}

fn pages() -> BTreeSet<String> {
    fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors"))
        .unwrap()
        .filter_map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()?
                .to_str()
                .map(str::to_owned)
        })
        .filter(|name| name != "README")
        .collect()
}

#[test]
fn every_error_code_has_a_page() {
    let (texts, pages) = (texts(), pages());
    let codes: BTreeSet<&str> = texts.iter().flat_map(|text| codes(text)).collect();
    assert!(
        codes.len() > 100,
        "the codes are written in another way than this test reads"
    );
    let missing: Vec<_> = codes
        .iter()
        .filter(|code| !pages.contains(**code))
        .collect();
    assert!(
        missing.is_empty(),
        "codes without a page in docs/errors: {missing:?}"
    );
}

#[test]
fn every_page_is_of_a_code() {
    let texts = texts();
    let stale: Vec<_> = pages()
        .into_iter()
        .filter(|page| {
            !texts
                .iter()
                .any(|text| text.contains(&format!("\"{page}\"")))
        })
        .collect();
    assert!(
        stale.is_empty(),
        "pages in docs/errors of no code: {stale:?}"
    );
}
