//! The SQL of the ledger on SQLite, and nothing but SQL: every statement is here, every rule is elsewhere.

pub(crate) mod agreements;
pub(crate) mod consents;
pub(crate) mod events;
pub(crate) mod grants;
pub(crate) mod holdings;
pub(crate) mod numbers;
pub(crate) mod parties;
pub(crate) mod statistics;

use std::{fs::OpenOptions, io::ErrorKind, path::Path, time::Duration};

use sqlx::{
    ConnectOptions, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::error::{LedgerError, Result};

/// The format of the ledger that this program writes: how many of [`MIGRATIONS`] there are.
const FORMAT: u32 = 3;
/// What makes a ledger of format n out of one of format n - 1. Never edited once released.
const MIGRATIONS: [&str; FORMAT as usize] = [
    include_str!("../../migrations/0001_ledger.sql"),
    include_str!("../../migrations/0002_statistics.sql"),
    include_str!("../../migrations/0003_holdings.sql"),
];
/// How long a connection waits for another one to finish writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How a ledger file is opened: write-ahead log, and every commit durable before it returns.
pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .statement_cache_capacity(64)
        .disable_statement_logging()
}

/// Opens the file, creating it where there is none, and brings it to the present format.
pub(crate) async fn open(path: &Path) -> Result<SqliteConnection> {
    create(path)?;
    let mut connection = options(path).connect().await?;
    let format: u32 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut connection)
        .await?;
    if format > FORMAT {
        return Err(LedgerError::NewerFormat {
            found: format,
            known: FORMAT,
        });
    }
    if format < FORMAT {
        migrate(&mut connection).await?;
    }
    Ok(connection)
}

/// Opens a file that another process owns, for reading. It must have the present format.
pub(crate) async fn follow(path: &Path) -> Result<SqliteConnection> {
    let mut connection = options(path).read_only(true).connect().await?;
    let format: u32 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut connection)
        .await?;
    match format {
        FORMAT => Ok(connection),
        found if found > FORMAT => Err(LedgerError::NewerFormat {
            found,
            known: FORMAT,
        }),
        _ => Err(LedgerError::Corrupt(
            "it is of an older format, which only its owner can renew".to_owned(),
        )),
    }
}

/// Creates an empty file that only its owner can read, where there is none: the files beside it take after it.
fn create(path: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => {
            let reason = error.to_string();
            Err(LedgerError::Store {
                doing: "created",
                reason,
                source: Some(Box::new(error)),
            })
        }
    }
}

async fn migrate(connection: &mut SqliteConnection) -> Result<()> {
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut *connection)
        .await?;
    // Another process may have been first.
    let format: u32 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    for migration in MIGRATIONS.into_iter().skip(format as usize) {
        sqlx::raw_sql(migration).execute(&mut *connection).await?;
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "PRAGMA user_version = {FORMAT}"
    )))
    .execute(&mut *connection)
    .await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

/// A value of the store in the type it must fit.
pub(crate) fn fit<T, U: TryFrom<T>>(value: T, what: &str) -> Result<U> {
    U::try_from(value).map_err(|_| LedgerError::Corrupt(format!("{what} is out of range")))
}

/// A document of the store.
pub(crate) fn parsed<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| LedgerError::Corrupt(format!("{what} cannot be read")))
}

/// An identifier of the store.
pub(crate) fn named<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse()
        .map_err(|_| LedgerError::Corrupt(format!("{what} is malformed")))
}

/// A hash of the store.
pub(crate) fn hash(bytes: &[u8]) -> Result<[u8; 32]> {
    fit(bytes, "a hash")
}
