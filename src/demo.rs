//! `demo`: the whole story on synthetic data, told by the program's own commands.
//!
//! Promises: every command shown is run as a user would run it, through [`crate::run`]; every figure told is out of its
//! answer; a step that does not go as it must ends the demonstration with `DemoFailed`. What is left in the hub is an
//! ordinary hub.
//!
//! Signatories' keys, documents and the copy of the log lie in a temporary folder outside the hub, which is removed.

mod feeds;
mod papers;
mod proof;
mod stage;

use std::fs;

use chrono::Days;
use qihui_catalog::Timestamp;
use serde_json::{Value, json};

use crate::cli::DemoArgs;
use crate::failure::Failure;
use crate::report::Report;
use crate::run::Surroundings;
use papers::{BANK, DECLARATIONS, PURPOSE, REPORTS, SUPERVISION, TAX};
use stage::{DemoError, Result, Row, Stage, expect, text};

/// Enterprises that are drawn.
const ENTERPRISES: &str = "1500";
/// How long the consents hold, in days.
const CONSENT_DAYS: u64 = 300;
/// What the bank asks again and again.
const QUESTION: &str = "SELECT uscc, skssqq, xse, ynse FROM vat_declaration ORDER BY uscc, skssqq";
const ANSWER: [&str; 4] = ["uscc", "skssqq", "xse", "ynse"];

/// Runs the demonstration: its story goes to stdout, or to stderr when stdout is for the JSON document.
pub(crate) fn run(
    args: &DemoArgs,
    json: bool,
    around: &mut Surroundings<'_>,
) -> std::result::Result<Report, Failure> {
    let outside = tempfile::Builder::new()
        .prefix("qihui-demo-")
        .tempdir()
        .map_err(DemoError::from)?;
    let hub = args
        .dir
        .clone()
        .unwrap_or_else(|| outside.path().join("hub"));
    let papers = outside.path().join("outside");
    fs::create_dir(&papers).map_err(DemoError::from)?;
    let mut stage = Stage {
        hub: hub.clone(),
        outside: papers,
        story: if json {
            &mut *around.stderr
        } else {
            &mut *around.stdout
        },
        clock: around.clock.clone(),
    };
    stage.say("Every line below is what the program's own commands answered. Each runs with --data-dir set to the")?;
    stage.say("demonstration's hub; answers in NDJSON are shown as tables.")?;
    let summary = story(&mut stage)?;
    if args.dir.is_some() {
        stage.say("")?;
        stage.say(&format!(
            "The hub stays in {}: look around with `qihui --data-dir {0} …`",
            hub.display()
        ))?;
    }
    Ok(Report::new(summary.clone(), format!("\n{summary}")))
}

fn story(stage: &mut Stage<'_>) -> Result<Value> {
    feeds::converge(stage)?;
    agree(stage)?;
    let (first, second) = two_enterprises(stage)?;
    closed(stage, &first)?;
    let (consent, previewed) = grant(stage, &first)?;
    open(stage, &first, &previewed)?;
    take_back(stage, &first, &consent)?;
    another(stage, &second)?;
    proof::who_read(stage, &first)?;
    let entries = proof::verify(stage)?;
    Ok(json!({
        "org": BANK,
        "purpose": PURPOSE,
        "dataset": DECLARATIONS,
        "granted_uscc": second,
        "withdrawn_uscc": first,
        "audit_entries": entries,
    }))
}

/// The first key: the data authority's.
fn agree(stage: &mut Stage<'_>) -> Result<()> {
    stage.act(
        2,
        "The data authority agrees with a bank: the first key",
        "第一把钥匙：协议",
    )?;
    stage.done(&["org", "add", BANK, "--name", "示范银行", "--kind", "bank"])?;
    let agreements = [
        ("declarations.yaml", papers::declarations_agreement()),
        ("reports.yaml", papers::reports_agreement()),
    ];
    for (name, paper) in agreements {
        let path = stage.paper(name, &paper)?;
        let added = stage.done(&["agreement", "add", &path])?;
        let agreement = &added["agreement"];
        let columns: Vec<&str> = agreement["columns"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|column| column["name"].as_str())
            .collect();
        stage.say(&format!(
            "{}: columns {} of {}, for {PURPOSE}, of whoever consents",
            text(agreement, "id")?,
            columns.join(", "),
            text(agreement, "dataset")?
        ))?;
    }
    stage.say(
        "and with the tax department, which needs no consent where a law stands in its place:",
    )?;
    stage.done(&[
        "org",
        "add",
        TAX,
        "--name",
        "示范税务局",
        "--kind",
        "department",
    ])?;
    let path = stage.paper("supervision.yaml", &papers::supervision_agreement())?;
    stage.done(&["agreement", "add", &path])?;
    Ok(())
}

/// Two enterprises with declarations in the months that matter and reports whose assets they did not publish.
fn two_enterprises(stage: &mut Stage<'_>) -> Result<(String, String)> {
    let sql = "SELECT v.uscc, count(*) AS declarations FROM vat_declaration v \
               WHERE EXISTS (SELECT 1 FROM annual_report a WHERE a.uscc = v.uscc AND NOT a.assgrodis) \
               GROUP BY v.uscc HAVING count(*) >= 12 ORDER BY v.uscc LIMIT 2";
    let rows = stage.query((TAX, SUPERVISION), &["uscc", "declarations"], sql)?;
    let mut codes = rows
        .iter()
        .filter_map(|row| row.get("uscc")?.as_str().map(str::to_owned));
    codes
        .next()
        .zip(codes.next())
        .ok_or_else(|| DemoError("the feeds hold no two enterprises to show".to_owned()))
}

/// What the bank sees with one key.
fn closed(stage: &mut Stage<'_>, uscc: &str) -> Result<()> {
    stage.act(
        3,
        "The bank sees nothing that nobody consented to",
        "未经授权，一无所见",
    )?;
    let bank = (BANK, PURPOSE);
    let rows = stage.query(bank, &ANSWER, QUESTION)?;
    expect(rows.is_empty(), "the bank saw rows without a consent")?;
    stage.say("Where a policy is a filter among others, this cast meets a hidden value, and the error quotes it. Not here:")?;
    let sql = "SELECT count(*) AS n FROM vat_declaration WHERE CAST(sbzl AS BIGINT) >= 0";
    let rows = stage.query(bank, &["n"], sql)?;
    expect(
        rows.first().and_then(|row| row.get("n")) == Some(&json!(0)),
        "a probe was answered",
    )?;
    stage.say(
        "Annual reports are public, their amounts only where the enterprise published them:",
    )?;
    let sql = "SELECT count(*) AS reports, count(assgro) AS with_assets FROM annual_report";
    stage.query(bank, &["reports", "with_assets"], sql)?;
    stage.say("A named enterprise that did not consent is a refusal:")?;
    stage.refused(
        3,
        &[
            "query",
            "--org",
            BANK,
            "--purpose",
            PURPOSE,
            "--subject",
            uscc,
            QUESTION,
        ],
    )?;
    stage.say("A column that is not in the agreement is an error that says so:")?;
    stage.refused(
        1,
        &[
            "query",
            "--org",
            BANK,
            "--purpose",
            PURPOSE,
            "SELECT nsrsbh FROM vat_declaration",
        ],
    )
}

/// The day on which the consents end.
fn expiry(stage: &Stage<'_>) -> String {
    let today = Timestamp(stage.clock.now_ms()).shanghai_date();
    today
        .checked_add_days(Days::new(CONSENT_DAYS))
        .unwrap_or(today)
        .to_string()
}

/// A request for the consent of an enterprise, whose signatory is registered; gives the consent and the key.
fn request(stage: &mut Stage<'_>, uscc: &str, signatory: &str) -> Result<(String, String)> {
    let key = stage.path(&format!("{signatory}.key"));
    stage.done(&["keygen", "--out", &key])?;
    stage.done(&[
        "signatory",
        "add",
        uscc,
        signatory,
        "--key",
        &format!("{key}.pub"),
    ])?;
    let paper = papers::request(uscc, &expiry(stage));
    let path = stage.paper(&format!("request-{signatory}.yaml"), &paper)?;
    let asked = stage.done(&["consent", "request", &path])?;
    let id = text(&asked, "consent_id")?.to_owned();
    stage.say(&format!(
        "{id} version {}: {}",
        asked["version"],
        text(&asked, "state")?
    ))?;
    Ok((id, key))
}

/// The second key: the enterprise's. Gives the consent with its key, and the declarations that the preview showed.
fn grant(stage: &mut Stage<'_>, uscc: &str) -> Result<((String, String), Vec<Row>)> {
    stage.act(
        4,
        "An enterprise previews, and signs: the second key",
        "第二把钥匙：企业授权",
    )?;
    let (id, key) = request(stage, uscc, "lin")?;
    let previewed = preview(stage, &id)?;
    sign(stage, &id, "lin", &key)?;
    Ok(((id, key), previewed))
}

fn sign(stage: &mut Stage<'_>, id: &str, signatory: &str, key: &str) -> Result<()> {
    let signed = stage.done(&["consent", "sign", id, "--as", signatory, "--key", key])?;
    stage.say(&format!("{id}: {}", text(&signed, "state")?))?;
    expect(
        signed["state"] == "ACTIVE",
        "a signed consent is not active",
    )
}

/// What the consent would open, cell by cell; gives the declarations.
fn preview(stage: &mut Stage<'_>, id: &str) -> Result<Vec<Row>> {
    let preview = stage.done(&["consent", "preview", id])?;
    let mut declarations = Vec::new();
    for dataset in preview["datasets"].as_array().into_iter().flatten() {
        let name = text(dataset, "dataset")?;
        let columns: Vec<&str> = dataset["columns"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|column| column["name"].as_str())
            .collect();
        let mut rows: Vec<Row> = dataset["rows"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|row| row.as_object().cloned())
            .collect();
        rows.sort_by_cached_key(|row| {
            columns
                .iter()
                .map(|column| stage::shown(row.get(*column)))
                .collect::<Vec<_>>()
        });
        stage.say(&format!("of {name} the bank would see:"))?;
        stage.table(&columns, &rows)?;
        if name == DECLARATIONS {
            declarations = rows;
        }
    }
    Ok(declarations)
}

/// The cells of an answer to the bank's question, in an order of their own.
fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    let mut cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            ANSWER
                .iter()
                .map(|column| stage::shown(row.get(*column)))
                .collect()
        })
        .collect();
    cells.sort();
    cells
}

/// What the bank sees with both keys: what the preview showed, and no more.
fn open(stage: &mut Stage<'_>, uscc: &str, previewed: &[Row]) -> Result<()> {
    stage.act(5, "The bank sees exactly that", "所见即所授")?;
    let rows = stage.query((BANK, PURPOSE), &ANSWER, QUESTION)?;
    expect(
        !rows.is_empty(),
        "the bank sees nothing though the enterprise consented",
    )?;
    expect(
        cells(&rows) == cells(previewed),
        "the bank sees other cells than the preview showed",
    )?;
    stage.say(&format!(
        "these are the {} cells of the preview, compared one by one",
        ANSWER.len() * rows.len()
    ))?;
    let sql = format!(
        "SELECT ancheyear, assgro, vendinc FROM {REPORTS} WHERE uscc = '{uscc}' ORDER BY ancheyear"
    );
    stage.query((BANK, PURPOSE), &["ancheyear", "assgro", "vendinc"], &sql)?;
    Ok(())
}

/// The enterprise narrows and withdraws.
fn take_back(stage: &mut Stage<'_>, uscc: &str, (id, key): &(String, String)) -> Result<()> {
    stage.act(6, "The enterprise narrows, then withdraws", "缩小与撤回")?;
    let path = stage.paper("less.yaml", &papers::narrowed())?;
    stage.say(&format!(
        "less.yaml leaves skssqq and xse of {DECLARATIONS} from {}, and nothing of {REPORTS}",
        papers::NARROWED.0
    ))?;
    let narrowed = stage.done(&["consent", "narrow", id, &path, "--as", "lin", "--key", key])?;
    stage.say(&format!(
        "{id} version {}: {}",
        narrowed["version"],
        text(&narrowed, "state")?
    ))?;
    let rows = stage.query((BANK, PURPOSE), &ANSWER, QUESTION)?;
    let early = |row: &Row| {
        row.get("skssqq")
            .and_then(Value::as_str)
            .is_none_or(|day| day < papers::NARROWED.0)
    };
    let more = |row: &Row| early(row) || row.get("ynse").is_some_and(|value| !value.is_null());
    expect(
        !rows.is_empty() && !rows.iter().any(more),
        "narrowing left more than it says",
    )?;
    let withdrawn = stage.done(&["consent", "withdraw", id, "--as", "lin", "--key", key])?;
    stage.say(&format!("{id}: {}", text(&withdrawn, "state")?))?;
    let rows = stage.query((BANK, PURPOSE), &ANSWER, QUESTION)?;
    expect(rows.is_empty(), "the bank still sees what was withdrawn")?;
    stage.refused(
        3,
        &[
            "query",
            "--org",
            BANK,
            "--purpose",
            PURPOSE,
            "--subject",
            uscc,
            QUESTION,
        ],
    )
}

/// Another enterprise consents, and leaves it at that.
fn another(stage: &mut Stage<'_>, uscc: &str) -> Result<()> {
    stage.act(
        7,
        "Another enterprise consents, and stays",
        "另一家企业授权",
    )?;
    let (id, key) = request(stage, uscc, "wang")?;
    sign(stage, &id, "wang", &key)?;
    let sql = "SELECT uscc, count(*) AS declarations, sum(xse) AS sales FROM vat_declaration GROUP BY uscc";
    let rows = stage.query((BANK, PURPOSE), &["uscc", "declarations", "sales"], sql)?;
    expect(
        rows.len() == 1,
        "the bank sees another number of enterprises than one",
    )
}
