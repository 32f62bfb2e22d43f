//! Links of the documents lead somewhere: to a file of this repository, and to a heading in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::files;

/// Where documents lie.
const PLACES: [&str; 6] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "README.md",
    "README.zh-CN.md",
    "catalog/data",
    "docs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> BTreeMap<PathBuf, String> {
    let places = PLACES.map(|place| root().join(place)).into_iter();
    let found = places.flat_map(|place| match place.is_dir() {
        true => files(&place),
        false => vec![place],
    });
    found
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// The lines of a document outside its code blocks.
fn prose(document: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    document.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        !fence && !in_block
    })
}

/// A line without what stands in backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The targets of the links in a line: `[text](target)` and `[name]: target`.
fn targets(line: &str) -> Vec<String> {
    let line = without_code(line);
    let inline = line.split("](").skip(1).filter_map(|rest| {
        let (target, _) = rest.split_once(')')?;
        Some(target.to_owned())
    });
    let defined = line
        .starts_with('[')
        .then(|| line.split_once("]: "))
        .flatten();
    inline
        .chain(defined.map(|(_, target)| target.trim().to_owned()))
        .collect()
}

/// The anchors of a document's headings, as they are made where it is shown: lower case, spaces as hyphens, no other
/// marks, and a number behind what was there before.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(document) {
        let heading = line.trim_start_matches('#');
        let level = line.len() - heading.len();
        if !(1..=6).contains(&level) || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().chars().filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            _ => c.is_alphanumeric().then_some(c),
        });
        let anchor: String = kept.flat_map(char::to_lowercase).collect();
        let mut names =
            std::iter::once(anchor.clone()).chain((1..).map(|number| format!("{anchor}-{number}")));
        let free = names.find(|name| !anchors.contains(name)).unwrap();
        anchors.insert(free);
    }
    anchors
}

/// What is wrong with a link, if anything is.
fn problem(from: &Path, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match path {
        "" => from.to_owned(),
        path => from.parent().unwrap().join(path),
    };
    let Ok(found) = path.canonicalize() else {
        return Some("no such file");
    };
    if !found.starts_with(root().canonicalize().unwrap()) {
        return Some("not in this repository");
    }
    if anchor.is_empty() {
        return None;
    }
    let Ok(text) = std::fs::read_to_string(found) else {
        return Some("an anchor in what is no document");
    };
    (!anchors(&text).contains(anchor)).then_some("no such heading")
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    assert!(
        documents.len() > 100,
        "documents lie elsewhere than this test looks"
    );
    let mut links = 0;
    let mut broken = Vec::new();
    for (path, text) in &documents {
        for target in prose(text).flat_map(targets) {
            links += 1;
            if let Some(problem) = problem(path, &target) {
                let name = path.strip_prefix(root()).unwrap();
                broken.push(format!("{}: {target}: {problem}", name.display()));
            }
        }
    }
    assert!(
        links > 100,
        "links are written in another way than this test reads"
    );
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The files and folders that documents name in backticks, from the top of the repository. (`catalog/` is one of a hub as well.)
fn named(line: &str) -> Vec<&str> {
    const TOPS: [&str; 15] = [
        ".ci/",
        "audit/",
        "benches/",
        "consent/",
        "docs/",
        "ingest/",
        "pipelines/",
        "query/",
        "scripts/",
        "src/",
        "synth/",
        "tests/",
        "warehouse/",
        "Cargo.",
        "rust-toolchain",
    ];
    let code = line.split('`').skip(1).step_by(2);
    code.filter(|word| TOPS.iter().any(|top| word.starts_with(top)))
        .filter(|word| !word.contains(['*', '<', '{', ' ', '…', '$']))
        .collect()
}

#[test]
fn every_file_that_is_named_is_there() {
    let mut missing = Vec::new();
    let mut named_files = 0;
    for (path, text) in documents() {
        for name in prose(&text).flat_map(named) {
            named_files += 1;
            if !root().join(name).exists() {
                let path = path.strip_prefix(root()).unwrap();
                missing.push(format!("{}: `{name}`", path.display()));
            }
        }
    }
    assert!(
        named_files > 30,
        "files are named in another way than this test reads"
    );
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn broken_links_are_found() {
    let readme = root().join("README.md");
    assert_eq!(problem(&readme, "docs/gate.md"), None);
    assert_eq!(problem(&readme, "https://example.org/none"), None);
    assert_eq!(problem(&readme, "docs/none.md"), Some("no such file"));
    assert_eq!(
        problem(&readme, "docs/gate.md#none"),
        Some("no such heading")
    );
    assert_eq!(problem(&readme, "#licence"), None);
    assert_eq!(
        problem(&readme, "/etc/passwd"),
        Some("not in this repository")
    );
    let text = "# A `b`, C\n## A b c\n## A b c\n```\n# no heading\n```\n";
    assert_eq!(
        anchors(text),
        BTreeSet::from(["a-b-c", "a-b-c-1", "a-b-c-2"].map(String::from))
    );
    assert_eq!(targets("[a](b) `[c](d)` [e](f#g)"), ["b", "f#g"]);
    assert_eq!(targets("[a]: b"), ["b"]);
}
