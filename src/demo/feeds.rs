//! The first act: departments' files become tables.

use std::fs;
use std::path::Path;

use qihui_synth::{MANIFEST_FILE, Manifest};
use serde_json::Value;

use super::ENTERPRISES;
use super::stage::{DemoError, Result, Row, Stage, expect, number, text};
use crate::layout::Layout;

/// A hub, and the departments' files in it.
pub(super) fn converge(stage: &mut Stage<'_>) -> Result<()> {
    stage.act(1, "Four departments' files become tables", "数据归集")?;
    let made = stage.done(&["init"])?;
    stage.say(&format!(
        "an empty hub with {} datasets; the log's key is {}",
        made["datasets"],
        text(&made, "verifier_key")?
    ))?;
    let inbox = Layout::new(&stage.hub).inbox();
    let out = inbox.display().to_string();
    let made = stage.done(&[
        "synth",
        "--out",
        &out,
        "--enterprises",
        ENTERPRISES,
        "--ugly",
        "0.02",
        "--seed",
        "2026",
    ])?;
    stage.say(&format!(
        "{} invented enterprises, {} months, {} records in their source formats; 2 % of them ugly",
        made["enterprises"], made["months"], made["records"]
    ))?;
    let ran = stage.done(&["feed", "run", "--all"])?;
    let feeds = ran["feeds"].as_array().cloned().unwrap_or_default();
    let rows: Vec<Row> = feeds
        .iter()
        .filter_map(|feed| feed.as_object().cloned())
        .collect();
    stage.table(
        &[
            "feed",
            "read",
            "landed",
            "unchanged",
            "superseded",
            "retracted",
            "quarantined",
        ],
        &rows,
    )?;
    reconcile(&inbox, &feeds)?;
    stage.say("each count is what the generator's manifest says must come of the files; no record is lost")
}

/// Compares what became of the records with the manifest.
fn reconcile(inbox: &Path, feeds: &[Value]) -> Result<()> {
    let text = fs::read_to_string(inbox.join(MANIFEST_FILE))?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| DemoError(error.to_string()))?;
    for expected in &manifest.feeds {
        let found = feeds
            .iter()
            .find(|feed| feed["feed"] == expected.feed.as_str());
        let found =
            found.ok_or_else(|| DemoError(format!("feed `{}` was not run", expected.feed)))?;
        let counts = [
            ("read", expected.records),
            ("landed", expected.expected.landed),
            ("unchanged", expected.expected.unchanged),
            ("superseded", 0),
            ("retracted", expected.expected.retracted),
            ("quarantined", expected.expected.quarantined),
        ];
        for (count, wanted) in counts {
            let got = number(found, count)?;
            expect(
                got == wanted,
                &format!(
                    "feed `{}`: {count} is {got}, the manifest says {wanted}",
                    expected.feed
                ),
            )?;
        }
    }
    Ok(())
}
