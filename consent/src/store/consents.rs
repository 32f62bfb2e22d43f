//! Consents and their uses.

use qihui_catalog::{ConsentId, EnterpriseNo, OrgId, PurposeCode, Timestamp};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};

use super::{fit, parsed};
use crate::{document::ConsentDocument, error::Result, state::Progress};

/// A version of a consent as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsentRow {
    pub(crate) seq: i64,
    pub(crate) no: EnterpriseNo,
    pub(crate) document: ConsentDocument,
    pub(crate) progress: Progress,
    pub(crate) nonce: String,
    pub(crate) requested: u64,
    pub(crate) given: Option<u64>,
}

macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT seq, no, document, progress, nonce, requested, given FROM consent ",
            $rest
        )
    };
}

fn read(row: &SqliteRow) -> Result<ConsentRow> {
    Ok(ConsentRow {
        seq: row.try_get("seq")?,
        no: EnterpriseNo(row.try_get("no")?),
        document: parsed(row.try_get("document")?, "a consent")?,
        progress: parsed(row.try_get("progress")?, "the progress of a consent")?,
        nonce: row.try_get("nonce")?,
        requested: fit(row.try_get::<i64, _>("requested")?, "a position")?,
        given: row
            .try_get::<Option<i64>, _>("given")?
            .map(|given| fit(given, "a position"))
            .transpose()?,
    })
}

/// Stores a new version and gives it its sequence number.
pub(crate) async fn insert(connection: &mut SqliteConnection, row: &ConsentRow) -> Result<i64> {
    let document = &row.document;
    let done = sqlx::query(
        "INSERT INTO consent (consent_id, version, org, purpose, no, state, progress, nonce, starts, expires, document,
         hash, requested, given) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(document.consent_id.as_str())
    .bind(document.version)
    .bind(document.consumer.org.as_str())
    .bind(document.purpose.code.as_str())
    .bind(row.no.0)
    .bind(row.progress.state.as_str())
    .bind(crate::text::canonical(&row.progress)?)
    .bind(&row.nonce)
    .bind(document.starts.0)
    .bind(document.expires.0)
    .bind(document.canonical_json()?)
    .bind(document.hash()?.as_slice())
    .bind(fit::<_, i64>(row.requested, "a position")?)
    .bind(row.given.map(|given| fit::<_, i64>(given, "a position")).transpose()?)
    .execute(connection)
    .await?;
    Ok(done.last_insert_rowid())
}

/// Stores how far a version has come.
pub(crate) async fn update(connection: &mut SqliteConnection, row: &ConsentRow) -> Result<()> {
    sqlx::query("UPDATE consent SET state = ?, progress = ?, nonce = ?, given = ? WHERE seq = ?")
        .bind(row.progress.state.as_str())
        .bind(crate::text::canonical(&row.progress)?)
        .bind(&row.nonce)
        .bind(
            row.given
                .map(|given| fit::<_, i64>(given, "a position"))
                .transpose()?,
        )
        .bind(row.seq)
        .execute(connection)
        .await?;
    Ok(())
}

/// The latest version of a consent.
pub(crate) async fn latest(
    connection: &mut SqliteConnection,
    id: &ConsentId,
) -> Result<Option<ConsentRow>> {
    let row = sqlx::query(columns!(
        "WHERE consent_id = ? ORDER BY version DESC LIMIT 1"
    ))
    .bind(id.as_str())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read).transpose()
}

/// Every version of a consent, from the first.
pub(crate) async fn versions(
    connection: &mut SqliteConnection,
    id: &ConsentId,
) -> Result<Vec<ConsentRow>> {
    let rows = sqlx::query(columns!("WHERE consent_id = ? ORDER BY version"))
        .bind(id.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// The latest version of consents, oldest first, of an enterprise and an organisation where these are given, after a
/// sequence number.
pub(crate) async fn list(
    connection: &mut SqliteConnection,
    no: Option<EnterpriseNo>,
    org: Option<&OrgId>,
    after: i64,
    limit: u32,
) -> Result<Vec<ConsentRow>> {
    let mut query = QueryBuilder::<Sqlite>::new(columns!(
        "AS c WHERE NOT EXISTS (SELECT 1 FROM consent AS n WHERE n.consent_id = c.consent_id AND n.version > c.version)
         AND seq > "
    ));
    query.push_bind(after);
    if let Some(no) = no {
        query.push(" AND no = ").push_bind(no.0);
    }
    if let Some(org) = org {
        query.push(" AND org = ").push_bind(org.as_str().to_owned());
    }
    query.push(" ORDER BY seq LIMIT ").push_bind(limit);
    let rows = query.build().fetch_all(connection).await?;
    rows.iter().map(read).collect()
}

/// Every version, for a check of everything.
pub(crate) async fn all(
    connection: &mut SqliteConnection,
    after: i64,
    limit: u32,
) -> Result<Vec<ConsentRow>> {
    let rows = sqlx::query(columns!("WHERE seq > ? ORDER BY seq LIMIT ?"))
        .bind(after)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// A consent of which a version that events are about is not there, or whose columns say something else than its document
/// and its progress; none: there is no such consent.
pub(crate) async fn contradicting(connection: &mut SqliteConnection) -> Result<Option<String>> {
    Ok(sqlx::query_scalar(
        "SELECT consent_id FROM consent WHERE consent_id IS NOT json_extract(document, '$.consent_id')
             OR version IS NOT json_extract(document, '$.version')
             OR org IS NOT json_extract(document, '$.consumer.org')
             OR purpose IS NOT json_extract(document, '$.purpose.code')
             OR state IS NOT json_extract(progress, '$.state')
         UNION ALL
         SELECT consent_id FROM (SELECT consent_id, version FROM event WHERE consent_id IS NOT NULL
             EXCEPT SELECT consent_id, version FROM consent)
         LIMIT 1",
    )
    .fetch_optional(connection)
    .await?)
}

/// Consents whose time is over and that do not yet say so.
pub(crate) async fn due(
    connection: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<ConsentRow>> {
    let rows = sqlx::query(columns!(
        "WHERE state IN ('REQUESTED', 'PARTIALLY_SIGNED', 'ACTIVE', 'PAUSED') AND expires <= ? ORDER BY expires, seq LIMIT ?"
    ))
    .bind(now.0)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// How often a consent was used since an instant, the given access apart.
pub(crate) async fn uses(
    connection: &mut SqliteConnection,
    id: &ConsentId,
    since: Timestamp,
    except: &str,
) -> Result<u64> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM use WHERE consent_id = ? AND at_ms >= ? AND access_id <> ?",
    )
    .bind(id.as_str())
    .bind(since.0)
    .bind(except)
    .fetch_one(connection)
    .await?;
    fit(count, "a count")
}

/// How many accesses drew, since an instant, on any consent of an enterprise to an organisation for a purpose, the
/// given access apart.
pub(crate) async fn accesses(
    connection: &mut SqliteConnection,
    (no, org, purpose): (EnterpriseNo, &OrgId, &PurposeCode),
    since: Timestamp,
    except: &str,
) -> Result<u64> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(DISTINCT access_id) FROM use WHERE at_ms >= ? AND access_id <> ? AND consent_id IN
         (SELECT consent_id FROM consent WHERE no = ? AND org = ? AND purpose = ?)",
    )
    .bind(since.0)
    .bind(except)
    .bind(no.0)
    .bind(org.as_str())
    .bind(purpose.as_str())
    .fetch_one(connection)
    .await?;
    fit(count, "a count")
}

/// The consents that an access drew on, and whose they are.
pub(crate) async fn used_by(
    connection: &mut SqliteConnection,
    access_id: &str,
) -> Result<Vec<(String, EnterpriseNo)>> {
    let rows = sqlx::query(
        "SELECT u.consent_id, c.no FROM use AS u JOIN consent AS c ON c.consent_id = u.consent_id AND c.version = 1
         WHERE u.access_id = ? ORDER BY u.consent_id",
    )
    .bind(access_id)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, EnterpriseNo(row.try_get(1)?))))
        .collect()
}

/// Counts a use, unless this access was counted before; whether it was not.
pub(crate) async fn insert_use(
    connection: &mut SqliteConnection,
    id: &ConsentId,
    access_id: &str,
    at: Timestamp,
) -> Result<bool> {
    let done =
        sqlx::query("INSERT OR IGNORE INTO use (consent_id, access_id, at_ms) VALUES (?, ?, ?)")
            .bind(id.as_str())
            .bind(access_id)
            .bind(at.0)
            .execute(connection)
            .await?;
    Ok(done.rows_affected() > 0)
}

/// Whether an access was counted for a consent.
pub(crate) async fn was_used(
    connection: &mut SqliteConnection,
    id: &ConsentId,
    access_id: &str,
) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM use WHERE consent_id = ? AND access_id = ?)",
    )
    .bind(id.as_str())
    .bind(access_id)
    .fetch_one(connection)
    .await?)
}

/// One version of a consent.
pub(crate) async fn version(
    connection: &mut SqliteConnection,
    id: &str,
    version: u32,
) -> Result<Option<ConsentRow>> {
    let row = sqlx::query(columns!("WHERE consent_id = ? AND version = ?"))
        .bind(id)
        .bind(version)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The document that came in the place of a version: the next version of the consent, or the consent that replaced it.
pub(crate) async fn successor(
    connection: &mut SqliteConnection,
    row: &ConsentRow,
) -> Result<Option<ConsentDocument>> {
    let id = row.document.consent_id.as_str();
    let next = version(connection, id, row.document.version.saturating_add(1)).await?;
    if let Some(next) = next {
        return Ok(Some(next.document));
    }
    let rows = between(connection, row.no, &row.document.consumer.org).await?;
    let replaces = |other: &ConsentRow| {
        let replaced = other.document.supersedes.as_ref();
        other.given.is_some() && replaced.is_some_and(|replaced| replaced.consent_id.as_str() == id)
    };
    Ok(rows.into_iter().find(replaces).map(|other| other.document))
}

/// One version by its sequence number.
pub(crate) async fn by_seq(connection: &mut SqliteConnection, seq: i64) -> Result<ConsentRow> {
    let row = sqlx::query(columns!("WHERE seq = ?"))
        .bind(seq)
        .fetch_one(connection)
        .await?;
    read(&row)
}

/// Every version of every consent of an enterprise to an organisation, oldest first.
pub(crate) async fn between(
    connection: &mut SqliteConnection,
    no: EnterpriseNo,
    org: &OrgId,
) -> Result<Vec<ConsentRow>> {
    let rows = sqlx::query(columns!("WHERE no = ? AND org = ? ORDER BY seq"))
        .bind(no.0)
        .bind(org.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}
