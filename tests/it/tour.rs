//! The tour of the README, run as it stands there.

use std::path::Path;
use std::process::Command;

/// Between the outputs of two blocks.
const MARK: &str = "--8<-- the next block --8<--";
/// In an expected line: anything. Alone on a line: any lines.
const ANYTHING: &str = "…";

/// A block of commands and, if the text shows it, their output.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    commands: String,
    output: Option<String>,
}

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The fenced `sh` blocks of a document, each with the `text` block behind it.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let content: String = lines
            .by_ref()
            .take_while(|line| *line != "```")
            .map(|line| format!("{line}\n"))
            .collect();
        match (language, steps.last_mut()) {
            ("sh", _) => steps.push(Step {
                commands: content,
                output: None,
            }),
            ("text", Some(step)) => step.output = Some(content),
            _ => {}
        }
    }
    steps
}

/// A line with its runs of white space as one space: an ellipsis may be padded so that a table stays one.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a line is as expected.
fn fits(expected: &str, line: &str) -> bool {
    let (expected, line) = (squeezed(expected), squeezed(line));
    let mut parts = expected.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Whether lines are as expected.
fn all_fit(expected: &[&str], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, others)) if *first == ANYTHING => {
            (0..=lines.len()).any(|skip| all_fit(others, &lines[skip..]))
        }
        Some((first, others)) => lines
            .split_first()
            .is_some_and(|(line, more)| fits(first, line) && all_fit(others, more)),
    }
}

#[test]
fn the_tour_of_the_readme_does_what_it_says() {
    let steps = steps(&read("README.md"));
    assert!(steps.len() >= 4, "the tour is gone");
    let folder = tempfile::tempdir().unwrap();
    let mut script = String::from("set -euo pipefail\nexec 2>&1\n");
    for step in &steps {
        script += &format!("{}echo '{MARK}'\n", step.commands);
    }
    let program = Path::new(env!("CARGO_BIN_EXE_qihui")).parent().unwrap();
    let path = format!(
        "{}:{}",
        program.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let ran = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("PATH", path)
        .env_remove("QIHUI_DATA_DIR")
        .env_remove("QIHUI_CONFIG")
        .output()
        .unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "the tour breaks off:\n{said}");
    for (step, output) in steps.iter().zip(said.split(&format!("{MARK}\n"))) {
        let Some(expected) = &step.output else {
            continue;
        };
        let (expected, lines): (Vec<&str>, Vec<&str>) =
            (expected.lines().collect(), output.lines().collect());
        assert!(
            all_fit(&expected, &lines),
            "the README shows another output of\n{}than\n{output}",
            step.commands
        );
    }
}

#[test]
fn both_readmes_tell_the_same_tour() {
    assert_eq!(steps(&read("README.md")), steps(&read("README.zh-CN.md")));
}

#[test]
fn an_ellipsis_stands_for_anything() {
    assert!(fits(
        "consent … version 1: …",
        "consent c-1 version 1: ACTIVE"
    ));
    assert!(fits("plain", "plain") && !fits("plain", "plainer"));
    assert!(fits("│ …     │ a │", "│ 12345 │ a │"));
    assert!(!fits("consent … version 2", "consent c-1 version 1"));
    assert!(
        all_fit(&["a", "…", "z"], &["a", "b", "c", "z"]) && !all_fit(&["a", "…", "z"], &["a", "b"])
    );
}
