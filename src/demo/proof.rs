//! The last acts: who read what, and what the log proves.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::papers::BANK;
use super::stage::{self, DemoError, Result, Row, Stage, expect, number, text};
use crate::layout::Layout;

/// The enterprise asks who read its data.
pub(super) fn who_read(stage: &mut Stage<'_>, uscc: &str) -> Result<()> {
    stage.act(
        8,
        "The first enterprise asks who read its data",
        "谁读过我的数据",
    )?;
    let answer = stage.done(&["audit", "accesses", uscc])?;
    let mut accesses: Vec<Row> = answer["accesses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|access| access.as_object().cloned())
        .collect();
    for access in &mut accesses {
        // Rows of one enterprise are not counted in an access to thousands.
        access.entry("rows").and_modify(|rows| {
            if rows.is_null() {
                *rows = json!("not counted")
            }
        });
    }
    stage.table(
        &[
            "index", "time", "org", "purpose", "datasets", "decision", "rows",
        ],
        &accesses,
    )?;
    let by_bank = |access: &&Row| access.get("org").and_then(Value::as_str) == Some(BANK);
    expect(
        accesses.iter().filter(by_bank).count() >= 3,
        "an access is missing from the enterprise's list",
    )
}

/// The log verified, and a copy with one flipped bit caught.
pub(super) fn verify(stage: &mut Stage<'_>) -> Result<u64> {
    stage.act(
        9,
        "The log is verified, and a forged copy is caught",
        "日志可验证、篡改必现",
    )?;
    let checkpoint = stage.command(&["audit", "checkpoint"])?;
    let note = String::from_utf8_lossy(&checkpoint.stdout).into_owned();
    stage.say(note.trim_end())?;
    let kept = stage.paper("checkpoint", &note)?;
    let verified = stage.done(&["audit", "verify", "--checkpoint", &kept])?;
    stage.say(&format!(
        "{} entries, root {}, ok {}",
        verified["entries"],
        text(&verified, "root")?,
        verified["ok"]
    ))?;
    let entries = number(&verified, "entries")?;
    let copy = stage.outside.join("copy");
    copy_of_the_log(&stage.hub, &copy)?;
    let (file, at) = flip_a_bit(&Layout::new(&copy).log().join("journal"))?;
    let name = file
        .strip_prefix(&copy)
        .unwrap_or(&file)
        .display()
        .to_string();
    stage.say(&format!(
        "on a copy of the hub, one bit of {name} is flipped at byte {at}:"
    ))?;
    let hub = std::mem::replace(&mut stage.hub, copy);
    let caught = stage.refused(1, &["audit", "verify"]);
    stage.hub = hub;
    caught?;
    Ok(entries)
}

/// Copies a hub without its tables and files of feeds.
fn copy_of_the_log(hub: &Path, copy: &Path) -> Result<()> {
    fs::create_dir(copy)?;
    for entry in fs::read_dir(hub)? {
        let entry = entry?;
        let (name, target) = (entry.file_name(), copy.join(entry.file_name()));
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        } else if name != "warehouse" && name != "inbox" && name != "spill" {
            stage::copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Flips the lowest bit of the byte in the middle of the first file of a journal; gives the file and the place.
fn flip_a_bit(journal: &Path) -> Result<(PathBuf, u64)> {
    let mut files: Vec<PathBuf> = fs::read_dir(journal)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    let path = files
        .into_iter()
        .next()
        .ok_or_else(|| DemoError("the log has no journal".to_owned()))?;
    let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
    let at = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ 1])?;
    file.sync_all()?;
    Ok((path, at))
}
