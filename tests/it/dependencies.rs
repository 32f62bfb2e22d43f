//! Who may use whom: the directions of `ARCHITECTURE.md`, checked on what cargo resolved.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// The members of the workspace, each with those it may depend on.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("qihui-audit", &[]),
    ("qihui-catalog", &[]),
    ("qihui-synth", &["qihui-catalog"]),
    ("qihui-warehouse", &["qihui-catalog"]),
    ("qihui-consent", &["qihui-catalog", "qihui-audit"]),
    ("qihui-ingest", &["qihui-catalog", "qihui-warehouse"]),
    (
        "qihui-query",
        &[
            "qihui-catalog",
            "qihui-warehouse",
            "qihui-consent",
            "qihui-audit",
        ],
    ),
    (
        "qihui-pipelines",
        &[
            "qihui-catalog",
            "qihui-warehouse",
            "qihui-ingest",
            "qihui-query",
        ],
    ),
    (
        "qihui",
        &[
            "qihui-audit",
            "qihui-catalog",
            "qihui-synth",
            "qihui-warehouse",
            "qihui-consent",
            "qihui-ingest",
            "qihui-query",
            "qihui-pipelines",
        ],
    ),
];

/// Foreign packages, by the beginning of their names, that only some members may depend on.
const RESERVED: &[(&str, &[&str])] = &[
    (
        "datafusion",
        &["qihui-warehouse", "qihui-query", "qihui-pipelines"],
    ),
    (
        "deltalake",
        &["qihui-warehouse", "qihui-query", "qihui-pipelines"],
    ),
    // The program only in its tests, which produce messages.
    ("rdkafka", &["qihui-ingest", "qihui-pipelines", "qihui"]),
    ("axum", &["qihui"]),
    // The gate only in a bench, which makes a ledger of a million enterprises.
    ("sqlx", &["qihui-consent", "qihui-query", "qihui"]),
];

/// Members that compile without the data stack, so that they build and test in a minute.
const LIGHT: &[&str] = &[
    "qihui-audit",
    "qihui-catalog",
    "qihui-synth",
    "qihui-consent",
];

/// Packages of which a second version would mean that two parts of the engine cannot hand each other data.
const ONE_VERSION: &[&str] = &[
    "arrow-array",
    "arrow-schema",
    "datafusion",
    "datafusion-expr",
    "deltalake-core",
    "object_store",
    "parquet",
];

/// What cargo resolved for the platform that the tests run on: all of it was downloaded to build them.
pub fn metadata() -> Metadata {
    let host = String::from_utf8(
        std::process::Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .arg("-vV")
            .output()
            .expect("rustc runs")
            .stdout,
    )
    .expect("rustc speaks UTF-8");
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host");
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(
            ["--locked", "--offline", "--filter-platform", host]
                .map(str::to_owned)
                .to_vec(),
        )
        .exec()
        .expect("cargo metadata")
}

fn is_ours(name: &str) -> bool {
    name == "qihui" || name.starts_with("qihui-")
}

/// The names of a member's direct dependencies of every kind, tests and benchmarks included.
fn direct(package: &Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .map(|dependency| dependency.name.as_str())
        .collect()
}

#[test]
fn members_depend_only_in_the_agreed_directions() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = DIRECTIONS.iter().copied().collect();
    let members = metadata.workspace_packages();
    let named: BTreeSet<&str> = members
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    assert_eq!(
        named,
        allowed.keys().copied().collect(),
        "a new member needs a line in DIRECTIONS"
    );
    let mut wrong = Vec::new();
    for package in members {
        for dependency in direct(package).into_iter().filter(|name| is_ours(name)) {
            if !allowed[package.name.as_str()].contains(&dependency) {
                wrong.push(format!("{} -> {dependency}", package.name));
            }
        }
    }
    assert!(wrong.is_empty(), "not an agreed direction: {wrong:?}");
}

#[test]
fn heavy_packages_stay_where_they_belong() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        for dependency in direct(package) {
            let reserved = RESERVED
                .iter()
                .find(|(prefix, _)| dependency.starts_with(prefix));
            if reserved.is_some_and(|(_, members)| !members.contains(&package.name.as_str())) {
                wrong.push(format!("{} -> {dependency}", package.name));
            }
        }
    }
    assert!(wrong.is_empty(), "reserved for other members: {wrong:?}");
}

#[test]
fn light_members_compile_without_the_data_stack() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("cargo resolved");
    let names: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .map(|p| (&p.id, p.name.as_str()))
        .collect();
    let edges: BTreeMap<_, _> = resolve
        .nodes
        .iter()
        .map(|node| (&node.id, &node.dependencies))
        .collect();
    for member in metadata.workspace_packages() {
        if !LIGHT.contains(&member.name.as_str()) {
            continue;
        }
        let (mut seen, mut todo) = (BTreeSet::new(), vec![&member.id]);
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                todo.extend(edges[id].iter());
            }
        }
        for heavy in ["datafusion", "deltalake", "parquet"] {
            assert!(
                !seen.iter().any(|id| names[id] == heavy),
                "{} needs {heavy}",
                member.name
            );
        }
    }
}

#[test]
fn the_engine_is_there_once() {
    let metadata = metadata();
    for name in ONE_VERSION {
        let versions: Vec<_> = metadata
            .packages
            .iter()
            .filter(|p| p.name.as_str() == *name)
            .collect();
        assert_eq!(
            versions.len(),
            1,
            "{name}: {:?}",
            versions.iter().map(|p| &p.version).collect::<Vec<_>>()
        );
    }
}
