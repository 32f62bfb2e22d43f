//! Requests that may be repeated: an `Idempotency-Key` on a mutating call makes it happen once.
//!
//! Promises: the first request with a key does the work and its answer is kept, durably, before it is given; a repeat by
//! the same principal of the same operation with the same body gets that answer, byte for byte; with another body it is
//! refused; while the first is being done, it is told so. A request that the service did not survive has an unknown
//! outcome, and says so. Answers that only say the service could not (5xx) are not kept.
//!
//! Format: SQLite, one table `answers`. Keys are kept as SHA-256 of principal, operation and key; answers for
//! `serve.answer_seconds`.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use qihui_audit::Clock;
use ring::digest::{Context, SHA256};
use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::ServeError;
use super::problem::Problem;

/// The header.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
const MAX_KEY: usize = 128;
/// The states of a request.
const RUNNING: i64 = 0;
const DONE: i64 = 1;
const LOST: i64 = 2;

/// The answer to a mutating call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, document: &Value) -> Self {
        Self {
            status,
            body: Bytes::from(document.to_string()),
        }
    }

    /// The content type of the answer.
    pub(crate) fn kind(&self) -> &'static str {
        if self.status.is_success() {
            "application/json"
        } else {
            "application/problem+json"
        }
    }
}

/// Answers that were given.
pub(crate) struct Answers {
    pool: SqlitePool,
    keep_ms: i64,
    clock: Arc<dyn Clock>,
}

/// A request that may be repeated.
pub(crate) struct Repeatable {
    /// Names principal, operation and key.
    name: Vec<u8>,
    /// Names what it asks.
    body: Vec<u8>,
}

impl Repeatable {
    /// What the headers say of a request, whose body has this hash; none: it is not to be repeated.
    pub(crate) fn of(
        headers: &HeaderMap,
        (principal, operation): (&str, &str),
        asked: &[&[u8]],
    ) -> Result<Option<Self>, ServeError> {
        let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
            return Ok(None);
        };
        let key = key.as_bytes();
        let fits = (1..=MAX_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
        if !fits {
            return Err(ServeError::BadIdempotencyKey);
        }
        Ok(Some(Self {
            name: hash(&[principal.as_bytes(), operation.as_bytes(), key]),
            body: hash(asked),
        }))
    }
}

/// SHA-256 of parts, each after its length.
fn hash(parts: &[&[u8]]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

#[allow(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn unavailable(error: sqlx::Error) -> ServeError {
    ServeError::AnswersUnavailable {
        reason: error.to_string(),
    }
}

impl Answers {
    /// Opens the store. What was being done when it was last closed is lost.
    pub(crate) async fn open(
        path: &Path,
        keep_seconds: u64,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(unavailable)?;
        let table = "CREATE TABLE IF NOT EXISTS answers (
            name BLOB PRIMARY KEY, asked BLOB NOT NULL, state INTEGER NOT NULL, at_ms INTEGER NOT NULL,
            status INTEGER, body BLOB
        ) WITHOUT ROWID";
        sqlx::query(table)
            .execute(&pool)
            .await
            .map_err(unavailable)?;
        sqlx::query("UPDATE answers SET state = ? WHERE state = ?")
            .bind(LOST)
            .bind(RUNNING)
            .execute(&pool)
            .await
            .map_err(unavailable)?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, permissions)
            .map_err(|error| unavailable(sqlx::Error::Io(error)))?;
        let keep_ms = i64::try_from(keep_seconds).unwrap_or(i64::MAX / 1000) * 1000;
        Ok(Self {
            pool,
            keep_ms,
            clock,
        })
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// Does a request, or gives the answer that it was given before.
    pub(crate) async fn once(
        &self,
        request: Option<Repeatable>,
        work: impl Future<Output = Result<Answer, Problem>> + Send,
    ) -> Result<Answer, Problem> {
        let Some(request) = request else {
            return work.await;
        };
        if let Some(answer) = self.begin(&request).await? {
            return Ok(answer);
        }
        let answer = work
            .await
            .unwrap_or_else(|problem| Answer::new(problem.status(), &problem.document()));
        if answer.status.is_server_error() {
            self.forget(&request).await?;
        } else {
            self.end(&request, &answer).await?;
        }
        Ok(answer)
    }

    /// Notes that a request is being done; the answer, if it was done before.
    async fn begin(&self, request: &Repeatable) -> Result<Option<Answer>, ServeError> {
        let now = self.clock.now_ms();
        sqlx::query("DELETE FROM answers WHERE at_ms < ? AND state <> ?")
            .bind(now.saturating_sub(self.keep_ms))
            .bind(RUNNING)
            .execute(&self.pool)
            .await
            .map_err(unavailable)?;
        let insert = "INSERT INTO answers (name, asked, state, at_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let inserted = sqlx::query(insert)
            .bind(&request.name)
            .bind(&request.body)
            .bind(RUNNING)
            .bind(now)
            .execute(&self.pool)
            .await
            .map_err(unavailable)?;
        if inserted.rows_affected() == 1 {
            return Ok(None);
        }
        let row = sqlx::query("SELECT asked, state, status, body FROM answers WHERE name = ?")
            .bind(&request.name)
            .fetch_optional(&self.pool)
            .await
            .map_err(unavailable)?;
        // Forgotten between the two: whoever did it is just done.
        let row = row.ok_or(ServeError::RequestInProgress)?;
        let asked: Vec<u8> = row.try_get("asked").map_err(unavailable)?;
        if asked != request.body {
            return Err(ServeError::IdempotencyConflict);
        }
        match row.try_get::<i64, _>("state").map_err(unavailable)? {
            RUNNING => Err(ServeError::RequestInProgress),
            LOST => Err(ServeError::OutcomeUnknown),
            _ => {
                let status: i64 = row.try_get("status").map_err(unavailable)?;
                let body: Vec<u8> = row.try_get("body").map_err(unavailable)?;
                let status = u16::try_from(status).ok();
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                Ok(Some(Answer {
                    status: status.ok_or(ServeError::OutcomeUnknown)?,
                    body: body.into(),
                }))
            }
        }
    }

    async fn end(&self, request: &Repeatable, answer: &Answer) -> Result<(), ServeError> {
        sqlx::query("UPDATE answers SET state = ?, status = ?, body = ? WHERE name = ?")
            .bind(DONE)
            .bind(i64::from(answer.status.as_u16()))
            .bind(answer.body.as_ref())
            .bind(&request.name)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(unavailable)
    }

    async fn forget(&self, request: &Repeatable) -> Result<(), ServeError> {
        sqlx::query("DELETE FROM answers WHERE name = ?")
            .bind(&request.name)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qihui_audit::SystemClock;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn request(who: &str, key: &str, asked: &[u8]) -> Option<Repeatable> {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, key.parse().unwrap());
        Repeatable::of(&headers, (who, "org_add"), &[asked]).unwrap()
    }

    async fn ask(answers: &Answers, count: &AtomicU32, request: Option<Repeatable>) -> Answer {
        let work = async {
            let done = count.fetch_add(1, Ordering::SeqCst);
            Ok(Answer::new(
                StatusCode::CREATED,
                &serde_json::json!({ "done": done }),
            ))
        };
        match answers.once(request, work).await {
            Ok(answer) => answer,
            Err(problem) => Answer::new(problem.status(), &problem.document()),
        }
    }

    #[tokio::test]
    async fn a_repeat_gets_the_first_answer_and_another_body_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.db");
        let open = || Answers::open(&path, 60, Arc::new(SystemClock));
        let (answers, count) = (open().await.unwrap(), AtomicU32::new(0));
        let first = ask(&answers, &count, request("a", "k", b"body")).await;
        assert_eq!(
            ask(&answers, &count, request("a", "k", b"body")).await,
            first
        );
        assert_eq!(
            ask(&answers, &count, request("a", "k", b"else"))
                .await
                .status,
            422
        );
        assert_ne!(
            ask(&answers, &count, request("b", "k", b"body")).await,
            first
        );
        assert_eq!(count.load(Ordering::SeqCst), 2);
        answers.close().await;
        let answers = open().await.unwrap();
        assert_eq!(
            ask(&answers, &count, request("a", "k", b"body")).await,
            first,
            "durable"
        );
        // Begun and never ended: the next start cannot know what came of it.
        assert!(
            answers
                .begin(&request("a", "lost", b"").unwrap())
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(
            ask(&answers, &count, request("a", "lost", b""))
                .await
                .status,
            409
        );
        answers.close().await;
        let answers = open().await.unwrap();
        let lost = ask(&answers, &count, request("a", "lost", b"")).await;
        assert!(String::from_utf8_lossy(&lost.body).contains("OutcomeUnknown"));
    }
}
