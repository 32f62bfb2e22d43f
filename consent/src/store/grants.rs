//! Grants as the decision looks them up: per organisation, purpose and dataset.

use std::collections::HashMap;

use qihui_catalog::{DatasetId, EnterpriseNo, OrgId, PurposeCode, Timestamp};
use sqlx::{Row, SqliteConnection};

use super::{fit, named, parsed};
use crate::{
    decision::{ActionSet, ScopeItem},
    error::{LedgerError, Result},
    text,
};

/// Not in force.
pub(crate) const OFF: i64 = 0;
/// Given, but not yet in the log.
pub(crate) const WAITING: i64 = 1;
/// In force.
pub(crate) const ON: i64 = 2;

/// What a version of a consent opens of one dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) no: u32,
    pub(crate) terms: u32,
    pub(crate) starts: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) actions: ActionSet,
    pub(crate) metered: bool,
    /// The event that gave it: it counts once the log has that one.
    pub(crate) given: u64,
}

pub(crate) async fn grantee(
    connection: &mut SqliteConnection,
    org: &OrgId,
    purpose: &PurposeCode,
    dataset: &DatasetId,
) -> Result<Option<i64>> {
    Ok(
        sqlx::query_scalar("SELECT id FROM grantee WHERE org = ? AND purpose = ? AND dataset = ?")
            .bind(org.as_str())
            .bind(purpose.as_str())
            .bind(dataset.as_str())
            .fetch_optional(connection)
            .await?,
    )
}

pub(crate) async fn ensure_grantee(
    connection: &mut SqliteConnection,
    org: &OrgId,
    purpose: &PurposeCode,
    dataset: &DatasetId,
) -> Result<i64> {
    sqlx::query("INSERT OR IGNORE INTO grantee (org, purpose, dataset) VALUES (?, ?, ?)")
        .bind(org.as_str())
        .bind(purpose.as_str())
        .bind(dataset.as_str())
        .execute(&mut *connection)
        .await?;
    let id = grantee(connection, org, purpose, dataset).await?;
    id.ok_or_else(|| LedgerError::Corrupt("a grantee was not kept".to_owned()))
}

pub(crate) async fn ensure_terms(
    connection: &mut SqliteConnection,
    items: &[ScopeItem],
) -> Result<i64> {
    let items = text::canonical(&items)?;
    sqlx::query("INSERT OR IGNORE INTO terms (items) VALUES (?)")
        .bind(&items)
        .execute(&mut *connection)
        .await?;
    Ok(sqlx::query_scalar("SELECT id FROM terms WHERE items = ?")
        .bind(items)
        .fetch_one(connection)
        .await?)
}

/// A grant to be stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewGrant {
    pub(crate) grantee: i64,
    pub(crate) consent: i64,
    pub(crate) entry: Entry,
    pub(crate) status: i64,
    /// How long the receiver may keep what it opens, in days.
    pub(crate) data_life: u32,
    pub(crate) revision: u64,
}

pub(crate) async fn put(connection: &mut SqliteConnection, grant: NewGrant) -> Result<()> {
    let entry = grant.entry;
    sqlx::query(
        "INSERT INTO grant_row (grantee, no, consent, terms, actions, starts, expires, metered, status, given, data_life, revision)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (grantee, no, consent) DO UPDATE SET
             status = excluded.status, given = excluded.given, revision = excluded.revision",
    )
    .bind(grant.grantee)
    .bind(entry.no)
    .bind(grant.consent)
    .bind(entry.terms)
    .bind(entry.actions.bits())
    .bind(entry.starts.0)
    .bind(entry.expires.0)
    .bind(entry.metered)
    .bind(grant.status)
    .bind(fit::<_, i64>(entry.given, "a position")?)
    .bind(grant.data_life)
    .bind(fit::<_, i64>(grant.revision, "the revision")?)
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes everything that a version of a consent opens out of force.
pub(crate) async fn switch_off(
    connection: &mut SqliteConnection,
    consent: i64,
    revision: u64,
) -> Result<()> {
    sqlx::query("UPDATE grant_row SET status = ?, revision = ? WHERE consent = ?")
        .bind(OFF)
        .bind(fit::<_, i64>(revision, "the revision")?)
        .bind(consent)
        .execute(connection)
        .await?;
    Ok(())
}

/// Puts into force what waited for the log up to a position; how many.
pub(crate) async fn switch_on(
    connection: &mut SqliteConnection,
    logged: u64,
    revision: u64,
) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE grant_row SET status = 2, revision = ? WHERE status = 1 AND given <= ?",
    )
    .bind(fit::<_, i64>(revision, "the revision")?)
    .bind(fit::<_, i64>(logged, "a position")?)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Every grant in force of a grantee, ascending by number.
///
/// A row costs a microsecond on its way out of the store, so that grants with equal terms come out in one row, as
/// text, per 65,536 numbers: a million grants take a fraction of a second.
pub(crate) async fn all(connection: &mut SqliteConnection, grantee: i64) -> Result<Vec<Entry>> {
    let rows = sqlx::query(
        "SELECT terms, actions, metered, group_concat(no || ' ' || starts || ' ' || expires || ' ' || given, ' ')
         FROM grant_row WHERE grantee = ? AND status = 2 GROUP BY terms, actions, metered, no >> 16",
    )
    .bind(grantee)
    .fetch_all(connection)
    .await?;
    let mut entries = Vec::new();
    for row in rows {
        let (terms, actions, metered) = (
            row.try_get(0)?,
            ActionSet::from_bits(row.try_get(1)?),
            row.try_get(2)?,
        );
        let numbers: &str = row.try_get(3)?;
        let mut words = numbers.split_ascii_whitespace();
        while let Some(no) = words.next() {
            let mut next = || words.next().unwrap_or_default();
            let (starts, expires, given) = (next(), next(), next());
            let word = |word: &str| {
                word.parse::<i64>()
                    .map_err(|_| LedgerError::Corrupt("a grant is torn".to_owned()))
            };
            let no = fit(word(no)?, "an enterprise number")?;
            let (starts, expires) = (Timestamp(word(starts)?), Timestamp(word(expires)?));
            let given = fit(word(given)?, "a position")?;
            entries.push(Entry {
                no,
                terms,
                starts,
                expires,
                actions,
                metered,
                given,
            });
        }
    }
    entries.sort_unstable_by_key(|entry| (entry.no, entry.terms));
    Ok(entries)
}

/// Which enterprises' grants to a grantee changed after a revision.
pub(crate) async fn changed(
    connection: &mut SqliteConnection,
    grantee: i64,
    revision: u64,
) -> Result<Vec<u32>> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT no FROM grant_row WHERE grantee = ? AND revision > ? ORDER BY no",
    )
    .bind(grantee)
    .bind(fit::<_, i64>(revision, "the revision")?)
    .fetch_all(connection)
    .await?)
}

/// The grants in force of these enterprises to a grantee, with their consents, ascending by number.
pub(crate) async fn of(
    connection: &mut SqliteConnection,
    grantee: i64,
    numbers: &[u32],
) -> Result<Vec<(Entry, i64)>> {
    let rows = sqlx::query(
        "SELECT no, terms, starts, expires, actions, metered, given, consent FROM grant_row
         WHERE grantee = ? AND status = 2 AND no IN (SELECT value FROM json_each(?)) ORDER BY no, terms",
    )
    .bind(grantee)
    .bind(text::canonical(&numbers)?)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let entry = Entry {
                no: row.try_get(0)?,
                terms: row.try_get(1)?,
                starts: Timestamp(row.try_get(2)?),
                expires: Timestamp(row.try_get(3)?),
                actions: ActionSet::from_bits(row.try_get(4)?),
                metered: row.try_get(5)?,
                given: fit(row.try_get::<i64, _>(6)?, "a position")?,
            };
            Ok((entry, row.try_get(7)?))
        })
        .collect()
}

/// What decisions look up of a version of a consent and one dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantRow {
    pub(crate) org: OrgId,
    pub(crate) purpose: PurposeCode,
    pub(crate) dataset: DatasetId,
    pub(crate) no: EnterpriseNo,
    pub(crate) items: Vec<ScopeItem>,
    pub(crate) starts: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) actions: ActionSet,
    pub(crate) metered: bool,
    pub(crate) data_life: u32,
    pub(crate) given: u64,
    pub(crate) status: i64,
}

/// Everything that decisions look up of a version of a consent, in force or not.
pub(crate) async fn of_consent(
    connection: &mut SqliteConnection,
    consent: i64,
) -> Result<Vec<GrantRow>> {
    let rows = sqlx::query(
        "SELECT g.org, g.purpose, g.dataset, r.no, t.items, r.starts, r.expires, r.actions, r.metered, r.data_life,
             r.given, r.status
         FROM grant_row AS r LEFT JOIN grantee AS g ON g.id = r.grantee LEFT JOIN terms AS t ON t.id = r.terms
         WHERE r.consent = ?",
    )
    .bind(consent)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let word = |index: usize| -> Result<&str> {
                row.try_get::<Option<&str>, _>(index)?
                    .ok_or_else(|| LedgerError::Corrupt("a grant is torn".to_owned()))
            };
            Ok(GrantRow {
                org: named(word(0)?, "an organisation")?,
                purpose: named(word(1)?, "a purpose")?,
                dataset: named(word(2)?, "a dataset")?,
                no: EnterpriseNo(row.try_get(3)?),
                items: parsed(word(4)?, "the terms of a grant")?,
                starts: Timestamp(row.try_get(5)?),
                expires: Timestamp(row.try_get(6)?),
                actions: ActionSet::from_bits(row.try_get(7)?),
                metered: row.try_get(8)?,
                data_life: row.try_get(9)?,
                given: fit(row.try_get::<i64, _>(10)?, "a position")?,
                status: row.try_get(11)?,
            })
        })
        .collect()
}

/// The items behind terms.
pub(crate) async fn terms(
    connection: &mut SqliteConnection,
    wanted: &[u32],
) -> Result<HashMap<u32, Vec<ScopeItem>>> {
    let rows =
        sqlx::query("SELECT id, items FROM terms WHERE id IN (SELECT value FROM json_each(?))")
            .bind(text::canonical(&wanted)?)
            .fetch_all(connection)
            .await?;
    rows.iter()
        .map(|row| {
            Ok((
                row.try_get(0)?,
                parsed(row.try_get(1)?, "the terms of a grant")?,
            ))
        })
        .collect()
}
