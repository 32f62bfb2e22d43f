//! The tours of the documents: every command is run as it stands there, and prints what stands there.
//!
//! Two things are not as they stand there: what [`crate::drawn`] names, and the port of the service, which is a free one. A
//! document is brought up to date with `UPDATE_GOLDEN=1`: look at the diff.

mod document;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::broker;
use crate::drawn::Draws;
use crate::support::forget_hubs;
use document::{Step, steps, with_outputs};

/// Between the outputs of two steps.
const MARK: &str = "--8<-- the next step --8<--";
/// Where the service listens in the documents.
const ADDRESS: &str = "127.0.0.1:8470";
/// A failing command ends a tour, whatever it started ends with it, and all that is printed is one text.
const BEFORE: &str =
    "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nexec 2>&1\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// An address of the loopback that is free, below the ports that the system gives to outgoing connections.
fn free_address() -> String {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = std::iter::repeat_with(|| rand::random_range(20_000..32_000)).find(free);
    format!("127.0.0.1:{}", port.unwrap())
}

/// Runs steps in a folder of their own, in one shell, after `before`; what each of them printed.
fn run(before: &str, steps: &[Step]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    // Whatever happens to this process, the broker of a tour is stopped.
    let broker: PathBuf = folder.path().join("broker");
    let _stopped_with_us = broker::watch(&broker);
    let address = free_address();
    let mut script = format!("{BEFORE}{before}echo '{MARK}'\n");
    for step in steps {
        script += &format!(
            "{}echo '{MARK}'\n",
            step.commands.replace(ADDRESS, &address)
        );
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_qihui")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    forget_hubs(&mut shell);
    let ran = shell
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("QIHUI", root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "the tour breaks off:\n{said}");
    let said = said.replace(&address, ADDRESS);
    let mark = format!("{MARK}\n");
    let outputs = said.split(&mark).skip(1);
    outputs.take(steps.len()).map(str::to_owned).collect()
}

/// Runs the tour of documents that show the same steps, and compares what it prints with what they show.
fn check(before: &str, documents: &[&str]) {
    let texts: Vec<String> = documents.iter().map(|name| read(name)).collect();
    let shown = steps(&texts[0]);
    assert!(shown.len() >= 4, "the tour of {} is gone", documents[0]);
    let printed = run(before, &shown);
    let mut draws = Draws::default();
    let differing = shown.iter().zip(&printed).find_map(|(step, printed)| {
        let difference = draws.compare(&step.output, printed).err()?;
        Some(format!("{}{difference}", step.commands))
    });
    let Some(difference) = differing else {
        return;
    };
    assert!(
        std::env::var_os("UPDATE_GOLDEN").is_some(),
        "{} shows something else than these commands print (UPDATE_GOLDEN=1 writes it anew):\n{difference}",
        documents[0]
    );
    for (name, text) in documents.iter().zip(&texts) {
        std::fs::write(root().join(name), with_outputs(text, &printed)).unwrap();
    }
}

#[test]
fn the_tour_of_the_readme_does_what_it_says() {
    check("", &["README.md", "README.zh-CN.md"]);
}

#[test]
fn the_tour_of_the_api_does_what_it_says() {
    // It begins where the first step of the README ends.
    let begun = &steps(&read("README.md"))[0].commands;
    check(begun, &["docs/api.md"]);
}

#[test]
fn both_readmes_tell_the_same_tour() {
    assert_eq!(steps(&read("README.md")), steps(&read("README.zh-CN.md")));
}
