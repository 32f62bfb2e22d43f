//! The program as a function.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use qihui_audit::Clock;
use qihui_query::access::Outlet;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Cli, Command};
use crate::commands::{self, Context};
use crate::config::{Config, Flags, Profile};
use crate::diagnostics;
use crate::failure::{Failure, ProgramError};
use crate::files::read_document;
use crate::forward::forward;
use crate::hub::{Hub, Opening};
use crate::identity::command::authorise;
use crate::identity::{IdentityError, Principal};
use crate::layout::Layout;
use crate::report::Report;

/// How long what still runs in threads of its own may take when everything is done.
const LEAVING: Duration = Duration::from_secs(2);

/// What the program touches besides its files.
pub struct Surroundings<'a> {
    /// Where answers go.
    pub stdout: &'a mut (dyn Write + Send),
    /// Where everything else goes.
    pub stderr: &'a mut (dyn Write + Send),
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether stderr is a terminal, where people like to see progress.
    pub terminal: bool,
}

/// Runs one command line, the program's name first, and gives its exit code: 0 done, 1 failed, 2 usage, 3 denied.
pub fn run<A>(arguments: A, surroundings: &mut Surroundings<'_>) -> u8
where
    A: IntoIterator,
    A::Item: Into<OsString>,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let json = wants_json(&arguments);
    let result = match Cli::try_parse_from(&arguments) {
        Ok(cli) => execute(cli, &arguments, surroundings),
        Err(error) => explained(&error).map(Done::Here),
    };
    match result {
        Ok(Done::Here(report)) => end(Ok(report), json, surroundings),
        Ok(Done::There(code)) => code,
        Err(failure) => end(Err(failure), json, surroundings),
    }
}

/// How a command was done.
enum Done {
    /// By this process: what it has to say.
    Here(Report),
    /// By the service that owns the data directory: its exit code, after it has said everything.
    There(u8),
}

/// Says what a command has to say; its exit code.
fn end(result: Result<Report, Failure>, json: bool, surroundings: &mut Surroundings<'_>) -> u8 {
    let (code, written) = match result {
        Ok(report) => (0, say(&report, json, surroundings)),
        Err(failure) => (
            failure.kind().exit_code(),
            complain(&failure, json, surroundings),
        ),
    };
    match written.and_then(|()| surroundings.stdout.flush()) {
        Ok(()) => code,
        Err(error) => {
            let failure = Failure::from(ProgramError::OutputFailed(error.kind().to_string()));
            // If stderr is closed as well, only the exit code is left to tell.
            let _ = writeln!(surroundings.stderr, "{failure}");
            failure.kind().exit_code()
        }
    }
}

/// Whether `--json` was asked for, even on a command line that is otherwise wrong.
fn wants_json(arguments: &[OsString]) -> bool {
    let mut before_end = arguments.iter().take_while(|argument| *argument != "--");
    before_end.any(|argument| argument == "--json")
}

fn execute(
    cli: Cli,
    arguments: &[OsString],
    surroundings: &mut Surroundings<'_>,
) -> Result<Done, Failure> {
    // Two providers of cryptography are in the tree; the first command of a process chooses.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let command = match cli.command {
        Command::Demo(args) => {
            return crate::demo::run(&args, cli.json, surroundings).map(Done::Here);
        }
        command => command,
    };
    let layout = Layout::new(&cli.data_dir);
    let (file, must_exist) = match &cli.config {
        Some(file) => (file.clone(), true),
        None => (layout.config(), false),
    };
    let strict = matches!(&command, Command::Query(args) if args.strict);
    let flags = Flags {
        verbose: cli.verbose,
        strict,
    };
    let config = Config::load(&file, must_exist, &flags)?;
    diagnostics::install(config.diagnostics.level);
    let token = match &cli.token_file {
        Some(file) => Some(read_document("token", file)?.trim().to_owned()),
        None => None,
    };
    let opening = Opening {
        layout,
        config,
        clock: Arc::clone(&surroundings.clock),
        shared: None,
    };
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let _full_disk = survive_full_disks();
        let token = token.as_deref();
        if command.needs_hub() {
            let there = forward(&opening.layout, arguments, token, surroundings);
            if let Some(code) = there.await? {
                return Ok(Done::There(code));
            }
        }
        let mut context = Context {
            opening,
            principal: None,
            json: cli.json,
            terminal: surroundings.terminal,
            stdout: &mut surroundings.stdout,
        };
        let report = match context.opening.config.identity.profile {
            Profile::Service if command.needs_hub() => {
                Box::pin(as_bearer(token, command, &mut context)).await?
            }
            _ => Box::pin(commands::dispatch(command, &mut context)).await?,
        };
        Ok(Done::Here(report))
    });
    // What is waited for in vain, for example a broker that does not answer, must not keep the process.
    runtime.shutdown_timeout(LEAVING);
    done
}

/// Does a command in the service profile: as far as the bearer of the token may.
async fn as_bearer(
    token: Option<&str>,
    command: Command,
    context: &mut Context<'_>,
) -> Result<Report, Failure> {
    let verifier = crate::serve::outside_verifier(&context.opening)?;
    let token = token.ok_or(IdentityError::Missing)?;
    let principal = verifier.principal(token).await?;
    let hub = Box::pin(Hub::open(&context.opening)).await?;
    let report = dispatch_over(&hub, Some(principal), command, context).await?;
    context.opening.shared = None;
    hub.close().await;
    Ok(report)
}

/// Does a command over a hub that is open, as far as `principal` may; none: whoever holds the data directory.
async fn dispatch_over(
    hub: &Hub,
    principal: Option<Principal>,
    command: Command,
    context: &mut Context<'_>,
) -> Result<Report, Failure> {
    let hub = match &principal {
        Some(principal) => hub.acting_as(&principal.name),
        None => hub.acting_as(hub.principal()),
    };
    if let Some(principal) = &principal
        && let Err(refusal) = authorise(principal, &hub, &command).await
    {
        return Err(match commands::access(&hub, principal, &command).await? {
            Some(asked) => hub.refused(asked, refusal).await,
            None => refusal,
        });
    }
    context.opening.shared = Some(hub);
    context.principal = principal;
    Box::pin(commands::dispatch(command, context)).await
}

/// A command line that came over the socket of the service.
pub(crate) struct Forwarded<'a> {
    /// The arguments, the program's name first.
    pub arguments: Vec<OsString>,
    /// The working directory of whoever typed it.
    pub directory: PathBuf,
    /// Who that is; none: whoever holds the data directory. Or why that cannot be said.
    pub principal: Result<Option<Principal>, Failure>,
    /// Where an answer goes that is too large to be held.
    pub rows: &'a mut dyn Outlet,
}

/// Runs a command line over the hub that this process has open; its exit code.
pub(crate) async fn run_over(
    hub: &Hub,
    opening: Opening,
    line: Forwarded<'_>,
    surroundings: &mut Surroundings<'_>,
) -> u8 {
    let json = wants_json(&line.arguments);
    let result = match Cli::try_parse_from(&line.arguments) {
        Err(error) => explained(&error),
        Ok(cli) if !cli.command.needs_hub() => {
            Err(ProgramError::NotWhileServing("this command").into())
        }
        // The service delivers by itself, one delivery of a subscription at a time.
        Ok(cli) if cli.command.delivers() => {
            Err(ProgramError::NotWhileServing("subscription deliver").into())
        }
        Ok(mut cli) => {
            cli.command.resolve(&line.directory);
            let mut context = Context {
                opening,
                principal: None,
                json: cli.json,
                terminal: false,
                stdout: line.rows,
            };
            match line.principal {
                Ok(principal) => dispatch_over(hub, principal, cli.command, &mut context).await,
                Err(failure) => Err(failure),
            }
        }
    };
    end(result, json, surroundings)
}

fn runtime() -> Result<Runtime, ProgramError> {
    let mut builder = Builder::new_multi_thread();
    builder
        .enable_all()
        .build()
        .map_err(|error| ProgramError::CannotStart(error.to_string()))
}

/// A write beyond a file-size limit kills a process that does not look at the signal; one that does gets an error,
/// which every store of the hub answers like a full disk.
fn survive_full_disks() -> Option<Signal> {
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).ok()
}

/// What clap has to say: help is an answer, everything else wrong usage.
fn explained(error: &clap::Error) -> Result<Report, Failure> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp => Ok(Report::new(json!({ "help": text }), text.trim_end())),
        ErrorKind::DisplayVersion => Ok(Report::new(
            json!({ "version": env!("CARGO_PKG_VERSION") }),
            text.trim_end(),
        )),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let failure =
                ProgramError::BadUsage("a command is missing: see `qihui --help`".to_owned());
            Err(Failure::from(failure).with_help(&text))
        }
        _ => {
            // The first paragraph says what is wrong; tips and usage follow.
            let first = text.split("\n\n").next().unwrap_or_default();
            let words = first.split_whitespace().collect::<Vec<_>>().join(" ");
            let words = words.strip_prefix("error: ").unwrap_or(&words).to_owned();
            Err(ProgramError::BadUsage(format!("{words}: see --help")).into())
        }
    }
}

fn say(report: &Report, json: bool, surroundings: &mut Surroundings<'_>) -> io::Result<()> {
    for note in &report.notes {
        writeln!(surroundings.stderr, "{note}")?;
    }
    if json {
        match &report.document {
            Some(document) => writeln!(surroundings.stdout, "{document}"),
            None => print(&report.json, surroundings),
        }
    } else if report.text.is_empty() {
        Ok(())
    } else {
        writeln!(surroundings.stdout, "{}", report.text)
    }
}

fn complain(failure: &Failure, json: bool, surroundings: &mut Surroundings<'_>) -> io::Result<()> {
    for line in failure.details() {
        writeln!(surroundings.stderr, "{line}")?;
    }
    writeln!(surroundings.stderr, "{failure}")?;
    if json {
        print(&failure.json(), surroundings)
    } else {
        Ok(())
    }
}

fn print(document: &Value, surroundings: &mut Surroundings<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *surroundings.stdout, document)?;
    writeln!(surroundings.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_recognised_before_the_end_of_options() {
        let line = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&line(&["qihui", "frobnicate", "--json"])));
        assert!(!wants_json(&line(&["qihui", "query", "--", "--json"])));
    }
}
