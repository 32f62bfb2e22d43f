//! What can go wrong with a query, said without a value of any row.

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use qihui_catalog::{Coded, DatasetId, Kind, OrgId, PurposeCode, TopicName};
use qihui_warehouse::WarehouseError;

use crate::mutations::{Mutation, mutated};

/// What whoever asks hears of a table that cannot be read. Names and sizes of files are made by rows of everybody, so which
/// file it is and what is wrong with it stands in the diagnostics alone.
const UNREADABLE: &str =
    "a data file cannot be read; the operator finds out more in the diagnostics of the hub";

/// Why a query gave no answer, or stopped giving one.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is not one SELECT statement.
    #[error("cannot read the SQL: {message}")]
    BadSql {
        /// The parser's or planner's words, about the statement only.
        message: String,
    },
    /// The statement uses what a gated query may not use.
    #[error("{what} is not allowed in a query; see `docs/errors/NotAllowed.md` for what is")]
    NotAllowed {
        /// The operator, function or statement.
        what: String,
    },
    /// No contract has this name.
    #[error("there is no dataset `{name}`; `qihui catalog list` shows what there is")]
    UnknownDataset {
        /// The name in the statement.
        name: String,
    },
    /// The organisation has no agreement for the dataset and it is not open data.
    #[error(
        "dataset `{dataset}` is in no agreement of `{org}` for `{purpose}`; ask the data authority for one"
    )]
    DatasetNotInAgreement {
        /// The dataset.
        dataset: DatasetId,
        /// The organisation.
        org: OrgId,
        /// The purpose.
        purpose: PurposeCode,
    },
    /// The dataset has no such column.
    #[error(
        "no table of this query has a column `{column}`; `qihui catalog show` lists the columns of a dataset"
    )]
    UnknownColumn {
        /// The name in the statement.
        column: String,
    },
    /// The column exists, and no agreement opens it.
    #[error(
        "column `{column}` of `{dataset}` is not in your agreement; ask the data authority to add it for this purpose"
    )]
    ColumnNotInAgreement {
        /// The dataset.
        dataset: DatasetId,
        /// The column.
        column: String,
    },
    /// A statement over a dataset that gives figures only, of a form that is not accepted.
    #[error(
        "figures about groups are told of simple statements only, not of {what}; see docs/statistics.md"
    )]
    StatisticNotAllowed {
        /// What is not accepted, and what to write.
        what: String,
    },
    /// Figures are about one whole period that is over.
    #[error("the period of the figures: {reason}")]
    StatisticPeriodRefused {
        /// What is wrong and what to write.
        reason: String,
    },
    /// As many different questions were asked of a period as may be.
    #[error(
        "{limit} different questions were asked of this period already, and there can be no more; ask one of them again"
    )]
    StatisticBudgetSpent {
        /// The limit.
        limit: usize,
    },
    /// The rows that the figures of a period are made of cannot be read any more.
    #[error(
        "the version of `{dataset}` that the figures of this period are made of is no longer kept; nothing more can be told of it"
    )]
    StatisticEditionGone {
        /// The dataset.
        dataset: DatasetId,
    },
    /// The contract in force was never recorded in the log.
    #[error(
        "the contract of `{dataset}` (version {version}) is not recorded in the log; run `qihui catalog check`"
    )]
    ContractNotRecorded {
        /// The dataset.
        dataset: DatasetId,
        /// Version of the contract.
        version: String,
    },
    /// A product's table was made by other rules than those in force.
    #[error(
        "the product `{dataset}` is not built by the version that is recorded; run `qihui pipeline run {dataset}`"
    )]
    ProductNotBuilt {
        /// The product.
        dataset: DatasetId,
    },
    /// No topic has this name.
    #[error("there is no topic `{name}`; `qihui topic list` shows what there is")]
    UnknownTopic {
        /// The name.
        name: TopicName,
    },
    /// The topic in force was never recorded in the log.
    #[error(
        "version {version} of the topic `{topic}` is not recorded in the log; run `qihui catalog check --record`"
    )]
    TopicNotRecorded {
        /// The topic.
        topic: TopicName,
        /// Its version.
        version: String,
    },
    /// An answer under VIEW was asked for in a form that is made for keeping.
    #[error(
        "a look at a screen takes a table or ndjson, no {what}: ask with action `query`, or `store` to keep it"
    )]
    NotForViewing {
        /// The form.
        what: &'static str,
    },
    /// An answer under VIEW has more rows than a screen needs.
    #[error(
        "a look at a screen has at most {limit} rows: narrow the statement, or ask with action `query`"
    )]
    TooLargeToView {
        /// The limit.
        limit: u64,
    },
    /// A division by zero on a visible value.
    #[error("division by zero; guard the divisor with nullif(…, 0)")]
    DivisionByZero,
    /// A cast that a visible value does not survive.
    #[error("a value cannot be cast to the type asked for; use try_cast to get null instead")]
    CastFailed,
    /// Arithmetic left the range of its type.
    #[error("arithmetic overflow; cast to a wider type first")]
    Overflow,
    /// A function refused a visible value.
    #[error("a function refused one of its arguments; check the arguments' ranges and formats")]
    EvaluationFailed,
    /// The query's memory is used up.
    #[error(
        "the query needs more than its memory of {limit} bytes; narrow it or aggregate earlier"
    )]
    OutOfMemory {
        /// The limit.
        limit: u64,
    },
    /// The query's spill space is used up.
    #[error(
        "the query needs more than its spill space of {limit} bytes; narrow it or aggregate earlier"
    )]
    OutOfSpill {
        /// The limit.
        limit: u64,
    },
    /// A spill file cannot be made, written or read.
    #[error(
        "what the query put aside cannot be kept: {message}; the operator looks at the spill folder"
    )]
    SpillFailed {
        /// What the system says; names no value.
        message: String,
    },
    /// As many queries wait as may.
    #[error("{limit} queries are waiting for their turn already; try again in a moment")]
    QueueFull {
        /// The limit that is met: of the organisation, or of all.
        limit: usize,
    },
    /// The query did not get its turn in time.
    #[error("the query waited {seconds} s for its turn; try again in a moment")]
    WaitedTooLong {
        /// The limit.
        seconds: u64,
    },
    /// The statement is too long.
    #[error("the statement has more than {limit} bytes; shorten it")]
    StatementTooLong {
        /// The limit.
        limit: usize,
    },
    /// The statement nests too deeply.
    #[error(
        "the statement nests too deeply; write chains of operators as lists, and nested queries with WITH"
    )]
    StatementTooDeep,
    /// The statement grows too large when it is planned.
    #[error("the statement comes to more than {limit} {what}; split it")]
    StatementTooLarge {
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A function was given what would take it too long, or make too long a value.
    #[error("{what} may have at most {limit} bytes; shorten what it is made of")]
    ValueTooLong {
        /// What is too long.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// More rows passed the gate than a query may read.
    #[error("the query reads more than {limit} rows it is allowed to see; narrow it")]
    TooManyRows {
        /// The limit.
        limit: u64,
    },
    /// The answer is larger than a query may return.
    #[error("the answer has more than {limit} bytes; narrow the query")]
    TooManyBytes {
        /// The limit.
        limit: u64,
    },
    /// The deadline passed.
    #[error("the query ran longer than {seconds} s; narrow it")]
    TimedOut {
        /// The limit.
        seconds: u64,
    },
    /// Something that the query relied on was taken away while it ran.
    #[error("a consent, agreement or contract changed while the query ran; run it again")]
    ConsentChanged,
    /// A worker was sent what it does not run.
    #[error("this worker does not run the plan: {reason}; plan again, or run it in the hub")]
    PlanRefused {
        /// Why.
        reason: &'static str,
    },
    /// The plan has no form in which another process could run it.
    #[error("the plan cannot be sent to a worker: {what} has no such form; run it in the hub")]
    PlanNotSendable {
        /// What it is about.
        what: &'static str,
    },
    /// A worker cannot tell whether what it works on still stands.
    #[error(
        "this worker has not heard for {seconds} s whether what it reads still stands, so nothing leaves it; repeat"
    )]
    LeaseUnavailable {
        /// How long it goes on without.
        seconds: u64,
    },
    /// The log could not record the access, so nothing was released.
    #[error("the access cannot be recorded, so nothing is released: {message}")]
    LogUnavailable {
        /// What the log says.
        message: String,
        /// The log's own code.
        code: &'static str,
    },
    /// The decision refused the request.
    #[error("{0}")]
    Refused(Box<dyn Coded + Send + Sync>),
    /// The ledger could not record what was about to be released.
    #[error("{message}")]
    LedgerFailed {
        /// What the ledger says.
        message: String,
        /// The ledger's own code.
        code: &'static str,
    },
    /// The warehouse could not be read.
    #[error("the warehouse cannot be read: {message}")]
    Warehouse {
        /// What is wrong, without the name of a file.
        message: String,
    },
    /// The answer could not be written.
    #[error("the answer cannot be written: {message}")]
    Output {
        /// What the writer says.
        message: String,
    },
    /// A defect of the hub.
    #[error("the query engine failed; the operator finds the cause in the log of the hub ({what})")]
    Internal {
        /// A fixed word for the place.
        what: &'static str,
    },
}

impl Coded for QueryError {
    fn code(&self) -> &'static str {
        match self {
            Self::BadSql { .. } => "BadSql",
            Self::NotAllowed { .. } => "NotAllowed",
            Self::UnknownDataset { .. } => "UnknownDataset",
            Self::DatasetNotInAgreement { .. } => "DatasetNotInAgreement",
            Self::UnknownColumn { .. } => "UnknownColumn",
            Self::ColumnNotInAgreement { .. } => "ColumnNotInAgreement",
            Self::StatisticNotAllowed { .. } => "StatisticNotAllowed",
            Self::StatisticPeriodRefused { .. } => "StatisticPeriodRefused",
            Self::StatisticBudgetSpent { .. } => "StatisticBudgetSpent",
            Self::StatisticEditionGone { .. } => "StatisticEditionGone",
            Self::ContractNotRecorded { .. } => "ContractNotRecorded",
            Self::ProductNotBuilt { .. } => "ProductNotBuilt",
            Self::UnknownTopic { .. } => "UnknownTopic",
            Self::TopicNotRecorded { .. } => "TopicNotRecorded",
            Self::NotForViewing { .. } => "NotForViewing",
            Self::TooLargeToView { .. } => "TooLargeToView",
            Self::DivisionByZero => "DivisionByZero",
            Self::CastFailed => "CastFailed",
            Self::Overflow => "Overflow",
            Self::EvaluationFailed => "EvaluationFailed",
            Self::OutOfMemory { .. } => "OutOfMemory",
            Self::OutOfSpill { .. } => "OutOfSpill",
            Self::SpillFailed { .. } => "SpillFailed",
            Self::QueueFull { .. } => "QueueFull",
            Self::WaitedTooLong { .. } => "WaitedTooLong",
            Self::StatementTooLong { .. } => "StatementTooLong",
            Self::StatementTooDeep => "StatementTooDeep",
            Self::StatementTooLarge { .. } => "StatementTooLarge",
            Self::ValueTooLong { .. } => "ValueTooLong",
            Self::TooManyRows { .. } => "TooManyRows",
            Self::TooManyBytes { .. } => "TooManyBytes",
            Self::TimedOut { .. } => "TimedOut",
            Self::ConsentChanged => "ConsentChanged",
            Self::PlanRefused { .. } => "PlanRefused",
            Self::PlanNotSendable { .. } => "PlanNotSendable",
            Self::LeaseUnavailable { .. } => "LeaseUnavailable",
            Self::LogUnavailable { .. } => "LogUnavailable",
            Self::Refused(error) => error.code(),
            Self::LedgerFailed { code, .. } => code,
            Self::Warehouse { .. } => "WarehouseUnreadable",
            Self::Output { .. } => "OutputFailed",
            Self::Internal { .. } => "InternalError",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::LogUnavailable { .. }
            | Self::PlanRefused { .. }
            | Self::LeaseUnavailable { .. }
            | Self::ContractNotRecorded { .. }
            | Self::StatisticBudgetSpent { .. }
            | Self::StatisticEditionGone { .. }
            | Self::ProductNotBuilt { .. }
            | Self::TopicNotRecorded { .. } => Kind::Denied,
            Self::Refused(error) => error.kind(),
            Self::NotForViewing { .. } => Kind::Usage,
            _ => Kind::Failed,
        }
    }
}

impl QueryError {
    /// A table that cannot be read, said without what the warehouse says.
    pub(crate) fn unreadable(error: &WarehouseError) -> Self {
        tracing::error!(code = error.code(), %error, "a table cannot be read");
        Self::unreadable_file()
    }

    fn unreadable_file() -> Self {
        Self::Warehouse {
            message: UNREADABLE.to_owned(),
        }
    }

    /// What a failure while planning means. Planning sees the statement and schemas, never rows, so the engine's
    /// own words may be passed on.
    pub fn from_planning(error: &DataFusionError) -> Self {
        if let Some(own) = own_error(error) {
            return own;
        }
        if is_bad_pattern(error) {
            return Self::EvaluationFailed;
        }
        match error.find_root() {
            DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
                SchemaError::FieldNotFound { field, .. } => Self::UnknownColumn {
                    column: field.name.clone(),
                },
                other => Self::BadSql {
                    message: first_line(&other.to_string()),
                },
            },
            DataFusionError::SQL(parser, _) => match parser.as_ref() {
                ParserError::RecursionLimitExceeded => Self::StatementTooDeep,
                other => Self::BadSql {
                    message: first_line(&other.to_string()),
                },
            },
            DataFusionError::NotImplemented(what) => Self::NotAllowed {
                what: format!("what the engine does not know ({})", in_words(what)),
            },
            DataFusionError::Plan(what) => Self::BadSql {
                message: first_line(what),
            },
            // Where a scan is planned, the ends of its files are read.
            DataFusionError::ArrowError(..)
            | DataFusionError::Execution(_)
            | DataFusionError::ResourcesExhausted(_)
            | DataFusionError::ObjectStore(_)
            | DataFusionError::ParquetError(_)
            | DataFusionError::IoError(_) => Self::from_running(error),
            _ => Self::Internal { what: "planning" },
        }
    }

    /// What a failure while running means. Only its kind is passed on: the engine's words may quote a value.
    pub fn from_running(error: &DataFusionError) -> Self {
        if let Some(own) = own_error(error) {
            return own;
        }
        if mutated(Mutation::ErrorTexts) {
            return Self::Warehouse {
                message: error.to_string(),
            };
        }
        match error.find_root() {
            DataFusionError::ArrowError(arrow, _) => Self::from_kernel(arrow),
            DataFusionError::ResourcesExhausted(_) => Self::OutOfMemory { limit: 0 },
            DataFusionError::Execution(text) if mentions(text, &["by zero"]) => {
                Self::DivisionByZero
            }
            DataFusionError::Execution(text) if mentions(text, &["overflow"]) => Self::Overflow,
            DataFusionError::Execution(text) if mentions(text, &["cast", "parse"]) => {
                Self::CastFailed
            }
            DataFusionError::Execution(_)
            | DataFusionError::Plan(_)
            | DataFusionError::NotImplemented(_) => Self::EvaluationFailed,
            DataFusionError::ObjectStore(_)
            | DataFusionError::ParquetError(_)
            | DataFusionError::IoError(_) => Self::unreadable_file(),
            _ => Self::Internal { what: "running" },
        }
    }

    fn from_kernel(error: &ArrowError) -> Self {
        match error {
            ArrowError::DivideByZero => Self::DivisionByZero,
            ArrowError::ArithmeticOverflow(_) => Self::Overflow,
            ArrowError::CastError(_) | ArrowError::ParseError(_) => Self::CastFailed,
            ArrowError::InvalidArgumentError(text) | ArrowError::ComputeError(text)
                if mentions(text, &["overflow", "too large", "precision"]) =>
            {
                Self::Overflow
            }
            ArrowError::InvalidArgumentError(_) | ArrowError::ComputeError(_) => {
                Self::EvaluationFailed
            }
            ArrowError::ParquetError(_) | ArrowError::IoError(..) => Self::unreadable_file(),
            ArrowError::ExternalError(inner) => match inner.downcast_ref::<DataFusionError>() {
                Some(inner) => Self::from_running(inner),
                None => Self::EvaluationFailed,
            },
            _ => Self::Internal { what: "a kernel" },
        }
    }
}

/// An error of the gate itself that travelled through the engine.
fn own_error(error: &DataFusionError) -> Option<QueryError> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(own) = current.downcast_ref::<QueryError>() {
            return own.repeated();
        }
        source = match current.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::ArrowError(inner, _)) => match inner.as_ref() {
                ArrowError::ExternalError(inner) => Some(inner.as_ref()),
                ArrowError::IoError(_, inner) => inside(inner),
                _ => None,
            },
            Some(DataFusionError::IoError(inner)) => inside(inner),
            _ => current.source(),
        };
    }
    None
}

/// What an error of a spill file holds.
fn inside(error: &std::io::Error) -> Option<&(dyn std::error::Error + 'static)> {
    error.get_ref().map(|inner| inner as _)
}

impl QueryError {
    /// A copy of those errors that the gate raises inside a plan.
    fn repeated(&self) -> Option<Self> {
        match self {
            Self::TooManyRows { limit } => Some(Self::TooManyRows { limit: *limit }),
            Self::NotAllowed { what } => Some(Self::NotAllowed { what: what.clone() }),
            Self::ConsentChanged => Some(Self::ConsentChanged),
            Self::PlanRefused { reason } => Some(Self::PlanRefused { reason }),
            Self::PlanNotSendable { what } => Some(Self::PlanNotSendable { what }),
            Self::LeaseUnavailable { seconds } => {
                Some(Self::LeaseUnavailable { seconds: *seconds })
            }
            Self::Warehouse { message } => Some(Self::Warehouse {
                message: message.clone(),
            }),
            Self::Internal { what } => Some(Self::Internal { what }),
            Self::OutOfMemory { limit } => Some(Self::OutOfMemory { limit: *limit }),
            Self::OutOfSpill { limit } => Some(Self::OutOfSpill { limit: *limit }),
            Self::SpillFailed { message } => Some(Self::SpillFailed {
                message: message.clone(),
            }),
            Self::StatementTooLarge { what, limit } => Some(Self::StatementTooLarge {
                what,
                limit: *limit,
            }),
            Self::ValueTooLong { what, limit } => Some(Self::ValueTooLong {
                what,
                limit: *limit,
            }),
            Self::TimedOut { seconds } => Some(Self::TimedOut { seconds: *seconds }),
            Self::StatisticBudgetSpent { limit } => {
                Some(Self::StatisticBudgetSpent { limit: *limit })
            }
            Self::LedgerFailed { message, code } => Some(Self::LedgerFailed {
                message: message.clone(),
                code,
            }),
            _ => None,
        }
    }
}

/// Whether the engine found a pattern that is none.
fn is_bad_pattern(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::Context(what, inner) => what == "Invalid regex" || is_bad_pattern(inner),
        DataFusionError::Diagnostic(_, inner) => is_bad_pattern(inner),
        DataFusionError::Shared(inner) => is_bad_pattern(inner),
        _ => false,
    }
}

/// What the engine says without the code that it quotes.
fn in_words(text: &str) -> String {
    let words = text.split(['{', '(']).next().unwrap_or_default();
    first_line(words.trim_end())
}

fn mentions(text: &str, words: &[&str]) -> bool {
    let text = text.to_ascii_lowercase();
    words.iter().any(|word| text.contains(word))
}

fn first_line(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(400)
        .collect()
}
