//! `audit checkpoint | verify | proof | accesses`.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use qihui_audit::{LogKeys, Verified, VerifyError, verify};
use qihui_consent::ledger::Checked;
use qihui_query::access::{AccessRecord, accesses_of};
use serde_json::{Value, json};

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

/// Verifies the log, and then the ledger, without opening either for writing: what was tampered with must not be repaired
/// first.
async fn verified(outside: Option<&Path>, context: &Context<'_>) -> Result<Report, Failure> {
    let outside = outside
        .map(|path| read_document("checkpoint", path))
        .transpose()?;
    let opening = &context.opening;
    // The directory is held until the ledger was checked as well.
    let (found, _lock) = match &opening.shared {
        Some(hub) => (hub.log().verify(outside.as_deref()), None),
        None => {
            let lock = opening.lock().await?;
            let keys = LogKeys::load(&opening.layout.keys())?;
            let found = verify(&opening.layout.log(), &keys, outside.as_deref());
            (found, Some(lock))
        }
    };
    match found {
        Ok(found) => whole(&found, opening.check_ledger().await),
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

/// The log is whole; what of the ledger, if there is one beside it?
fn whole(log: &Verified, ledger: Result<Option<Checked>, Failure>) -> Result<Report, Failure> {
    let root = hex::encode(log.root);
    let (entries, heads) = (log.entries, log.heads);
    let ledger = ledger.map_err(|failure| {
        let failure = failure.with("ok", json!(false));
        failure
            .with("entries", json!(entries))
            .with("root", json!(root))
    })?;
    let (standing, ledger) = match ledger {
        Some(checked) => standing(&checked),
        None => ("there is no ledger beside it".to_owned(), Value::Null),
    };
    let text = format!(
        "the log is whole: {entries} entries, {heads} signed heads, root {root}\n{standing}"
    );
    let json = json!({ "entries": entries, "root": root, "ok": true, "ledger": ledger });
    Ok(Report::new(json, text))
}

fn standing(checked: &Checked) -> (String, Value) {
    let (events, consents, holdings) = (checked.events, checked.consents, checked.holdings);
    let hash = hex::encode(checked.head);
    let text = format!(
        "the ledger stands as its events say: {events} events (versions of consents: {consents}, \
         holdings: {holdings}), last hash {hash}"
    );
    let json = json!({
        "events": events, "consents": consents, "holdings": holdings, "hash": hash,
    });
    (text, json)
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
