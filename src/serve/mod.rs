//! `serve`: the HTTP API, the command line of this machine and the deliveries by Kafka, over one hub that is open as long as
//! the service runs.
//!
//! Promises:
//! - **Nothing is reached unauthorised.** Every route has an operation, its `operationId`; who may do it is looked up
//!   before the handler runs, and a route without an operation answers nobody ([`authorise`]).
//! - **An answer is whole or has no end.** Rows leave through the gate alone, batch by batch, with a last look at the
//!   socket ([`wire`], [`answer`]); the end of an answer follows its record.
//! - **Bounded.** Connections, heads, bodies, times, queries at once; each limit has its own error.
//! - **A clean end.** SIGTERM or SIGINT: no new connection, what runs may end, what takes too long is broken off and
//!   recorded as such, and the hub is closed.
//!
//! Where to read on: [`api`] has the routes, [`problem`] says how failures become answers, [`authorise`] who is let through
//! and how it is recorded who was not, [`connection`] what a connection is, [`local`] how the command line gets in,
//! [`deliveries`] what goes out by itself.

mod answer;
pub mod api;
mod authorise;
mod connection;
mod deliveries;
mod errors;
mod idempotency;
mod local;
mod measure;
mod pages;
mod problem;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use qihui_query::access::Summary;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

pub use problem::ServeError;

use crate::cli::ServeArgs;
use crate::config::{self, Profile};
use crate::failure::{Failure, ProgramError};
use crate::files::{self, check_private};
use crate::hub::{Hub, Opening};
use crate::identity::issuer::LocalIssuer;
use crate::identity::keys::{KeySet, Keys, Place, Source};
use crate::identity::token::{Terms, Trusted, Verifier};
use crate::report::Report;
use authorise::Operations;
use idempotency::Answers;
use pages::PageTokens;

/// Mutating calls at the same time: more than connections could ask.
const TASKS: u32 = 1 << 20;
/// Summaries of answers that are kept in memory.
const SUMMARIES: usize = 4096;
/// How often it is looked for what time has made due.
const HOUSEKEEPING: Duration = Duration::from_secs(15);
/// How long broken-off work has to write down that it was.
const CLOSING: Duration = Duration::from_secs(20);

/// What every request gets.
pub(crate) struct Service {
    hub: Hub,
    limits: config::Serve,
    verifier: Verifier,
    /// Who is forwarded to without a token; in the service profile nobody is.
    holders_allowed: bool,
    operations: Operations,
    openapi: String,
    pages: PageTokens,
    answers: Answers,
    queries: Arc<Semaphore>,
    tasks: Arc<Semaphore>,
    /// What answers came to, newest last: it says a little more than the log.
    summaries: Mutex<VecDeque<Arc<Summary>>>,
    /// Whether no new work is taken.
    draining: watch::Receiver<bool>,
    /// Whether running work is broken off.
    stop: watch::Receiver<bool>,
    figures: PrometheusHandle,
}

impl Service {
    fn remember(&self, summary: Summary) {
        let mut summaries = self.summaries.lock();
        summaries.push_back(Arc::new(summary));
        if summaries.len() > SUMMARIES {
            summaries.pop_front();
        }
    }

    fn summary(&self, access_id: &str) -> Option<Arc<Summary>> {
        let summaries = self.summaries.lock();
        let mut newest = summaries.iter().rev();
        newest.find(|one| one.access_id == access_id).cloned()
    }
}

/// Who is trusted beyond this hub itself.
fn outside(config: &config::Identity) -> Result<Option<Trusted>, Failure> {
    let (issuer, keys) = match (&config.issuer, &config.keys) {
        (Some(issuer), Some(keys)) => (issuer.clone(), keys),
        (None, None) => return Ok(None),
        _ => {
            let reason = "`identity.issuer` and `identity.keys` belong together".to_owned();
            return Err(ProgramError::BadConfiguration { reason }.into());
        }
    };
    let place = Place::parse(keys).map_err(|reason| ProgramError::BadConfiguration {
        reason: format!("`identity.keys`: {reason}"),
    })?;
    let set = KeySet::new(Source {
        place,
        refresh_seconds: config.keys_refresh_seconds,
        retry_seconds: config.keys_retry_seconds,
    })?;
    let keys = Keys::Set(Box::new(set));
    Ok(Some(Trusted { issuer, keys }))
}

fn verifier(opening: &Opening, trusted: Vec<Trusted>) -> Verifier {
    let config = &opening.config.identity;
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let terms = Terms {
        longest_seconds: seconds(config.token_seconds),
        leeway_seconds: seconds(config.leeway_seconds),
    };
    Verifier::new(trusted, &config.audience, terms, Arc::clone(&opening.clock))
}

/// Tells who the bearers of the configured issuer's tokens are: the service profile.
///
/// # Errors
/// [`ProgramError::BadConfiguration`]: there is no such issuer.
pub(crate) fn outside_verifier(opening: &Opening) -> Result<Verifier, Failure> {
    let Some(trusted) = outside(&opening.config.identity)? else {
        let reason = "the service profile needs `identity.issuer` and `identity.keys`".to_owned();
        return Err(ProgramError::BadConfiguration { reason }.into());
    };
    Ok(verifier(opening, vec![trusted]))
}

/// Serves until stopped.
pub(crate) async fn run(args: &ServeArgs, opening: &Opening) -> Result<Report, Failure> {
    let service_profile = opening.config.identity.profile == Profile::Service;
    let address = args.listen.unwrap_or(opening.config.serve.listen);
    let tls = connection::tls(&opening.config.serve)?;
    check_address(address, tls.is_some())?;
    if service_profile {
        check_keys(&opening.layout.keys())?;
    }
    let (begin_drain, draining) = watch::channel(false);
    let (begin_stop, stop) = watch::channel(false);
    // Both before anything is open: a signal at any time ends in an orderly way.
    let mut signals = [SignalKind::terminate(), SignalKind::interrupt()]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ProgramError::CannotStart(error.to_string()))?;
    let hub = Box::pin(Hub::open(opening)).await?;
    let (router, service) = assemble(&hub, opening, (draining.clone(), stop)).await?;
    let cannot_listen = |at: String| {
        move |error: std::io::Error| ProgramError::CannotListen {
            at,
            reason: error.to_string(),
        }
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(cannot_listen(address.to_string()))?;
    let address = listener
        .local_addr()
        .map_err(cannot_listen(address.to_string()))?;
    let socket = local::listen(&opening.layout.socket())?;
    announce(address, tls.is_some(), service_profile);
    let connections = connection::Connections::new(&service, router, tls);
    let delivering = tokio::spawn(deliveries::run(hub.clone(), draining.clone()));
    let serving = connections.serve(listener, socket, draining);
    tokio::pin!(serving);
    let keeping = tokio::spawn(keep_up(hub.clone()));
    let (mut terminate, mut interrupt) = (signals.remove(0), signals.remove(0));
    tokio::select! {
        () = &mut serving => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    // Nobody new; who is there may end.
    begin_drain.send_replace(true);
    let grace = Duration::from_secs(service.limits.stop_seconds);
    let ended = tokio::time::timeout(grace, &mut serving).await.is_ok();
    begin_stop.send_replace(true);
    let delivered = tokio::time::timeout(CLOSING, delivering).await.is_ok();
    let quiet = idle(&service).await && delivered;
    keeping.abort();
    // What could not be removed is taken for a service that is gone.
    let _ = std::fs::remove_file(opening.layout.socket());
    service.answers.close().await;
    if quiet {
        hub.close().await;
    }
    let report = Report::new(json!({ "stopped": true, "in_time": ended && quiet }), "");
    Ok(report.note("stopped"))
}

/// Does what time makes due, as long as the hub is open: consents that ended are noted, and what the log did not take
/// is handed over again.
async fn keep_up(hub: Hub) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        let done = async {
            hub.ledger().expire_due().await?;
            hub.acknowledge().await
        };
        if let Err(failure) = done.await {
            let code = failure.code();
            tracing::warn!(
                code,
                "what is due could not be written down; it is tried again"
            );
        }
    }
}

/// Waits until no query and no mutating call is running, and no refusal on its way into the log; whether that came in time.
async fn idle(service: &Service) -> bool {
    let queries = u32::try_from(service.limits.queries.max(1)).unwrap_or(u32::MAX);
    let all = async {
        let queries = service.queries.acquire_many(queries).await.is_ok();
        let refusals = service.hub.refusals_are_recorded().await;
        queries && refusals && service.tasks.acquire_many(TASKS).await.is_ok()
    };
    tokio::time::timeout(CLOSING, all).await.unwrap_or(false)
}

/// Says where the service is, in one line that scripts can wait for.
fn announce(address: SocketAddr, tls: bool, service_profile: bool) {
    let scheme = if tls { "https" } else { "http" };
    let profile = if service_profile {
        "service"
    } else {
        "embedded"
    };
    let line = format!("listening at {scheme}://{address}, profile {profile}\n");
    // A service whose stderr is closed works all the same.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

async fn assemble(
    hub: &Hub,
    opening: &Opening,
    (draining, stop): (watch::Receiver<bool>, watch::Receiver<bool>),
) -> Result<(axum::Router, Arc<Service>), Failure> {
    let limits = opening.config.serve.clone();
    let profile = opening.config.identity.profile;
    let verifier = match profile {
        Profile::Service => outside_verifier(opening)?,
        Profile::Embedded => {
            let mut trusted = vec![LocalIssuer::of(hub).await?.trusted()];
            trusted.extend(outside(&opening.config.identity)?);
            verifier(opening, trusted)
        }
    };
    empty(&opening.layout.uploads())?;
    let (routes, document) = api::routes();
    let answers = Answers::open(
        &opening.layout.answers(),
        limits.answer_seconds,
        Arc::clone(&opening.clock),
    )
    .await?;
    let service = Arc::new(Service {
        hub: hub.clone(),
        verifier,
        holders_allowed: profile == Profile::Embedded,
        operations: Operations::of(&document),
        openapi: api::text(&document),
        pages: PageTokens::load(&opening.layout.page_key())?,
        answers,
        queries: Arc::new(Semaphore::new(limits.queries.max(1))),
        tasks: Arc::new(Semaphore::new(TASKS as usize)),
        summaries: Mutex::default(),
        limits,
        draining,
        stop,
        figures: measure::install(),
    });
    Ok((api::guarded(routes, &service), service))
}

/// Tokens do not go over a network in the clear.
fn check_address(address: SocketAddr, tls: bool) -> Result<(), ProgramError> {
    if address.ip().is_loopback() || tls {
        return Ok(());
    }
    Err(ProgramError::BadConfiguration {
        reason: format!(
            "{address} is beyond this machine: configure `serve.tls_certificate` and `serve.tls_key`"
        ),
    })
}

/// In the service profile no key of the hub may be readable by others.
fn check_keys(folder: &Path) -> Result<(), ProgramError> {
    let unreadable = |error: std::io::Error| ProgramError::FileUnreadable {
        what: "folder of keys",
        path: folder.to_owned(),
        reason: error.to_string(),
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            check_private(&path)?;
        }
    }
    Ok(())
}

/// A folder with nothing in it.
fn empty(folder: &Path) -> Result<(), ProgramError> {
    let clear = || -> std::io::Result<()> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)
    };
    clear().map_err(|error| files::unwritable(folder, &error))
}

/// The socket of the command line, for the owner of the directory alone. One that was left behind is replaced.
pub(crate) fn bind_socket(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener =
        crate::forward::with_short_path(path, |path| std::os::unix::net::UnixListener::bind(path))?;
    let owner_alone = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, owner_alone)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}
