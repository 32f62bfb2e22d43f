//! `feed list | check | run | quarantine`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qihui_catalog::{Catalog, FeedName};
use qihui_ingest::{
    CheckReport, Counts, ProblemLine, ProblemReport, Progress, Quarantine, QuarantineEntry, Quiet,
    RunReport, Stop, TopicReport,
};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{Context, shown, with_hub};
use crate::cli::{FeedCommand, FeedRunArgs};
use crate::failure::{Failure, ProgramError};
use crate::hub::{FEEDS, FILES_FAILED, Hub, TopicRun, outcome};
use crate::progress::Bars;
use crate::report::{Report, table};

/// The dataset that says where an enterprise sits and what it does: filled first, so that numbers are assigned by it.
const REGISTER: &str = "enterprise_registration";

pub(super) async fn run(command: FeedCommand, context: &Context<'_>) -> Result<Report, Failure> {
    match command {
        FeedCommand::List => list(context).await,
        FeedCommand::Check { file, feed } => check(&file, &feed, context).await,
        FeedCommand::Run(args) => run_feeds(args, context).await,
        FeedCommand::Quarantine { name, limit } => quarantine(&name, limit, context).await,
    }
}

async fn list(context: &Context<'_>) -> Result<Report, Failure> {
    with_hub(&context.opening, async |hub| {
        let feeds = hub.catalog()?.feeds.values();
        let json: Vec<Value> = feeds
            .clone()
            .map(|feed| {
                json!({ "name": feed.name, "dataset": feed.dataset, "format": feed.format.as_str() })
            })
            .collect();
        let rows = feeds.map(|feed| {
            vec![
                feed.name.to_string(),
                feed.dataset.to_string(),
                feed.format.as_str().to_owned(),
                feed.encoding.as_str().to_owned(),
                match &feed.topic {
                    None => feed.file_pattern.clone(),
                    Some(topic) => format!("topic {}", topic.name),
                },
                feed.title_cn.clone(),
            ]
        });
        let text = table(
            &["feed", "dataset", "format", "encoding", "files", "title"],
            rows,
        );
        Ok(Report::new(json!({ "feeds": json }), text))
    })
    .await
}

fn progress(context: &Context<'_>) -> Arc<dyn Progress> {
    if context.terminal {
        Arc::new(Bars::default())
    } else {
        Arc::new(Quiet)
    }
}

async fn check(file: &Path, feed: &FeedName, context: &Context<'_>) -> Result<Report, Failure> {
    let watching = progress(context);
    let CheckReport { report, problems } = with_hub(&context.opening, async |hub| {
        hub.check_feed(feed, file, watching).await
    })
    .await?;
    let mut json = outcome(&report);
    json["dataset"] = json!(report.dataset);
    json["problems"] = json!(problems);
    let mut text = outcomes([&report]);
    if !problems.is_empty() {
        text = format!("{text}\n{}", problem_table(&problems));
    }
    Ok(Report::new(json, text).note("nothing was written"))
}

fn problem_table(problems: &[ProblemReport]) -> String {
    let rows = problems.iter().map(|problem| {
        let lines: Vec<String> = problem.lines.iter().map(line_of).collect();
        vec![
            problem.code.to_string(),
            problem.column.clone().unwrap_or_default(),
            problem.records.to_string(),
            lines.join(", "),
        ]
    });
    table(&["problem", "column", "records", "first lines"], rows)
}

/// A line, with its sheet or document where it has one.
fn line_of(at: &ProblemLine) -> String {
    match &at.part {
        Some(part) => format!("{part}:{}", at.line),
        None => at.line.to_string(),
    }
}

async fn run_feeds(args: FeedRunArgs, context: &Context<'_>) -> Result<Report, Failure> {
    let inbox = || context.opening.layout.inbox();
    let from = args.from.clone().unwrap_or_else(inbox);
    let watching = progress(context);
    let ran = with_hub(&context.opening, async |hub| {
        if let Some(report) = run_topic(&args, hub).await? {
            return Ok(Ran::Topic(report));
        }
        let feeds = chosen(&args, &from, hub.catalog()?)?;
        let mut reports = Vec::with_capacity(feeds.len());
        let mut failed = Vec::new();
        for feed in feeds {
            let run = hub.run_feed(&feed, &from, args.dry_run, Arc::clone(&watching));
            match run.await {
                Ok(report) => reports.push(report),
                // What is wrong with files of one feed does not concern another.
                Err(failure) if failure.get(FILES_FAILED).is_some() => failed.push((feed, failure)),
                Err(failure) => return Err(after(failure, &failed, &reports)),
            }
        }
        match failed.pop() {
            None => Ok(Ran::Files(reports)),
            Some(last) => {
                failed.push(last);
                let (_, first) = failed.remove(0);
                Err(after(first, &failed, &reports))
            }
        }
    })
    .await?;
    let (reports, lag) = match ran {
        Ran::Files(reports) => (reports, None),
        Ran::Topic(TopicReport { report, lag }) => (vec![report], Some(lag)),
    };
    let mut outcomes_json: Vec<Value> = reports.iter().map(outcome).collect();
    for outcome in &mut outcomes_json {
        if let Some(lag) = lag {
            outcome["lag"] = json!(lag);
        }
    }
    let mut json = json!({ "feeds": outcomes_json });
    if args.dry_run {
        json["dry_run"] = json!(true);
    }
    let mut report = Report::new(json, outcomes(&reports));
    if args.dry_run {
        report = report.note("a dry run: nothing was written");
    }
    if let Some(lag) = lag.filter(|lag| *lag > 0) {
        report = report.note(format!("{lag} messages are waiting in the topic"));
    }
    for run in &reports {
        report.notes.extend(reasons(run));
    }
    Ok(report)
}

/// What was run.
enum Ran {
    Files(Vec<RunReport>),
    Topic(TopicReport),
}

/// Reads the topic of the feed that was named; none when it reads files, or is to.
async fn run_topic(args: &FeedRunArgs, hub: &Hub) -> Result<Option<TopicReport>, Failure> {
    let (Some(name), None) = (&args.name, &args.from) else {
        return Ok(None);
    };
    let spec = hub.catalog()?.feeds.get(name);
    let reads_topic = spec.is_some_and(|spec| spec.topic.is_some());
    if !(reads_topic || args.follow || args.from_earliest) {
        return Ok(None);
    }
    let how = TopicRun {
        dry_run: args.dry_run,
        follow: args.follow,
        from_earliest: args.from_earliest,
        stop: told_to_end()?,
    };
    Box::pin(hub.run_topic(name, &how)).await.map(Some)
}

/// Asked as soon as somebody tells the process to end.
fn told_to_end() -> Result<Stop, Failure> {
    let unheard = |error: std::io::Error| {
        Failure::from(ProgramError::CannotStart(format!(
            "signals cannot be heard: {error}"
        )))
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    let stop = Stop::default();
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked.ask();
    });
    Ok(stop)
}

/// A failure beside those of `other` feeds and beside feeds that were run: what was run stays run, so it is told.
fn after(failure: Failure, other: &[(FeedName, Failure)], done: &[RunReport]) -> Failure {
    let all = || std::iter::once(&failure).chain(other.iter().map(|(_, failure)| failure));
    let of = |key: &str| -> Vec<Value> {
        let lists = all().filter_map(|failure| failure.get(key)?.as_array());
        lists.flatten().cloned().collect()
    };
    let (files, partly) = (of(FILES_FAILED), of(FEEDS));
    let outcomes: Vec<Value> = done.iter().map(outcome).chain(partly).collect();
    let mut told = Vec::new();
    for (feed, failure) in other {
        told.extend(failure.details().iter().cloned());
        told.push(format!("feed {feed}: {failure}"));
    }
    let done = done.iter();
    told.extend(done.map(|run| format!("feed {}: done, {} read", run.feed, run.counts.read)));
    let mut failure = failure.with_details(told);
    for (key, list) in [(FEEDS, outcomes), (FILES_FAILED, files)] {
        if !list.is_empty() {
            failure = failure.with(key, Value::Array(list));
        }
    }
    failure
}

/// The feeds to run, in order.
fn chosen(args: &FeedRunArgs, from: &Path, catalog: &Catalog) -> Result<Vec<FeedName>, Failure> {
    if let Some(name) = &args.name {
        return Ok(vec![name.clone()]);
    }
    if !from.is_dir() {
        return Err(ProgramError::FileUnreadable {
            what: "folder of feeds",
            path: from.to_owned(),
            reason: "it is not a folder".to_owned(),
        }
        .into());
    }
    let mut feeds = Vec::new();
    for spec in catalog.feeds.values() {
        if qihui_ingest::has_input(spec, from)? {
            feeds.push((spec.dataset.as_str() != REGISTER, spec.name.clone()));
        }
    }
    if feeds.is_empty() {
        return Err(ProgramError::NoFeedFiles {
            dir: PathBuf::from(from),
        }
        .into());
    }
    feeds.sort();
    Ok(feeds.into_iter().map(|(_, name)| name).collect())
}

fn outcomes<'r>(reports: impl IntoIterator<Item = &'r RunReport>) -> String {
    let rows = reports.into_iter().map(|report| {
        let mut row = vec![report.feed.to_string()];
        row.extend(report.counts.named().map(|(_, count)| count.to_string()));
        row
    });
    let counts = Counts::default().named().map(|(name, _)| name);
    let header: Vec<&str> = std::iter::once("feed").chain(counts).collect();
    table(&header, rows)
}

fn reasons(report: &RunReport) -> Option<String> {
    let reasons: Vec<String> = report
        .reasons
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    (!reasons.is_empty()).then(|| format!("{} quarantined: {}", report.feed, reasons.join(", ")))
}

async fn quarantine(
    name: &FeedName,
    limit: usize,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    let (total, listed) = with_hub(&context.opening, async |hub: &Hub| {
        if !hub.catalog()?.feeds.contains_key(name) {
            return Err(ProgramError::UnknownFeed(name.to_string()).into());
        }
        let (mut total, mut listed) = (0_u64, Vec::new());
        for entry in Quarantine::new(&hub.layout().state()).entries(name)? {
            let entry = entry?;
            total += 1;
            if listed.len() < limit {
                listed.push(entry);
            }
        }
        Ok((total, listed))
    })
    .await?;
    let json = json!({ "feed": name, "total": total, "records": listed });
    let text = if listed.is_empty() {
        format!("no record of {name} is in quarantine")
    } else {
        table(
            &["source", "line", "bytes", "problems", "id"],
            listed.iter().map(quarantined),
        )
    };
    let report = Report::new(json, text);
    if (listed.len() as u64) < total {
        return Ok(report.note(format!("{} of {total} records", listed.len())));
    }
    Ok(report)
}

fn quarantined(entry: &QuarantineEntry) -> Vec<String> {
    let problems: Vec<String> = entry.problems.iter().map(ToString::to_string).collect();
    let source = match &entry.part {
        Some(part) => format!("{}: {part}", entry.source),
        None => entry.source.clone(),
    };
    vec![
        shown(Path::new(&source)),
        entry.line.to_string(),
        entry.length.to_string(),
        problems.join(", "),
        entry.id.clone(),
    ]
}
