//! What can be typed: the command line of `qihui`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};
use qihui_catalog::{Action, ConsentId, DatasetId, FeedName, OrgId, PurposeCode, TopicName};
use qihui_consent::ledger::{Delivery, OrganisationKind};
use qihui_query::formats::Format;
use serde::Deserialize;

use crate::identity::Role;

/// Exchange data about enterprises, within what each enterprise has authorised.
///
/// Departments' files become tables (feed), the data authority agrees with organisations what they may ask for
/// (agreement), enterprises grant it (consent), organisations ask SQL (query), and everybody can check who read what
/// (audit). `qihui demo` shows all of it on an empty machine.
#[derive(Debug, Parser)]
#[command(
    name = "qihui",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 denied. Every error code has a page in docs/errors."
)]
pub struct Cli {
    /// The hub's data directory
    #[arg(
        long,
        global = true,
        env = "QIHUI_DATA_DIR",
        default_value = "qihui-data",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// The configuration file [default: qihui.toml in the data directory]
    #[arg(long, global = true, env = "QIHUI_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The file with the token that says who is asking, where the hub needs one
    #[arg(long, global = true, env = "QIHUI_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print exactly one JSON document on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on stderr about what happens; twice: much more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an empty hub: configuration, keys, contracts, ledger and log
    Init(InitArgs),
    /// Generate feeds of synthetic enterprises, in their source formats
    Synth(SynthArgs),
    /// Take departments' files into the tables
    #[command(subcommand)]
    Feed(FeedCommand),
    /// Look at datasets, their contracts and purposes
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Data products: what is made of the datasets, and how
    #[command(subcommand)]
    Pipeline(PipelineCommand),
    /// Organisations that may ask for data
    #[command(subcommand)]
    Org(OrgCommand),
    /// What the data authority agreed with organisations: the first key
    #[command(subcommand)]
    Agreement(AgreementCommand),
    /// Who may sign for an enterprise
    #[command(subcommand)]
    Signatory(SignatoryCommand),
    /// What enterprises granted: the second key
    #[command(subcommand)]
    Consent(ConsentCommand),
    /// Ask SQL over what an organisation may see for a purpose
    Query(QueryArgs),
    /// What organisations were given to keep, and what of it has to be deleted
    #[command(subcommand)]
    Holding(HoldingCommand),
    /// The tamper-evident log: who read what, and the proof of it
    #[command(subcommand)]
    Audit(AuditCommand),
    /// What organisations can subscribe to
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Who is brought which topic, with every change of it
    #[command(subcommand)]
    Subscription(SubscriptionCommand),
    /// Make the key pair of a signatory, outside the hub
    Keygen(KeygenArgs),
    /// Give others tokens, with which they use the API of this hub
    #[command(subcommand)]
    Token(TokenCommand),
    /// Serve the API, and the command line of this machine, until stopped
    Serve(ServeArgs),
    /// Show the whole story on synthetic data, from feeds to a caught forgery
    Demo(DemoArgs),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// How the log names itself in its checkpoints, a host and path by custom [default: one drawn at random]
    #[arg(long, value_name = "NAME")]
    pub origin: Option<String>,
}

/// Arguments of `synth`.
#[derive(Debug, Args)]
pub struct SynthArgs {
    /// The folder for the files
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How many enterprises [default: 1000, or every row of the registry]
    #[arg(long, value_name = "N")]
    pub enterprises: Option<u32>,
    /// How many months, ending with June 2026
    #[arg(long, value_name = "M", default_value_t = 12)]
    pub months: u32,
    /// Seed of all draws: equal options give equal bytes
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Share of records with something wrong, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub ugly: f64,
    /// Take the enterprises from a registry instead: a CSV file with uscc, ent_name and est_date
    #[arg(long, value_name = "CSV")]
    pub registry: Option<PathBuf>,
}

/// `feed …`
#[derive(Debug, Subcommand)]
pub enum FeedCommand {
    /// List the feeds
    List,
    /// Say what would become of a file's records, without taking them in
    Check {
        /// The file
        file: PathBuf,
        /// The feed it belongs to
        #[arg(long, value_name = "NAME")]
        feed: FeedName,
    },
    /// Take files or messages in: every record lands, is known already, or goes to quarantine
    Run(FeedRunArgs),
    /// List the records of a feed that wait in quarantine, without their content
    Quarantine {
        /// The feed
        name: FeedName,
        /// List at most so many
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
    },
}

/// Arguments of `feed run`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["name", "all"])))]
pub struct FeedRunArgs {
    /// The feed
    pub name: Option<FeedName>,
    /// Every feed that has a file in the folder
    #[arg(long)]
    pub all: bool,
    /// A file, or a folder whose files are picked by each feed's name pattern [default: inbox in the data directory]
    #[arg(long, value_name = "PATH")]
    pub from: Option<PathBuf>,
    /// Do everything but write
    #[arg(long)]
    pub dry_run: bool,
    /// Go on reading a topic until told to end (SIGTERM or Ctrl-C)
    #[arg(long, conflicts_with_all = ["all", "from", "dry_run"])]
    pub follow: bool,
    /// Read a topic again from its earliest message, though it is another one than before, or messages are gone
    #[arg(long, conflicts_with_all = ["all", "from"])]
    pub from_earliest: bool,
}

/// `catalog …`
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// List the datasets
    List,
    /// Show a dataset's contract, or the tree of `purposes`
    Show {
        /// The dataset, or the word `purposes`
        dataset: DatasetId,
    },
    /// Check contracts, feeds, models and purposes, and say which versions are not yet in the log
    Check {
        /// Record new versions in the log, so that they take effect
        #[arg(long)]
        record: bool,
    },
}

/// `pipeline …`
#[derive(Debug, Subcommand)]
pub enum PipelineCommand {
    /// List the products
    List,
    /// Build products: what changed since the last build
    Run(PipelineRunArgs),
    /// Check the models, and show where the levels of their columns come from
    Check {
        /// Only this model
        name: Option<DatasetId>,
    },
}

/// Arguments of `pipeline run`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["name", "all"])))]
pub struct PipelineRunArgs {
    /// The product
    pub name: Option<DatasetId>,
    /// Every product, each after those it is made from
    #[arg(long)]
    pub all: bool,
    /// Build everything anew, whatever changed
    #[arg(long)]
    pub whole: bool,
}

/// `org …`
#[derive(Debug, Subcommand)]
pub enum OrgCommand {
    /// Register an organisation
    Add {
        /// Its identifier
        id: OrgId,
        /// Its name
        #[arg(long)]
        name: String,
        /// What it is
        #[arg(long)]
        kind: Kind,
        /// A purpose it may ask for even without an agreement, to read public data; may be repeated
        #[arg(long, value_name = "CODE")]
        purpose: Vec<PurposeCode>,
    },
    /// List the organisations
    List,
}

/// What an organisation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A department of the government
    Department,
    /// A bank
    Bank,
    /// A service
    Service,
}

impl Command {
    /// Whether the command is about a hub that has to be open.
    #[must_use]
    pub fn needs_hub(&self) -> bool {
        !matches!(
            self,
            Self::Init(_) | Self::Synth(_) | Self::Keygen(_) | Self::Demo(_) | Self::Serve(_)
        )
    }

    /// Whether the command delivers a subscription, which a service does by itself.
    #[must_use]
    pub fn delivers(&self) -> bool {
        matches!(self, Self::Subscription(SubscriptionCommand::Deliver(_)))
    }

    /// Makes every path in it one from `directory`, the working directory of whoever typed it.
    pub fn resolve(&mut self, directory: &std::path::Path) {
        // A new command with a path in it belongs here: no arm may be a wildcard.
        let paths: Vec<&mut PathBuf> = match self {
            Self::Init(_)
            | Self::Demo(_)
            | Self::Serve(_)
            | Self::Token(_)
            | Self::Topic(TopicCommand::List)
            | Self::Subscription(_)
            | Self::Holding(_)
            | Self::Catalog(
                CatalogCommand::List | CatalogCommand::Show { .. } | CatalogCommand::Check { .. },
            )
            | Self::Pipeline(_)
            | Self::Org(OrgCommand::Add { .. } | OrgCommand::List)
            | Self::Agreement(AgreementCommand::List)
            | Self::Feed(FeedCommand::List | FeedCommand::Quarantine { .. })
            | Self::Audit(
                AuditCommand::Checkpoint
                | AuditCommand::Proof { .. }
                | AuditCommand::Accesses { .. },
            ) => Vec::new(),
            Self::Synth(args) => vec![&mut args.out],
            Self::Keygen(args) => vec![&mut args.out],
            Self::Feed(FeedCommand::Check { file, .. })
            | Self::Topic(TopicCommand::Add { file })
            | Self::Agreement(AgreementCommand::Add { file }) => vec![file],
            Self::Feed(FeedCommand::Run(args)) => args.from.iter_mut().collect(),
            Self::Signatory(SignatoryCommand::Add { key, .. }) => vec![key],
            Self::Query(args) => args.output.iter_mut().collect(),
            Self::Audit(AuditCommand::Verify { checkpoint }) => checkpoint.iter_mut().collect(),
            Self::Consent(command) => command.paths(),
        };
        for path in paths {
            *path = directory.join(&path);
        }
    }
}

impl ConsentCommand {
    fn paths(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Request { file } => vec![file],
            Self::Sign { key, .. } => vec![key],
            Self::Pause(args) | Self::Resume(args) | Self::Withdraw(args) => {
                args.key.iter_mut().collect()
            }
            Self::Narrow { operation, file } => operation.key.iter_mut().chain([file]).collect(),
            Self::Preview { .. } | Self::Show { .. } | Self::List { .. } => Vec::new(),
        }
    }
}

impl From<Kind> for OrganisationKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Department => Self::Department,
            Kind::Bank => Self::Bank,
            Kind::Service => Self::Service,
        }
    }
}

/// `agreement …`
#[derive(Debug, Subcommand)]
pub enum AgreementCommand {
    /// Add an agreement of the data authority with an organisation
    Add {
        /// The agreement, in YAML or JSON
        file: PathBuf,
    },
    /// List the agreements
    List,
}

/// `signatory …`
#[derive(Debug, Subcommand)]
pub enum SignatoryCommand {
    /// Register who may sign for an enterprise
    Add {
        /// The enterprise's unified social credit code
        uscc: String,
        /// The name the signatory signs as
        name: String,
        /// Its public key: an Ed25519 key in PEM, hexadecimal or base64
        #[arg(long, value_name = "PUB")]
        key: PathBuf,
    },
}

/// `consent …`
#[derive(Debug, Subcommand)]
pub enum ConsentCommand {
    /// Ask an enterprise for a consent; nothing is opened by asking
    Request {
        /// The request, in YAML or JSON
        file: PathBuf,
    },
    /// Show the exact columns and cells that a consent would open
    Preview {
        /// The consent
        id: ConsentId,
    },
    /// Give a consent, with the signature of a signatory
    Sign {
        /// The consent
        id: ConsentId,
        /// The name of the signatory
        #[arg(long = "as", value_name = "NAME")]
        signatory: String,
        /// The signatory's private key, kept outside the data directory
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Suspend a consent, at once
    Pause(OperationArgs),
    /// Resume a suspended consent
    Resume(OperationArgs),
    /// Take a consent back, at once and for ever
    Withdraw(OperationArgs),
    /// Replace a consent by one that opens less, at once
    Narrow {
        /// What it is about
        #[command(flatten)]
        operation: OperationArgs,
        /// What remains, in YAML or JSON: any of scope, actions, expires, max_uses, data_life_days
        file: PathBuf,
    },
    /// Show a consent with everything that happened to it
    Show {
        /// The consent
        id: ConsentId,
    },
    /// List consents
    List {
        /// Only those of an enterprise
        #[arg(long, value_name = "USCC")]
        subject: Option<String>,
        /// Only those to an organisation
        #[arg(long)]
        org: Option<OrgId>,
    },
}

/// A consent, and who acts on it.
#[derive(Debug, Args)]
pub struct OperationArgs {
    /// The consent
    pub id: ConsentId,
    /// Act as this signatory, with `--key` [default: act as the holder of the hub]
    #[arg(long = "as", value_name = "NAME", requires = "key")]
    pub signatory: Option<String>,
    /// The signatory's private key, kept outside the data directory
    #[arg(long, value_name = "FILE", requires = "signatory")]
    pub key: Option<PathBuf>,
}

/// Arguments of `query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The organisation that asks
    #[arg(long)]
    pub org: OrgId,
    /// What for
    #[arg(long, value_name = "CODE")]
    pub purpose: PurposeCode,
    /// An enterprise that is asked about, by its unified social credit code; may be repeated
    #[arg(long, value_name = "USCC")]
    pub subject: Vec<String>,
    /// What the answer is for
    #[arg(long, value_name = "ACTION", default_value = "query")]
    pub action: Doing,
    /// How the answer is written: table, csv, ndjson, parquet or arrow [default: table, ndjson with --json]
    #[arg(long, value_parser = clap::builder::ValueParser::new(format))]
    pub format: Option<Format>,
    /// Write the answer into a file, which appears once it is complete
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Use strict mode: slower, and equal down to the byte for equal visible rows
    #[arg(long)]
    pub strict: bool,
    /// One SELECT statement, or EXPLAIN and one
    // What is no text is refused where the refusal can be recorded.
    pub sql: OsString,
}

/// What an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// One named enterprise, looked at on a screen
    View,
    /// An analysis; nothing is kept
    Query,
    /// To be kept, as a recorded holding
    Store,
}

impl From<Doing> for Action {
    fn from(doing: Doing) -> Self {
        match doing {
            Doing::View => Self::View,
            Doing::Query => Self::Query,
            Doing::Store => Self::Store,
        }
    }
}

fn format(text: &str) -> Result<Format, String> {
    text.parse()
}

/// `holding …`
#[derive(Debug, Subcommand)]
pub enum HoldingCommand {
    /// List holdings, oldest first
    List {
        /// Only those with data of an enterprise, as it may see them
        #[arg(long, value_name = "USCC")]
        subject: Option<String>,
        /// Only those of an organisation
        #[arg(long)]
        org: Option<OrgId>,
        /// Only those of which something should have been deleted by now
        #[arg(long)]
        overdue: bool,
    },
    /// Show a holding, and what of it has to be deleted
    Show {
        /// The holding
        id: String,
    },
    /// State that what was due of a holding is deleted
    Delete {
        /// The holding
        id: String,
        /// What was deleted, where and how, in one line
        #[arg(long, value_name = "TEXT")]
        statement: String,
        /// All of it is deleted, whatever was due
        #[arg(long)]
        everything: bool,
    },
}

/// `audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Print the newest signed checkpoint; keep it elsewhere
    Checkpoint,
    /// Check every byte of the log, and that it continues a checkpoint kept elsewhere
    Verify {
        /// A checkpoint of this log that was kept elsewhere
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Prove that an entry is in the log
    Proof {
        /// The entry
        index: u64,
    },
    /// List who accessed an enterprise's data
    Accesses {
        /// The enterprise's unified social credit code
        uscc: String,
    },
}

/// `topic …`
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// List the topics
    List,
    /// Add a topic to the catalogue, or a new version of one
    Add {
        /// The topic, in YAML or JSON
        file: PathBuf,
    },
}

/// `subscription …`
#[derive(Debug, Subcommand)]
pub enum SubscriptionCommand {
    /// Subscribe an organisation to a topic
    Add(SubscriptionAddArgs),
    /// List the subscriptions
    List,
    /// Show a subscription and how far it was brought
    Show {
        /// The subscription
        id: String,
    },
    /// End a subscription; it delivers nothing more
    End {
        /// The subscription
        id: String,
    },
    /// Fetch the next page of a subscription that is delivered by pull
    Pull(PullArgs),
    /// Deliver a subscription by Kafka, until interrupted; `serve` does so by itself
    Deliver(DeliverArgs),
}

/// Arguments of `subscription add`.
#[derive(Debug, Args)]
pub struct SubscriptionAddArgs {
    /// The organisation that receives
    #[arg(long)]
    pub org: OrgId,
    /// The topic
    #[arg(long)]
    pub topic: TopicName,
    /// What for
    #[arg(long, value_name = "CODE")]
    pub purpose: PurposeCode,
    /// How it is delivered
    #[arg(long, value_name = "FORM", default_value = "pull")]
    pub delivery: Form,
}

/// How a subscription is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// The subscriber fetches pages
    Pull,
    /// The hub writes to a Kafka topic of the organisation's own
    Kafka,
}

impl From<Form> for Delivery {
    fn from(form: Form) -> Self {
        match form {
            Form::Pull => Self::Pull,
            Form::Kafka => Self::Kafka,
        }
    }
}

/// Arguments of `subscription pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The subscription
    pub id: String,
    /// The cursor that the last page gave as `next`: acknowledges that page
    #[arg(long)]
    pub cursor: Option<String>,
    /// Begin again: the page says so, and everything follows
    #[arg(long, conflicts_with = "cursor")]
    pub restart: bool,
    /// About so many events; the rows of one enterprise stay together
    #[arg(long, value_name = "N")]
    pub events: Option<usize>,
}

/// Arguments of `subscription deliver`.
#[derive(Debug, Args)]
pub struct DeliverArgs {
    /// The subscription
    pub id: String,
    /// Kafka brokers, `host:port` joined by commas [default: as configured]
    #[arg(long, value_name = "BROKERS")]
    pub brokers: Option<String>,
    /// End once the subscriber holds what it may see
    #[arg(long)]
    pub once: bool,
}

/// Arguments of `keygen`.
#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// The file for the private key; the public key goes beside it as FILE.pub
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Issue a token, and record that it was issued
    Issue(TokenIssueArgs),
}

/// Arguments of `token issue`.
#[derive(Debug, Args)]
pub struct TokenIssueArgs {
    /// What the bearer is: enterprise, analyst, subscriber, feed_owner, steward, auditor or operator; may be repeated
    #[arg(long, value_name = "ROLE", required = true)]
    pub role: Vec<Role>,
    /// The name of the bearer, one word, as the log will show it [default: drawn at random]
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// The organisation the bearer acts for
    #[arg(long)]
    pub org: Option<OrgId>,
    /// A purpose the bearer may ask for; may be repeated
    #[arg(long, value_name = "CODE")]
    pub purpose: Vec<PurposeCode>,
    /// An enterprise the bearer acts for; may be repeated
    #[arg(long, value_name = "USCC")]
    pub uscc: Vec<String>,
    /// The department whose datasets the bearer delivers
    #[arg(long, value_name = "NAME")]
    pub department: Option<String>,
    /// A feed that the bearer delivers besides; may be repeated
    #[arg(long, value_name = "FEED")]
    pub feed: Vec<FeedName>,
    /// How long the token holds, in seconds, or with a unit as in 90s, 15m, 8h, 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = clap::builder::ValueParser::new(seconds))]
    pub ttl: u64,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen [default: as configured]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<std::net::SocketAddr>,
}

/// A time in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a time: write 90s, 15m, 8h or 30d");
    let (number, factor) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(factor)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave the demonstration's hub in this folder [default: a folder that is removed afterwards]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
