//! `synth`: feeds of synthetic enterprises.

use qihui_synth::{Manifest, SynthOptions, generate};
use serde_json::json;

use super::shown;
use crate::cli::SynthArgs;
use crate::failure::Failure;
use crate::report::{Report, table};

/// How many enterprises are drawn when nobody says.
const DEFAULT_ENTERPRISES: u32 = 1000;

pub(super) fn run(args: SynthArgs) -> Result<Report, Failure> {
    let every_row = 0;
    let default = if args.registry.is_some() {
        every_row
    } else {
        DEFAULT_ENTERPRISES
    };
    let options = SynthOptions {
        out: args.out,
        enterprises: args.enterprises.unwrap_or(default),
        months: args.months,
        seed: args.seed,
        ugly: args.ugly,
        registry: args.registry,
    };
    let report = generate(&options)?;
    let manifest = &report.manifest;
    let feeds: Vec<_> = manifest
        .feeds
        .iter()
        .map(
            |feed| json!({ "feed": feed.feed, "files": feed.files.len(), "records": feed.records }),
        )
        .collect();
    let json = json!({
        "out": shown(&options.out),
        "manifest": shown(&report.manifest_path),
        "enterprises": manifest.enterprises,
        "months": manifest.months,
        "seed": manifest.seed,
        "records": manifest.records(),
        "bytes": manifest.bytes(),
        "feeds": feeds,
    });
    Ok(Report::new(json, text(manifest)))
}

fn text(manifest: &Manifest) -> String {
    let rows = manifest.feeds.iter().map(|feed| {
        vec![
            feed.feed.clone(),
            feed.files.len().to_string(),
            feed.records.to_string(),
            feed.ugly_records.to_string(),
        ]
    });
    let feeds = table(&["feed", "files", "records", "with something wrong"], rows);
    format!(
        "{feeds}\n{} enterprises, {} to {}, {} records",
        manifest.enterprises,
        manifest.from,
        manifest.to,
        manifest.records()
    )
}
