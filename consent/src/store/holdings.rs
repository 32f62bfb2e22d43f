//! Holdings: what organisations keep, whose data is in it, and what of it has to be deleted.

use qihui_catalog::{DatasetId, EnterpriseNo, OrgId, PurposeCode, Timestamp};
use roaring::RoaringBitmap;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};

use super::{fit, parsed};
use crate::{
    error::{LedgerError, Result},
    ledger::HoldingDocument,
    text,
};

/// The mark of a part that is everything.
pub(crate) const EVERYTHING: u32 = 0;

/// A holding as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HoldingRow {
    pub(crate) seq: i64,
    pub(crate) document: HoldingDocument,
    pub(crate) keep_until: Option<Timestamp>,
    pub(crate) deleted: Option<u64>,
    pub(crate) recorded: u64,
}

/// Something that has to be deleted, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DueRow {
    /// Whose part; [`EVERYTHING`]: all of it.
    pub(crate) no: u32,
    pub(crate) reason: String,
    pub(crate) consent_id: Option<String>,
    pub(crate) delete_by: Timestamp,
    pub(crate) since: u64,
    pub(crate) deleted: Option<u64>,
}

/// The enterprises of a holding whose numbers have the same upper bits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) chunk: u32,
    pub(crate) members: RoaringBitmap,
    pub(crate) consenting: RoaringBitmap,
}

/// Which holdings to list.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) org: Option<&'a OrgId>,
    /// With data of this enterprise.
    pub(crate) no: Option<EnterpriseNo>,
    /// Of which something had to be deleted before this instant, and was not.
    pub(crate) overdue_at: Option<Timestamp>,
    pub(crate) after: i64,
    /// How many are looked at.
    pub(crate) limit: u32,
}

fn read(row: &SqliteRow) -> Result<HoldingRow> {
    let position = |column: &str| -> Result<Option<u64>> {
        row.try_get::<Option<i64>, _>(column)?
            .map(|position| fit(position, "a position"))
            .transpose()
    };
    Ok(HoldingRow {
        seq: row.try_get("seq")?,
        document: parsed(row.try_get("document")?, "a holding")?,
        keep_until: row.try_get::<Option<i64>, _>("keep_until")?.map(Timestamp),
        deleted: position("deleted")?,
        recorded: position("recorded")?.unwrap_or_default(),
    })
}

fn bitmap(bytes: &[u8]) -> Result<RoaringBitmap> {
    RoaringBitmap::deserialize_from(bytes)
        .map_err(|_| LedgerError::Corrupt("the members of a holding cannot be read".to_owned()))
}

/// The bytes under which a set of enterprises is stored.
pub(crate) fn bytes_of(bitmap: &RoaringBitmap) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap
        .serialize_into(&mut bytes)
        .map_err(|_| LedgerError::Corrupt("a set of enterprises has no form".to_owned()))?;
    Ok(bytes)
}

/// Stores a holding and gives its place in the list of all.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    document: &HoldingDocument,
    keep_until: Option<Timestamp>,
    recorded: u64,
) -> Result<i64> {
    let done = sqlx::query(
        "INSERT INTO holding (holding_id, access_id, org, purpose, document, keep_until, recorded)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&document.holding_id)
    .bind(&document.access_id)
    .bind(document.org.as_str())
    .bind(document.purpose.as_str())
    .bind(text::canonical(document)?)
    .bind(keep_until.map(|instant| instant.0))
    .bind(fit::<_, i64>(recorded, "a position")?)
    .execute(connection)
    .await?;
    Ok(done.last_insert_rowid())
}

pub(crate) async fn insert_members(
    connection: &mut SqliteConnection,
    holding: i64,
    chunk: &Chunk,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO holding_members (holding, chunk, members, consenting) VALUES (?, ?, ?, ?)",
    )
    .bind(holding)
    .bind(chunk.chunk)
    .bind(bytes_of(&chunk.members)?)
    .bind(bytes_of(&chunk.consenting)?)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn find(
    connection: &mut SqliteConnection,
    holding_id: &str,
) -> Result<Option<HoldingRow>> {
    let row = sqlx::query("SELECT * FROM holding WHERE holding_id = ?")
        .bind(holding_id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

pub(crate) async fn of_access(
    connection: &mut SqliteConnection,
    access_id: &str,
) -> Result<Option<HoldingRow>> {
    let row = sqlx::query("SELECT * FROM holding WHERE access_id = ?")
        .bind(access_id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// A holding with what of it is due first, and what was stated when all of it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StandingRow {
    pub(crate) row: HoldingRow,
    pub(crate) delete_by: Option<Timestamp>,
    pub(crate) deletion: Option<StatedRow>,
}

const STANDING: &str = "SELECT h.*, e.time_ms AS deleted_ms, e.body AS deletion,
     (SELECT MIN(d.delete_by) FROM holding_due AS d WHERE d.holding = h.seq AND d.deleted IS NULL) AS delete_by";

fn standing(row: &SqliteRow) -> Result<StandingRow> {
    Ok(StandingRow {
        row: read(row)?,
        delete_by: row.try_get::<Option<i64>, _>("delete_by")?.map(Timestamp),
        deletion: stated(row)?,
    })
}

/// How a holding stands.
pub(crate) async fn standing_of(
    connection: &mut SqliteConnection,
    holding_id: &str,
) -> Result<Option<StandingRow>> {
    let mut query = QueryBuilder::<Sqlite>::new(STANDING);
    query.push(
        " FROM holding AS h LEFT JOIN event AS e ON e.position = h.deleted WHERE h.holding_id = ",
    );
    query.push_bind(holding_id.to_owned());
    let row = query.build().fetch_optional(connection).await?;
    row.as_ref().map(standing).transpose()
}

/// A page of holdings, oldest first, and the place of the last one that was looked at; none: there are no more.
pub(crate) async fn list(
    connection: &mut SqliteConnection,
    wanted: Wanted<'_>,
) -> Result<(Vec<StandingRow>, Option<i64>)> {
    let mut query = QueryBuilder::<Sqlite>::new(STANDING);
    match wanted.no {
        Some(no) => {
            query.push(
                ", m.members FROM holding_members AS m JOIN holding AS h ON h.seq = m.holding
                 LEFT JOIN event AS e ON e.position = h.deleted WHERE m.chunk = ",
            );
            query.push_bind(no.0 >> 16).push(" AND m.holding > ");
        }
        None => {
            query.push(
                " FROM holding AS h LEFT JOIN event AS e ON e.position = h.deleted WHERE h.seq > ",
            );
        }
    }
    query.push_bind(wanted.after);
    if let Some(org) = wanted.org {
        query
            .push(" AND h.org = ")
            .push_bind(org.as_str().to_owned());
    }
    if let Some(now) = wanted.overdue_at {
        query
            .push(" AND h.deleted IS NULL AND (h.keep_until < ")
            .push_bind(now.0);
        query.push(" OR EXISTS (SELECT 1 FROM holding_due AS d WHERE d.holding = h.seq AND d.deleted IS NULL AND d.delete_by < ");
        query.push_bind(now.0).push("))");
    }
    query.push(" ORDER BY h.seq LIMIT ").push_bind(wanted.limit);
    let rows = query.build().fetch_all(connection).await?;
    let mut found = Vec::new();
    for row in &rows {
        let is_one = match wanted.no {
            Some(no) => bitmap(row.try_get("members")?)?.contains(no.0),
            None => true,
        };
        if is_one {
            found.push(standing(row)?);
        }
    }
    let last = rows.last().map(|row| row.try_get("seq")).transpose()?;
    let is_full = rows.len() == wanted.limit as usize;
    Ok((found, last.filter(|_| is_full)))
}

/// Holdings of an organisation for a purpose that were not deleted yet.
pub(crate) async fn kept(
    connection: &mut SqliteConnection,
    org: &OrgId,
    purpose: &PurposeCode,
) -> Result<Vec<HoldingRow>> {
    let rows = sqlx::query(
        "SELECT * FROM holding WHERE org = ? AND purpose = ? AND deleted IS NULL ORDER BY seq",
    )
    .bind(org.as_str())
    .bind(purpose.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// The same, as far as an enterprise's data may be in them by consent: those with the chunk that it is in.
pub(crate) async fn kept_with(
    connection: &mut SqliteConnection,
    (org, purpose): (&OrgId, &PurposeCode),
    no: EnterpriseNo,
) -> Result<Vec<HoldingRow>> {
    let rows = sqlx::query(
        "SELECT h.*, m.consenting FROM holding AS h JOIN holding_members AS m ON m.holding = h.seq AND m.chunk = ?
         WHERE h.org = ? AND h.purpose = ? AND h.deleted IS NULL ORDER BY h.seq",
    )
    .bind(no.0 >> 16)
    .bind(org.as_str())
    .bind(purpose.as_str())
    .fetch_all(connection)
    .await?;
    let mut found = Vec::new();
    for row in &rows {
        if bitmap(row.try_get("consenting")?)?.contains(no.0) {
            found.push(read(row)?);
        }
    }
    Ok(found)
}

/// Holdings whose time is over and that do not yet say so.
pub(crate) async fn ending(
    connection: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<HoldingRow>> {
    let rows = sqlx::query(
        "SELECT * FROM holding AS h WHERE deleted IS NULL AND keep_until <= ? AND NOT EXISTS
         (SELECT 1 FROM holding_due AS d WHERE d.holding = h.seq AND d.no = 0) ORDER BY keep_until, seq LIMIT ?",
    )
    .bind(now.0)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// Holdings of which something is still to be deleted because of a consent, and whose part it is.
pub(crate) async fn due_by_consent(
    connection: &mut SqliteConnection,
    consent_id: &str,
) -> Result<Vec<(StandingRow, EnterpriseNo)>> {
    let mut query = QueryBuilder::<Sqlite>::new(STANDING);
    query.push(
        ", o.no FROM holding_due AS o JOIN holding AS h ON h.seq = o.holding LEFT JOIN event AS e ON e.position = h.deleted
         WHERE o.deleted IS NULL AND h.deleted IS NULL AND o.consent_id = ",
    );
    query.push_bind(consent_id.to_owned());
    query.push(" ORDER BY h.seq");
    let rows = query.build().fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok((standing(row)?, EnterpriseNo(row.try_get("no")?))))
        .collect()
}

/// Whose data is in a holding, by chunk.
pub(crate) async fn members(connection: &mut SqliteConnection, holding: i64) -> Result<Vec<Chunk>> {
    let rows = sqlx::query(
        "SELECT chunk, members, consenting FROM holding_members WHERE holding = ? ORDER BY chunk",
    )
    .bind(holding)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Chunk {
                chunk: row.try_get("chunk")?,
                members: bitmap(row.try_get("members")?)?,
                consenting: bitmap(row.try_get("consenting")?)?,
            })
        })
        .collect()
}

/// Whether an enterprise's data is in a holding.
pub(crate) async fn is_member(
    connection: &mut SqliteConnection,
    holding: i64,
    no: EnterpriseNo,
) -> Result<bool> {
    let bytes: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT members FROM holding_members WHERE holding = ? AND chunk = ?")
            .bind(holding)
            .bind(no.0 >> 16)
            .fetch_optional(connection)
            .await?;
    Ok(match bytes {
        Some(bytes) => bitmap(&bytes)?.contains(no.0),
        None => false,
    })
}

/// Marks a part as one that has to be deleted, unless it is one already.
pub(crate) async fn mark(
    connection: &mut SqliteConnection,
    holding: i64,
    due: &DueRow,
) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO holding_due (holding, no, reason, consent_id, delete_by, since) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(holding)
    .bind(due.no)
    .bind(&due.reason)
    .bind(&due.consent_id)
    .bind(due.delete_by.0)
    .bind(fit::<_, i64>(due.since, "a position")?)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the part of an enterprise, or everything, has to be deleted or was; of [`EVERYTHING`], whether that.
pub(crate) async fn is_due(
    connection: &mut SqliteConnection,
    holding: i64,
    no: u32,
) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM holding_due WHERE holding = ? AND no IN (0, ?))",
    )
    .bind(holding)
    .bind(no)
    .fetch_one(connection)
    .await?)
}

/// What of a holding has to be deleted or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Everything.
    All,
    /// What concerns an enterprise: its own part, and that of everybody.
    Of(EnterpriseNo),
}

/// A part with the times of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DuePartRow {
    pub(crate) row: DueRow,
    pub(crate) since: Timestamp,
    pub(crate) deletion: Option<StatedRow>,
}

/// When a deletion was stated, and the body of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatedRow {
    pub(crate) at: Timestamp,
    pub(crate) body: String,
}

fn stated(row: &SqliteRow) -> Result<Option<StatedRow>> {
    let at: Option<i64> = row.try_get("deleted_ms")?;
    let body: Option<String> = row.try_get("deletion")?;
    Ok(at.zip(body).map(|(at, body)| StatedRow {
        at: Timestamp(at),
        body,
    }))
}

fn due_row(row: &SqliteRow) -> Result<DueRow> {
    Ok(DueRow {
        no: row.try_get("no")?,
        reason: row.try_get("reason")?,
        consent_id: row.try_get("consent_id")?,
        delete_by: Timestamp(row.try_get("delete_by")?),
        since: fit(row.try_get::<i64, _>("since")?, "a position")?,
        deleted: row
            .try_get::<Option<i64>, _>("deleted")?
            .map(|position| fit(position, "a position"))
            .transpose()?,
    })
}

/// Everything of a holding that has to be deleted or was, by enterprise.
pub(crate) async fn due(connection: &mut SqliteConnection, holding: i64) -> Result<Vec<DueRow>> {
    let rows = sqlx::query(
        "SELECT no, reason, consent_id, delete_by, since, deleted FROM holding_due WHERE holding = ? ORDER BY no",
    )
    .bind(holding)
    .fetch_all(connection)
    .await?;
    rows.iter().map(due_row).collect()
}

/// Parts of a holding that have to be deleted or were, by enterprise, with the times of their events.
pub(crate) async fn due_parts(
    connection: &mut SqliteConnection,
    holding: i64,
    parts: Parts,
) -> Result<Vec<DuePartRow>> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT d.no, d.reason, d.consent_id, d.delete_by, d.since, d.deleted,
             s.time_ms AS since_ms, e.time_ms AS deleted_ms, e.body AS deletion
         FROM holding_due AS d JOIN event AS s ON s.position = d.since LEFT JOIN event AS e ON e.position = d.deleted
         WHERE d.holding = ",
    );
    query.push_bind(holding);
    if let Parts::Of(no) = parts {
        query.push(" AND d.no IN (0, ").push_bind(no.0).push(")");
    }
    query.push(" ORDER BY d.no");
    let rows = query.build().fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(DuePartRow {
                row: due_row(row)?,
                since: Timestamp(row.try_get("since_ms")?),
                deletion: stated(row)?,
            })
        })
        .collect()
}

/// Notes that what was due is deleted, and all of the holding where `whole`.
pub(crate) async fn delete(
    connection: &mut SqliteConnection,
    holding: i64,
    whole: bool,
    position: u64,
) -> Result<()> {
    let position = fit::<_, i64>(position, "a position")?;
    sqlx::query("UPDATE holding_due SET deleted = ? WHERE holding = ? AND deleted IS NULL")
        .bind(position)
        .bind(holding)
        .execute(&mut *connection)
        .await?;
    if whole {
        sqlx::query("UPDATE holding SET deleted = ? WHERE seq = ?")
            .bind(position)
            .bind(holding)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Lets a holding be kept no longer than until an instant.
pub(crate) async fn shorten(
    connection: &mut SqliteConnection,
    holding: i64,
    keep_until: Timestamp,
) -> Result<()> {
    sqlx::query("UPDATE holding SET keep_until = ? WHERE seq = ? AND (keep_until IS NULL OR keep_until > ?)")
        .bind(keep_until.0)
        .bind(holding)
        .bind(keep_until.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Grants with action STORE that were in force at a decision, of equal terms.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Storable {
    /// For how many days what they open may be kept.
    pub(crate) days: u32,
    /// Whether their uses are counted.
    pub(crate) metered: bool,
    /// Whose they are.
    pub(crate) whose: RoaringBitmap,
}

/// What a decision looked at: the grantee, the position of the ledger, and the instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecidedOn<'a> {
    pub(crate) grantee: (&'a OrgId, &'a PurposeCode, &'a DatasetId),
    pub(crate) position: u64,
    pub(crate) at: Timestamp,
}

/// The grants with action STORE that were in force at a decision, among `numbers` (none: among all), whatever became of
/// them since; those that may be kept for the shortest time first.
pub(crate) async fn storable(
    connection: &mut SqliteConnection,
    decided: DecidedOn<'_>,
    numbers: Option<&[u32]>,
) -> Result<Vec<Storable>> {
    let (org, purpose, dataset) = decided.grantee;
    let position = fit::<_, i64>(decided.position, "a position")?;
    // As in `grants::all`: a row per 65,536 numbers, not one per grant. What nothing happened to since the decision is as
    // it was; of the few others the last event before it says how they stood. A version that a narrowing made since has
    // none, though its grants count as given when those of the version before it were.
    let mut query = QueryBuilder::<Sqlite>::new(
        "WITH since (consent, was_active) AS MATERIALIZED (
             SELECT c.seq, 'ACTIVE' IS (SELECT json_extract(b.body, '$.state') FROM event AS b
                 WHERE b.consent_id = e.consent_id AND b.version = e.version AND b.position <= ",
    );
    query.push_bind(position).push(
        " ORDER BY b.position DESC LIMIT 1)
             FROM (SELECT DISTINCT consent_id, version FROM event WHERE position > ",
    );
    query.push_bind(position).push(
        " AND consent_id IS NOT NULL) AS e
             CROSS JOIN consent AS c ON c.consent_id = e.consent_id AND c.version = e.version WHERE c.org = ",
    );
    query
        .push_bind(org.as_str().to_owned())
        .push(" AND c.purpose = ");
    query.push_bind(purpose.as_str().to_owned()).push(
        ")
         SELECT data_life, metered, group_concat(no, ' ') FROM grant_row
         WHERE grantee = (SELECT id FROM grantee WHERE org = ",
    );
    query
        .push_bind(org.as_str().to_owned())
        .push(" AND purpose = ");
    query
        .push_bind(purpose.as_str().to_owned())
        .push(" AND dataset = ");
    query
        .push_bind(dataset.as_str().to_owned())
        .push(") AND actions & 4 <> 0 AND starts <= ");
    query.push_bind(decided.at.0).push(" AND expires > ");
    query.push_bind(decided.at.0).push(
        " AND CASE WHEN consent IN (SELECT consent FROM since)
             THEN consent IN (SELECT consent FROM since WHERE was_active) ELSE status = 2 AND given <= ",
    );
    query.push_bind(position).push(" END");
    if let Some(numbers) = numbers {
        query.push(" AND no IN (SELECT value FROM json_each(");
        query.push_bind(text::canonical(&numbers)?).push("))");
    }
    query.push(" GROUP BY data_life, metered, no >> 16 ORDER BY data_life, metered");
    let rows = query.build().fetch_all(connection).await?;
    let mut found: Vec<Storable> = Vec::new();
    for row in &rows {
        let (days, metered) = (row.try_get(0)?, row.try_get(1)?);
        let numbers: &str = row.try_get(2)?;
        let numbers = numbers.split_ascii_whitespace().map(|word| {
            word.parse::<u32>()
                .map_err(|_| LedgerError::Corrupt("a grant is torn".to_owned()))
        });
        let whose = numbers.collect::<Result<RoaringBitmap>>()?;
        match found.last_mut() {
            Some(known) if (known.days, known.metered) == (days, metered) => known.whose |= whose,
            _ => found.push(Storable {
                days,
                metered,
                whose,
            }),
        }
    }
    Ok(found)
}
