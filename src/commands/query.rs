//! `query`: SQL over the gate.
//!
//! Bytes go where they are asked for as the gate releases them. With `--json` and without `--output` the answer is
//! held until it is complete, since it becomes one document; a file appears under its name once it is complete. A question
//! that is refused before the gate is asked is recorded like one that the gate refuses.

use std::path::{Path, PathBuf};

use qihui_catalog::Action;
use qihui_ingest::durable;
use qihui_query::QueryError;
use qihui_query::access::{AccessRequest, Keep, Outlet, RefusedRequest, Summary};
use qihui_query::formats::Format;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Context, enterprise, shown, with_hub};
use crate::cli::QueryArgs;
use crate::failure::{Failure, ProgramError};
use crate::files::unwritable;
use crate::hub::Hub;
use crate::identity::Principal;
use crate::report::Report;

pub(super) async fn run(args: QueryArgs, context: &mut Context<'_>) -> Result<Report, Failure> {
    let embedded = context.json && args.output.is_none();
    let stdout = &mut *context.stdout;
    with_hub(&context.opening, async |hub| {
        let request = match question(hub, &args, embedded) {
            Ok(request) => request,
            Err(failure) => return Err(hub.refused(asked(hub, None, &args), failure).await),
        };
        match &args.output {
            Some(path) => Box::pin(into_file(hub, &request, path)).await,
            None if embedded => Box::pin(into_document(hub, &request)).await,
            None => {
                let summary = Box::pin(ask(hub, &request, stdout)).await?;
                Ok(noted(Report::new(Value::Null, ""), &summary))
            }
        }
    })
    .await
}

/// What is asked of the gate.
fn question(hub: &Hub, args: &QueryArgs, embedded: bool) -> Result<AccessRequest, Failure> {
    if embedded && args.format.is_some_and(|format| format != Format::Ndjson) {
        let reason = "with --json the rows are part of the document: leave --format out, or give --output FILE";
        return Err(ProgramError::BadUsage(reason.to_owned()).into());
    }
    let default = if embedded {
        Format::Ndjson
    } else {
        Format::Table
    };
    let action = args.action.into();
    if action == Action::View && args.output.is_some() {
        return Err(QueryError::NotForViewing { what: "file" }.into());
    }
    let Some(sql) = args.sql.to_str() else {
        let reason = "the statement is not UTF-8 text";
        return Err(ProgramError::BadUsage(reason.to_owned()).into());
    };
    let subjects: Result<_, Failure> = args.subject.iter().map(|code| enterprise(code)).collect();
    Ok(AccessRequest {
        principal: hub.principal().to_owned(),
        org: args.org.clone(),
        purpose: args.purpose.clone(),
        action,
        subjects: subjects?,
        sql: sql.to_owned(),
        format: args.format.unwrap_or(default),
        strict: args.strict || hub.config().query.strict,
    })
}

/// What is known of a question that is refused before the gate is asked. The organisation is that of the principal's token;
/// whoever holds the data directory speaks for any.
pub(super) fn asked(hub: &Hub, principal: Option<&Principal>, args: &QueryArgs) -> RefusedRequest {
    let subjects = args.subject.iter();
    RefusedRequest {
        principal: hub.principal().to_owned(),
        org: match principal {
            Some(principal) => principal.org.clone(),
            None => Some(args.org.clone()),
        },
        purpose: Some(args.purpose.clone()),
        action: Some(args.action.into()),
        // Whoever can be read hears of the refusal, whatever stands beside it.
        subjects: subjects.filter_map(|code| enterprise(code).ok()).collect(),
    }
}

async fn ask(hub: &Hub, request: &AccessRequest, out: &mut dyn Outlet) -> Result<Summary, Failure> {
    let answered = Box::pin(hub.gate()?.query(request, out)).await;
    // Whatever it came to, what left is a holding by now. Why an answer broke off matters more than where that stands.
    let acknowledged = if request.action == Action::Store {
        hub.acknowledge().await
    } else {
        Ok(())
    };
    let summary = answered?;
    acknowledged?;
    Ok(summary)
}

async fn into_document(hub: &Hub, request: &AccessRequest) -> Result<Report, Failure> {
    let mut answer = Vec::new();
    let summary = ask(hub, request, &mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let access = serde_json::to_string(&summary).map_err(|_| no_json())?;
    let rows: Vec<&str> = answer.lines().collect();
    let are_json = |row: &&str| serde_json::from_str::<&RawValue>(row).is_ok();
    let document = if rows.iter().all(are_json) {
        // Rows as they are: a decimal read as a number of the machine would no longer be the same.
        format!("{{\"access\":{access},\"rows\":[{}]}}", rows.join(","))
    } else {
        // What EXPLAIN answers is text.
        let text = serde_json::to_string(&answer).map_err(|_| no_json())?;
        format!("{{\"access\":{access},\"text\":{text}}}")
    };
    Ok(noted(Report::with_document(document, ""), &summary))
}

fn no_json() -> ProgramError {
    ProgramError::OutputFailed("the answer is no JSON".to_owned())
}

async fn into_file(hub: &Hub, request: &AccessRequest, path: &Path) -> Result<Report, Failure> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".qihui-answer-")
        .tempfile_in(&folder)
        .map_err(|error| unwritable(path, &error))?;
    let summary = ask(hub, request, &mut file).await?;
    file.as_file()
        .sync_all()
        .map_err(|error| unwritable(path, &error))?;
    file.persist(path)
        .map_err(|error| unwritable(path, &error.error))?;
    durable::sync_parent(path).map_err(|error| unwritable(path, &error))?;
    let json = json!({ "access": summary, "output": shown(path) });
    let mut report = noted(Report::new(json, ""), &summary);
    if summary.terms.keep == Keep::No {
        report = report.note(summary.terms.say);
    }
    Ok(report)
}

/// What the answer came to: how many enterprises the scope covers and how many cells were withheld, so that an empty
/// cell is never a riddle.
fn noted(report: Report, summary: &Summary) -> Report {
    let mut report = report.note(format!(
        "{} rows, {} bytes; recorded as entries {} and {} of the log",
        summary.rows, summary.bytes, summary.decided, summary.finished
    ));
    for (dataset, read) in &summary.datasets {
        if let Some(statistic) = &read.statistic {
            let groups = statistic.outcome.groups;
            report = report.note(format!(
                "{dataset}: figures of {} to {}; groups told: {}; withheld: {} of too few enterprises, {} dominated, \
                 {} told by difference",
                statistic.first_day,
                statistic.end_day,
                groups.released,
                groups.too_few,
                groups.dominated,
                groups.differencing
            ));
            continue;
        }
        let enterprises = match read.enterprises {
            Some(1) => "1 enterprise".to_owned(),
            Some(count) => format!("{count} enterprises"),
            None => "every enterprise".to_owned(),
        };
        let withheld: Vec<String> = read
            .withheld
            .iter()
            .filter(|(_, cells)| **cells > 0)
            .map(|(column, cells)| format!("{column} {cells}"))
            .collect();
        let withheld = if withheld.is_empty() {
            "nothing".to_owned()
        } else {
            withheld.join(", ")
        };
        report = report.note(format!(
            "{dataset}: the scope covers {enterprises}; {} rows read; cells withheld: {withheld}",
            read.rows
        ));
    }
    if let Some(holding) = &summary.terms.holding {
        let until = summary.terms.keep_until;
        let until = until.map_or_else(String::new, |until| format!(" until {until}"));
        report = report.note(format!("it may be kept{until}, as holding {holding}"));
    }
    report
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use async_trait::async_trait;
    use qihui_audit::Clock;
    use qihui_consent::ledger::{Organisation, OrganisationKind};

    use super::*;
    use crate::testing::{PURPOSE, hub_with_bank};

    const NOON: i64 = 1_800_000_000_000;

    /// A clock that stands where a test puts it.
    struct TestClock(AtomicI64);

    impl Clock for TestClock {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    /// A receiver that goes away before the first byte, while the clock is set back.
    struct Gone(Arc<TestClock>);

    #[async_trait]
    impl Outlet for Gone {
        async fn ready(&mut self) -> io::Result<()> {
            self.0.0.store(NOON - 3_600_000, Ordering::SeqCst);
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn release(&mut self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        async fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Why an answer for keeping broke off is said though the ledger cannot hand its events to the log then.
    #[test]
    fn the_error_of_an_answer_comes_before_that_of_its_acknowledgement() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("hub");
        let clock = Arc::new(TestClock(AtomicI64::new(NOON)));
        let opening = hub_with_bank(&dir, &(Arc::clone(&clock) as Arc<dyn Clock>));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let hub = Box::pin(Hub::open(&opening)).await.unwrap();
            let pending = Organisation {
                id: "other".parse().unwrap(),
                name: "Other".to_owned(),
                kind: OrganisationKind::Bank,
            };
            hub.ledger().add_org(pending).await.unwrap();
            let request = AccessRequest {
                principal: "local:test".to_owned(),
                org: "bank".parse().unwrap(),
                purpose: PURPOSE.parse().unwrap(),
                action: Action::Store,
                subjects: Vec::new(),
                sql: "SELECT count(*) FROM admin_licence".to_owned(),
                format: Format::Csv,
                strict: false,
            };
            let mut gone = Gone(Arc::clone(&clock));
            let failure = Box::pin(ask(&hub, &request, &mut gone)).await;
            let failure = failure.unwrap_err();
            assert_eq!(failure.code(), "OutputFailed");
            let failure = hub.acknowledge().await.unwrap_err();
            assert_eq!(failure.code(), "LogUnavailable");
        });
    }
}
