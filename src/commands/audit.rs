//! `audit checkpoint | verify | proof | accesses`.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use qihui_audit::{LogKeys, VerifyError, verify};
use qihui_query::access::{AccessRecord, accesses_of};
use serde_json::json;

use super::{Context, enterprise, with_hub};
use crate::cli::AuditCommand;
use crate::failure::Failure;
use crate::files::read_document;
use crate::hub::Hub;
use crate::report::{Report, table};

pub(super) async fn run(command: AuditCommand, context: &Context<'_>) -> Result<Report, Failure> {
    match command {
        AuditCommand::Checkpoint => with_hub(&context.opening, async |hub| checkpoint(hub)).await,
        AuditCommand::Verify { checkpoint } => verified(checkpoint.as_deref(), context).await,
        AuditCommand::Proof { index } => {
            with_hub(&context.opening, async |hub| proof(hub, index)).await
        }
        AuditCommand::Accesses { uscc } => {
            let uscc = enterprise(&uscc)?;
            with_hub(&context.opening, async |hub| {
                let accesses = match hub.number_of(uscc)? {
                    Some(number) => accesses_of(hub.log(), number)?,
                    None => Vec::new(),
                };
                Ok(accessed(&accesses))
            })
            .await
        }
    }
}

fn checkpoint(hub: &Hub) -> Result<Report, Failure> {
    let (note, key) = (hub.log().checkpoint()?, hub.log().vkey());
    let json = json!({ "checkpoint": note, "verifier_key": key });
    Ok(Report::new(json, note.trim_end()).note(format!("verifier key: {key}")))
}

/// Verifies without opening the log for writing: what was tampered with must not be repaired first.
async fn verified(outside: Option<&Path>, context: &Context<'_>) -> Result<Report, Failure> {
    let outside = outside
        .map(|path| read_document("checkpoint", path))
        .transpose()?;
    let found = match &context.opening.shared {
        Some(hub) => hub.log().verify(outside.as_deref()),
        None => {
            let layout = &context.opening.layout;
            let _lock = context.opening.lock().await?;
            let keys = LogKeys::load(&layout.keys())?;
            verify(&layout.log(), &keys, outside.as_deref())
        }
    };
    match found {
        Ok(found) => {
            let root = hex::encode(found.root);
            let text = format!(
                "the log is whole: {} entries, {} signed heads, root {root}",
                found.entries, found.heads
            );
            let json = json!({ "entries": found.entries, "root": root, "ok": true });
            Ok(Report::new(json, text))
        }
        Err(VerifyError::Tampered(found)) => {
            let finding = json!({
                "file": found.file,
                "index": found.index,
                "offset": found.offset,
                "meaning": found.finding.meaning(),
            });
            let failure = Failure::from(VerifyError::Tampered(found));
            Err(failure.with("ok", json!(false)).with("finding", finding))
        }
        Err(error) => Err(Failure::from(error).with("ok", json!(false))),
    }
}

/// The proof for people is a C2SP tlog-proof, which other tools of such logs read.
fn proof(hub: &Hub, index: u64) -> Result<Report, Failure> {
    let log = hub.log();
    let checkpoint = log.published_checkpoint()?;
    let entry = log.read(index)?;
    let path = log.inclusion_proof(index, checkpoint.size)?;
    let leaf = entry.leaf.encode();
    let leaf_text = String::from_utf8_lossy(&leaf);
    let json = json!({
        "index": index,
        "size": checkpoint.size,
        "root": hex::encode(checkpoint.root),
        "leaf": leaf_text,
        "leaf_hash": hex::encode(entry.leaf.hash()),
        "proof": path.iter().map(hex::encode).collect::<Vec<_>>(),
        "checkpoint": checkpoint.note,
        "verifier_key": log.vkey(),
    });
    let mut text = format!("c2sp.org/tlog-proof@v1\nindex {index}\n");
    for hash in &path {
        text += &BASE64_STANDARD.encode(hash);
        text.push('\n');
    }
    text.push('\n');
    text += checkpoint.note.trim_end();
    Ok(Report::new(json, text).note(format!("leaf: {leaf_text}")))
}

fn accessed(accesses: &[AccessRecord]) -> Report {
    // Only where some consent counts its uses.
    let metered = accesses.iter().any(|access| !access.uses.is_empty());
    let rows = accesses.iter().map(|access| {
        let mut row = vec![
            access.index.to_string(),
            access.time.clone(),
            access.org.clone(),
            access.purpose.clone(),
            access.datasets.join(", "),
            access.columns.join(", "),
            match access.statistic {
                true => format!("{}, statistic", access.decision),
                false => access.decision.clone(),
            },
            access
                .rows
                .map_or_else(|| "?".to_owned(), |rows| rows.to_string()),
        ];
        if metered {
            row.push(access.uses.join(", "));
        }
        row
    });
    let mut header = vec![
        "entry",
        "time",
        "organisation",
        "purpose",
        "datasets",
        "columns",
        "decision",
        "rows",
    ];
    if metered {
        header.push("used");
    }
    let text = if accesses.is_empty() {
        "nobody has accessed this enterprise's data".to_owned()
    } else {
        table(&header, rows)
    };
    Report::new(json!({ "accesses": accesses }), text)
}
