//! Events, the outbox, revisions and the name of the hub.

use qihui_catalog::{EnterpriseNo, OrgId, PurposeCode, Timestamp};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{fit, hash, parsed};
use crate::error::Result;

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventRow {
    pub(crate) position: u64,
    pub(crate) time: Timestamp,
    pub(crate) kind: String,
    pub(crate) body: String,
    pub(crate) subjects: String,
    pub(crate) consent: Option<(String, u32)>,
    pub(crate) prev: [u8; 32],
    pub(crate) hash: [u8; 32],
}

impl EventRow {
    fn read(row: &SqliteRow) -> Result<Self> {
        let consent_id: Option<String> = row.try_get("consent_id")?;
        let version: Option<u32> = row.try_get("version")?;
        Ok(Self {
            position: fit(row.try_get::<i64, _>("position")?, "a position")?,
            time: Timestamp(row.try_get("time_ms")?),
            kind: row.try_get("kind")?,
            body: row.try_get("body")?,
            subjects: row.try_get("subjects")?,
            consent: consent_id.zip(version),
            prev: hash(row.try_get("prev")?)?,
            hash: hash(row.try_get("hash")?)?,
        })
    }

    pub(crate) fn subjects(&self) -> Result<Vec<EnterpriseNo>> {
        parsed(&self.subjects, "the subjects of an event")
    }
}

const COLUMNS_FROM: &str =
    "SELECT position, time_ms, kind, body, subjects, consent_id, version, prev, hash
     FROM event WHERE position > ? ORDER BY position LIMIT ?";

/// Position, time and hash of the last event.
pub(crate) async fn last(
    connection: &mut SqliteConnection,
) -> Result<Option<(u64, Timestamp, [u8; 32])>> {
    let row =
        sqlx::query("SELECT position, time_ms, hash FROM event ORDER BY position DESC LIMIT 1")
            .fetch_optional(connection)
            .await?;
    row.map(|row| {
        let position = fit(row.try_get::<i64, _>("position")?, "a position")?;
        Ok((
            position,
            Timestamp(row.try_get("time_ms")?),
            hash(row.try_get("hash")?)?,
        ))
    })
    .transpose()
}

/// The hash of the event at a position.
pub(crate) async fn hash_at(
    connection: &mut SqliteConnection,
    position: u64,
) -> Result<Option<[u8; 32]>> {
    let found: Option<Vec<u8>> = sqlx::query_scalar("SELECT hash FROM event WHERE position = ?")
        .bind(fit::<_, i64>(position, "a position")?)
        .fetch_optional(connection)
        .await?;
    found.map(|found| hash(&found)).transpose()
}

pub(crate) async fn insert(connection: &mut SqliteConnection, event: &EventRow) -> Result<()> {
    let (consent_id, version) = event.consent.clone().unzip();
    sqlx::query(
        "INSERT INTO event (position, time_ms, kind, body, subjects, consent_id, version, prev, hash)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(fit::<_, i64>(event.position, "a position")?)
    .bind(event.time.0)
    .bind(&event.kind)
    .bind(&event.body)
    .bind(&event.subjects)
    .bind(consent_id)
    .bind(version)
    .bind(event.prev.as_slice())
    .bind(event.hash.as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// At most `limit` events after a position, in order.
pub(crate) async fn after(
    connection: &mut SqliteConnection,
    position: u64,
    limit: u32,
) -> Result<Vec<EventRow>> {
    let rows = sqlx::query(COLUMNS_FROM)
        .bind(fit::<_, i64>(position, "a position")?)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(EventRow::read).collect()
}

/// The events of all versions of a consent, in order.
pub(crate) async fn of_consent(
    connection: &mut SqliteConnection,
    consent_id: &str,
) -> Result<Vec<EventRow>> {
    let rows = sqlx::query(
        "SELECT position, time_ms, kind, body, subjects, consent_id, version, prev, hash
         FROM event WHERE consent_id = ? ORDER BY position",
    )
    .bind(consent_id)
    .fetch_all(connection)
    .await?;
    rows.iter().map(EventRow::read).collect()
}

/// The time of the last event about a version of a consent.
pub(crate) async fn last_of_consent(
    connection: &mut SqliteConnection,
    consent_id: &str,
    version: u32,
) -> Result<Option<Timestamp>> {
    let time: Option<i64> =
        sqlx::query_scalar("SELECT MAX(time_ms) FROM event WHERE consent_id = ? AND version = ?")
            .bind(consent_id)
            .bind(version)
            .fetch_one(connection)
            .await?;
    Ok(time.map(Timestamp))
}

/// The first event that put a consent into force, or one that it took the place of: from then on something may have been
/// released under it. None: it never was.
pub(crate) async fn first_active(
    connection: &mut SqliteConnection,
    consent_id: &str,
) -> Result<Option<u64>> {
    let position: Option<i64> = sqlx::query_scalar(
        "WITH RECURSIVE line (id) AS (
             VALUES (?)
             UNION
             SELECT before.consent_id FROM line
             JOIN consent AS after ON after.consent_id = line.id AND after.version = 1
             JOIN consent AS before ON before.consent_id = json_extract(after.document, '$.supersedes.consent_id')
             WHERE before.state = 'SUPERSEDED' AND NOT EXISTS
                 (SELECT 1 FROM consent AS n WHERE n.consent_id = before.consent_id AND n.version > before.version)
         )
         SELECT MIN(position) FROM event
         WHERE consent_id IN (SELECT id FROM line) AND json_extract(body, '$.state') = 'ACTIVE'",
    )
    .bind(consent_id)
    .fetch_one(connection)
    .await?;
    position
        .map(|position| fit(position, "a position"))
        .transpose()
}

/// The versions of consents to an organisation for a purpose that ended after a position by an act of somebody, or were
/// replaced, each with the position of that event.
pub(crate) async fn consents_ended_after(
    connection: &mut SqliteConnection,
    (org, purpose): (&OrgId, &PurposeCode),
    position: u64,
) -> Result<Vec<(u64, (String, u32))>> {
    let rows = sqlx::query(
        "SELECT position, consent_id, version FROM event WHERE position > ? AND kind IN
         ('consent.withdrawn', 'consent.revoked', 'consent.invalidated', 'consent.superseded')
         AND json_extract(body, '$.org') = ? AND json_extract(body, '$.purpose') = ?",
    )
    .bind(fit::<_, i64>(position, "a position")?)
    .bind(org.as_str())
    .bind(purpose.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let position = fit(row.try_get::<i64, _>(0)?, "a position")?;
            Ok((position, (row.try_get(1)?, row.try_get(2)?)))
        })
        .collect()
}

/// The bodies of the events of a kind after a position.
pub(crate) async fn bodies_after(
    connection: &mut SqliteConnection,
    position: u64,
    kind: &str,
) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT body FROM event WHERE position > ? AND kind = ? ORDER BY position",
    )
    .bind(fit::<_, i64>(position, "a position")?)
    .bind(kind)
    .fetch_all(connection)
    .await?)
}

/// The last event that is in the log, and its entry there.
pub(crate) async fn last_logged(connection: &mut SqliteConnection) -> Result<Option<(u64, u64)>> {
    let row = sqlx::query("SELECT position, log_index FROM logged ORDER BY position DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    row.map(|row| {
        let position = fit(row.try_get::<i64, _>(0)?, "a position")?;
        Ok((position, fit(row.try_get::<i64, _>(1)?, "a log index")?))
    })
    .transpose()
}

pub(crate) async fn insert_logged(
    connection: &mut SqliteConnection,
    position: u64,
    log_index: u64,
) -> Result<()> {
    sqlx::query("INSERT INTO logged (position, log_index) VALUES (?, ?)")
        .bind(fit::<_, i64>(position, "a position")?)
        .bind(fit::<_, i64>(log_index, "a log index")?)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn log_index(
    connection: &mut SqliteConnection,
    position: u64,
) -> Result<Option<u64>> {
    let found: Option<i64> = sqlx::query_scalar("SELECT log_index FROM logged WHERE position = ?")
        .bind(fit::<_, i64>(position, "a position")?)
        .fetch_optional(connection)
        .await?;
    found.map(|index| fit(index, "a log index")).transpose()
}

pub(crate) async fn revision(connection: &mut SqliteConnection) -> Result<u64> {
    let revision: i64 = sqlx::query_scalar("SELECT revision FROM revision")
        .fetch_one(connection)
        .await?;
    fit(revision, "the revision")
}

pub(crate) async fn next_revision(connection: &mut SqliteConnection) -> Result<u64> {
    let revision: i64 =
        sqlx::query_scalar("UPDATE revision SET revision = revision + 1 RETURNING revision")
            .fetch_one(connection)
            .await?;
    fit(revision, "the revision")
}

/// The name of the hub; `fresh` becomes it where there is none yet.
pub(crate) async fn hub(connection: &mut SqliteConnection, fresh: &str) -> Result<String> {
    sqlx::query("INSERT OR IGNORE INTO meta (key, value) VALUES ('hub', ?)")
        .bind(fresh)
        .execute(&mut *connection)
        .await?;
    Ok(
        sqlx::query_scalar("SELECT value FROM meta WHERE key = 'hub'")
            .fetch_one(connection)
            .await?,
    )
}

/// The name of the hub.
pub(crate) async fn known_hub(connection: &mut SqliteConnection) -> Result<String> {
    Ok(
        sqlx::query_scalar("SELECT value FROM meta WHERE key = 'hub'")
            .fetch_one(connection)
            .await?,
    )
}

pub(crate) async fn insert_artefact(
    connection: &mut SqliteConnection,
    position: u64,
    artefact: &qihui_catalog::Artefact,
) -> Result<()> {
    sqlx::query("INSERT INTO artefact (kind, id, position, version, hash, document) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(artefact.kind)
        .bind(&artefact.id)
        .bind(fit::<_, i64>(position, "a position")?)
        .bind(&artefact.version)
        .bind(artefact.hash.as_slice())
        .bind(&artefact.canonical_json)
        .execute(connection)
        .await?;
    Ok(())
}

/// Version, hash and position of the latest artefact up to a position.
pub(crate) async fn artefact(
    connection: &mut SqliteConnection,
    kind: &str,
    id: &str,
    up_to: u64,
) -> Result<Option<(String, [u8; 32], u64)>> {
    let row = sqlx::query(
        "SELECT version, hash, position FROM artefact
         WHERE kind = ? AND id = ? AND position <= ? ORDER BY position DESC LIMIT 1",
    )
    .bind(kind)
    .bind(id)
    .bind(i64::try_from(up_to).unwrap_or(i64::MAX))
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok((
            row.try_get(0)?,
            hash(row.try_get(1)?)?,
            fit(row.try_get::<i64, _>(2)?, "a position")?,
        ))
    })
    .transpose()
}

/// The latest documents of a kind of artefact, by id.
pub(crate) async fn artefacts(
    connection: &mut SqliteConnection,
    kind: &str,
) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT document FROM artefact AS a WHERE kind = ? AND NOT EXISTS
         (SELECT 1 FROM artefact AS n WHERE n.kind = a.kind AND n.id = a.id AND n.position > a.position)
         ORDER BY id",
    )
    .bind(kind)
    .fetch_all(connection)
    .await?)
}
