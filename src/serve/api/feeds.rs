//! What departments deliver.

use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use qihui_catalog::FeedName;
use qihui_ingest::{Quarantine, RunFact, effective_runs};
use ring::digest::{Context, SHA256};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use utoipa::IntoParams;

use super::{Answered, Shared, declared, document_of, identifier, once, pass_over};
use crate::failure::Failure;
use crate::hub::outcome;
use crate::identity::command::on_feed;
use crate::serve::authorise::Caller;
use crate::serve::idempotency::Answer;
use crate::serve::problem::Problem;
use crate::serve::{ServeError, Service};

/// The most runs or records of a page.
const PAGE: usize = 1000;
/// The longest name of a file.
const MAX_NAME: usize = 200;

/// A page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paged {
    /// The page after another: its `next`.
    page: Option<String>,
    /// At most so many, up to 1000.
    limit: Option<usize>,
}

/// What is delivered.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Delivered {
    /// The name of the file, as the feed's pattern wants it.
    name: String,
}

type Queried<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

fn queried<T>(query: Queried<T>) -> Result<T, ServeError> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(_) => Err(ServeError::BadRequest("its query string".to_owned())),
    }
}

fn reached(caller: &Caller, name: &str) -> Result<FeedName, Problem> {
    let feed: FeedName = identifier(name, "feed")?;
    on_feed(&caller.principal, &caller.hub, (caller.operation, &feed))?;
    Ok(feed)
}

/// List the feeds within reach.
#[utoipa::path(get, path = "/v1/feeds", operation_id = "feed_list", tag = "feeds",
    responses((status = 200, description = "The feeds.", body = Value)))]
pub(crate) async fn list(caller: Caller) -> Answered {
    let catalog = caller.hub.catalog()?;
    let within = catalog.feeds.values().filter(|feed| {
        on_feed(
            &caller.principal,
            &caller.hub,
            (caller.operation, &feed.name),
        )
        .is_ok()
    });
    let feeds: Vec<Value> = within
        .map(|feed| {
            json!({
                "name": feed.name,
                "dataset": feed.dataset,
                "format": feed.format.as_str(),
                "files": feed.file_pattern,
                "title_cn": feed.title_cn,
            })
        })
        .collect();
    Ok(document_of(&json!({ "feeds": feeds })))
}

async fn runs_after(caller: &Caller, feed: &FeedName, after: i64) -> Result<Vec<RunFact>, Failure> {
    let context = caller.hub.ingest()?;
    Ok(Box::pin(effective_runs(&context, feed, after)).await?)
}

/// List the runs that a feed's table holds, oldest first.
#[utoipa::path(get, path = "/v1/feeds/{feed}/runs", operation_id = "run_list", tag = "feeds",
    params(("feed" = String, Path, description = "The feed."), Paged),
    responses((status = 200, description = "A page of runs: input hash, table version, counts.", body = Value)))]
pub(crate) async fn runs(
    State(service): Shared,
    caller: Caller,
    Path(feed): Path<String>,
    paged: Queried<Paged>,
) -> Answered {
    let feed = reached(&caller, &feed)?;
    let paged = queried(paged)?;
    let who = caller.principal.name.as_str();
    let list = format!("runs {feed}");
    let after = match paged.page.as_deref() {
        Some(page) => service.pages.take(who, &list, page)?,
        None => 0,
    };
    let mut runs = runs_after(&caller, &feed, after).await?;
    let limit = paged.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let more = runs.len() > limit;
    runs.truncate(limit);
    let next = runs.last().filter(|_| more).map(|run| run.run);
    let next = next.map(|mark| service.pages.give(who, &list, mark));
    Ok(document_of(
        &json!({ "feed": feed, "runs": runs, "next": next }),
    ))
}

/// Show a run.
#[utoipa::path(get, path = "/v1/feeds/{feed}/runs/{run}", operation_id = "run_show", tag = "feeds",
    params(("feed" = String, Path, description = "The feed."), ("run" = i64, Path, description = "The run.")),
    responses((status = 200, description = "The run.", body = Value),
        (status = 404, description = "There is no such run.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn run(caller: Caller, Path((feed, run)): Path<(String, String)>) -> Answered {
    let feed = reached(&caller, &feed)?;
    let run: i64 = identifier(&run, "run")?;
    let runs = runs_after(&caller, &feed, run.saturating_sub(1)).await?;
    let found = runs.into_iter().find(|one| one.run == run);
    let found = found.ok_or_else(|| ServeError::UnknownRun {
        feed: feed.to_string(),
        run,
    })?;
    Ok(document_of(&json!({ "feed": feed, "run": found })))
}

/// Deliver a file: it is taken in as by `qihui feed run`, and every record of it is accounted for in the answer.
#[utoipa::path(post, path = "/v1/feeds/{feed}/runs", operation_id = "feed_run", tag = "feeds",
    params(("feed" = String, Path, description = "The feed."), Delivered,
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repeats of this request safe.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The file."),
    responses((status = 201, description = "What became of its records.", body = Value),
        (status = 413, description = "It is too large.", body = Value, content_type = "application/problem+json")))]
pub(crate) async fn deliver(
    State(service): Shared,
    caller: Caller,
    Path(feed): Path<String>,
    delivered: Queried<Delivered>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let feed = reached(&caller, &feed)?;
    let name = plain_name(&queried(delivered)?.name)?;
    let spool = Spool::of(&service, &name, &headers, body).await?;
    let (hub, hash) = (caller.hub.clone(), spool.hash.clone());
    let asked: [&[u8]; 3] = [feed.as_str().as_bytes(), name.as_bytes(), &hash];
    let work = {
        let feed = feed.clone();
        async move {
            let report = Box::pin(hub.run_feed_spooled(&feed, &spool.file)).await?;
            Ok(Answer::new(StatusCode::CREATED, &told(&report)))
        }
    };
    once(&service, &caller, (&headers, &asked), work).await
}

fn told(report: &qihui_ingest::RunReport) -> Value {
    let mut document = outcome(report);
    document["dataset"] = json!(report.dataset);
    document["reasons"] = json!(report.reasons);
    document["runs"] = json!(report.runs().collect::<Vec<_>>());
    document
}

/// A name that is of a file and of nothing else.
fn plain_name(name: &str) -> Result<String, ServeError> {
    let fits = (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control);
    if fits {
        return Ok(name.to_owned());
    }
    Err(ServeError::BadRequest(
        "`name` is not the plain name of a file".to_owned(),
    ))
}

/// A file that came over the network, until its records have landed.
struct Spool {
    file: PathBuf,
    hash: Vec<u8>,
    /// Removed with everything in it.
    _folder: TempDir,
}

impl Spool {
    /// Takes a body down, to its end. A client that sends nothing for a while is not waited for.
    async fn of(
        service: &Service,
        name: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Self, Problem> {
        let limit = service.limits.upload_bytes;
        if declared(headers).is_some_and(|length| length > limit) {
            pass_over(body);
            return Err(ServeError::BodyTooLarge { limit }.into());
        }
        let failed = |error: std::io::Error| ServeError::UploadFailed {
            reason: error.kind().to_string(),
        };
        let uploads = service.hub.layout().uploads();
        let folder = tempfile::tempdir_in(uploads).map_err(failed)?;
        let path = folder.path().join(name);
        let stall = Duration::from_secs(service.limits.stall_seconds);
        let hash = take_down(body, &path, (limit, stall)).await?;
        Ok(Self {
            file: path,
            hash,
            _folder: folder,
        })
    }
}

async fn take_down(
    mut body: Body,
    path: &FilePath,
    (limit, stall): (u64, Duration),
) -> Result<Vec<u8>, ServeError> {
    let failed = |error: std::io::Error| ServeError::UploadFailed {
        reason: error.kind().to_string(),
    };
    let mut file = tokio::fs::File::create_new(path).await.map_err(failed)?;
    let (mut hash, mut bytes) = (Context::new(&SHA256), 0_u64);
    loop {
        let frame = tokio::time::timeout(stall, body.frame()).await;
        let frame = frame.map_err(|_| ServeError::RequestTimedOut {
            seconds: stall.as_secs(),
        })?;
        let Some(frame) = frame else {
            break;
        };
        let frame = frame.map_err(|_| ServeError::BadRequest("its body broke off".to_owned()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        bytes += data.len() as u64;
        if bytes > limit {
            return Err(ServeError::BodyTooLarge { limit });
        }
        hash.update(&data);
        file.write_all(&data).await.map_err(failed)?;
    }
    file.sync_all().await.map_err(failed)?;
    Ok(hash.finish().as_ref().to_vec())
}

/// List the records of a feed that wait in quarantine: where they were and what is wrong, without their content.
#[utoipa::path(get, path = "/v1/feeds/{feed}/quarantine", operation_id = "quarantine_list", tag = "feeds",
    params(("feed" = String, Path, description = "The feed."), Paged),
    responses((status = 200, description = "A page of records.", body = Value)))]
pub(crate) async fn quarantine(
    State(service): Shared,
    caller: Caller,
    Path(feed): Path<String>,
    paged: Queried<Paged>,
) -> Answered {
    let feed = reached(&caller, &feed)?;
    let paged = queried(paged)?;
    let (who, list) = (caller.principal.name.clone(), format!("quarantine {feed}"));
    let skip = match paged.page.as_deref() {
        Some(page) => usize::try_from(service.pages.take(&who, &list, page)?).unwrap_or(0),
        None => 0,
    };
    let limit = paged.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let (state, name) = (caller.hub.layout().state(), feed.clone());
    let read = tokio::task::spawn_blocking(move || -> Result<Vec<_>, Failure> {
        let entries = Quarantine::new(&state).entries(&name)?;
        let page = entries.skip(skip).take(limit + 1);
        Ok(page.collect::<Result<Vec<_>, _>>()?)
    });
    let mut records = read.await.map_err(|_| ServeError::Panicked)??;
    let more = records.len() > limit;
    records.truncate(limit);
    // Records are only ever added behind those there are.
    let mark = i64::try_from(skip + records.len()).unwrap_or(i64::MAX);
    let next = more.then(|| service.pages.give(&who, &list, mark));
    let next = next.map_or(Value::Null, Value::String);
    Ok(document_of(
        &json!({ "feed": feed, "records": records, "next": next }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_a_file_alone() {
        assert_eq!(plain_name("年报 2025.csv"), Ok("年报 2025.csv".to_owned()));
        for name in ["", ".", "..", ".hidden", "a/b", "..\\b", "a\nb"] {
            assert!(plain_name(name).is_err(), "{name:?}");
        }
    }
}
