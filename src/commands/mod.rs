//! The commands, one module each: what was typed, to the crates that do it, to a [`Report`].

pub(crate) mod agreement;
mod audit;
pub(crate) mod catalog;
pub(crate) mod consent;
pub(crate) mod feed;
pub(crate) mod holding;
mod init;
mod keygen;
pub(crate) mod org;
mod pipeline;
pub(crate) mod preview;
pub(crate) mod query;
pub(crate) mod signatory;
pub(crate) mod subscription;
mod synth;
mod token;
pub(crate) mod topic;

use std::path::Path;

use qihui_catalog::Uscc;
use qihui_query::access::{Outlet, RefusedRequest};

use crate::cli::{Command, ConsentCommand, SubscriptionCommand};
use crate::failure::{Failure, ProgramError};
use crate::hub::{Hub, Opening};
use crate::identity::Principal;
use crate::report::Report;

/// What every command gets.
pub struct Context<'a> {
    /// The hub it is about.
    pub opening: Opening,
    /// Who asks, where that is not whoever holds the data directory.
    pub principal: Option<Principal>,
    /// Whether the answer is one JSON document.
    pub json: bool,
    /// Whether somebody watches.
    pub terminal: bool,
    /// Where an answer goes that is too large to be held.
    pub stdout: &'a mut dyn Outlet,
}

/// Does a command.
pub(crate) async fn dispatch(
    command: Command,
    context: &mut Context<'_>,
) -> Result<Report, Failure> {
    match command {
        Command::Init(args) => init::run(&args, context).await,
        Command::Synth(args) => synth::run(args),
        Command::Feed(command) => feed::run(command, context).await,
        Command::Catalog(command) => catalog::run(command, context).await,
        Command::Pipeline(command) => Box::pin(pipeline::run(command, context)).await,
        Command::Org(command) => org::run(command, context).await,
        Command::Agreement(command) => agreement::run(command, context).await,
        Command::Signatory(command) => signatory::run(command, context).await,
        Command::Consent(command) => consent::run(command, context).await,
        Command::Query(args) => Box::pin(query::run(args, context)).await,
        Command::Holding(command) => holding::run(command, context).await,
        Command::Audit(command) => audit::run(command, context).await,
        Command::Topic(command) => topic::run(command, context).await,
        Command::Subscription(command) => Box::pin(subscription::run(command, context)).await,
        Command::Keygen(args) => keygen::run(&args, context),
        Command::Token(command) => token::run(command, context).await,
        Command::Serve(args) => Box::pin(crate::serve::run(&args, &context.opening)).await,
        // Runs other commands, each with a runtime of its own.
        Command::Demo(_) => Err(ProgramError::BadUsage(
            "a demonstration cannot run inside a command".to_owned(),
        )
        .into()),
    }
}

/// What is known of the access that a principal asks for with a command, before it is done; none: it shows no rows.
pub(crate) async fn access(
    hub: &Hub,
    principal: &Principal,
    command: &Command,
) -> Result<Option<RefusedRequest>, Failure> {
    Ok(match command {
        Command::Query(args) => Some(query::asked(hub, Some(principal), args)),
        Command::Subscription(SubscriptionCommand::Pull(_)) => {
            Some(subscription::asked(hub, Some(principal)))
        }
        Command::Consent(ConsentCommand::Preview { id }) => {
            Some(preview::asked(hub, Some(principal), id).await?)
        }
        _ => None,
    })
}

/// Opens the hub, works, and closes it if the work succeeded; or works on the one that this process has open.
async fn with_hub<T>(
    opening: &Opening,
    work: impl AsyncFnOnce(&Hub) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if let Some(hub) = &opening.shared {
        return work(hub).await;
    }
    let hub = Box::pin(Hub::open(opening)).await?;
    let result = work(&hub).await?;
    hub.close().await;
    Ok(result)
}

/// An enterprise as it was typed. What is wrong with it is said without repeating it.
fn enterprise(text: &str) -> Result<Uscc, Failure> {
    Ok(Uscc::normalise(text)?)
}

/// A path for people and JSON.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
