//! Organisations, purpose assignments, signatories.

use qihui_catalog::{EnterpriseNo, OrgId, PurposeCode};
use sqlx::{Row, SqliteConnection};

use super::{fit, named};
use crate::{error::Result, signing::PublicKey};

pub(crate) async fn insert_org(
    connection: &mut SqliteConnection,
    id: &OrgId,
    name: &str,
    kind: &str,
    position: u64,
) -> Result<()> {
    sqlx::query("INSERT INTO organisation (id, name, kind, added) VALUES (?, ?, ?, ?)")
        .bind(id.as_str())
        .bind(name)
        .bind(kind)
        .bind(fit::<_, i64>(position, "a position")?)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn org_exists(connection: &mut SqliteConnection, id: &OrgId) -> Result<bool> {
    Ok(
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM organisation WHERE id = ?)")
            .bind(id.as_str())
            .fetch_one(connection)
            .await?,
    )
}

/// Identifier, name and kind of every organisation.
pub(crate) async fn orgs(
    connection: &mut SqliteConnection,
) -> Result<Vec<(OrgId, String, String)>> {
    let rows = sqlx::query("SELECT id, name, kind FROM organisation ORDER BY id")
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok((
                named(row.try_get(0)?, "an organisation")?,
                row.try_get(1)?,
                row.try_get(2)?,
            ))
        })
        .collect()
}

/// Assigns a purpose; false when it was assigned before.
pub(crate) async fn assign_purpose(
    connection: &mut SqliteConnection,
    org: &OrgId,
    principal: &str,
    purpose: &PurposeCode,
    position: u64,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT OR IGNORE INTO purpose_assignment (org, principal, purpose, added) VALUES (?, ?, ?, ?)",
    )
    .bind(org.as_str())
    .bind(principal)
    .bind(purpose.as_str())
    .bind(fit::<_, i64>(position, "a position")?)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes a purpose back; false when it was not assigned.
pub(crate) async fn unassign_purpose(
    connection: &mut SqliteConnection,
    org: &OrgId,
    principal: &str,
    purpose: &PurposeCode,
) -> Result<bool> {
    let done = sqlx::query(
        "DELETE FROM purpose_assignment WHERE org = ? AND principal = ? AND purpose = ?",
    )
    .bind(org.as_str())
    .bind(principal)
    .bind(purpose.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Principal and purpose of every assignment of an organisation that was made up to a position.
pub(crate) async fn assignments(
    connection: &mut SqliteConnection,
    org: &OrgId,
    up_to: u64,
) -> Result<Vec<(String, PurposeCode)>> {
    let rows = sqlx::query(
        "SELECT principal, purpose FROM purpose_assignment WHERE org = ? AND added <= ? ORDER BY principal, purpose",
    )
    .bind(org.as_str())
    .bind(i64::try_from(up_to).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, named(row.try_get(1)?, "a purpose")?)))
        .collect()
}

pub(crate) async fn insert_signatory(
    connection: &mut SqliteConnection,
    no: EnterpriseNo,
    name: &str,
    key: &PublicKey,
    position: u64,
) -> Result<()> {
    sqlx::query("INSERT INTO signatory (no, name, key, added) VALUES (?, ?, ?, ?)")
        .bind(no.0)
        .bind(name)
        .bind(key.as_bytes().as_slice())
        .bind(fit::<_, i64>(position, "a position")?)
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes a signatory; false when there is none of that name.
pub(crate) async fn remove_signatory(
    connection: &mut SqliteConnection,
    no: EnterpriseNo,
    name: &str,
    position: u64,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE signatory SET removed = ? WHERE no = ? AND name = ? AND removed IS NULL",
    )
    .bind(fit::<_, i64>(position, "a position")?)
    .bind(no.0)
    .bind(name)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The present signatories of an enterprise, by name.
pub(crate) async fn signatories(
    connection: &mut SqliteConnection,
    no: EnterpriseNo,
) -> Result<Vec<(String, PublicKey)>> {
    let rows = sqlx::query(
        "SELECT name, key FROM signatory WHERE no = ? AND removed IS NULL ORDER BY name",
    )
    .bind(no.0)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, PublicKey::from_bytes(row.try_get(1)?)?)))
        .collect()
}

/// How many signatories of an enterprise have to sign what gives.
pub(crate) async fn threshold(connection: &mut SqliteConnection, no: EnterpriseNo) -> Result<u32> {
    let found: Option<u32> = sqlx::query_scalar("SELECT threshold FROM threshold WHERE no = ?")
        .bind(no.0)
        .fetch_optional(connection)
        .await?;
    Ok(found.unwrap_or(1))
}

pub(crate) async fn set_threshold(
    connection: &mut SqliteConnection,
    no: EnterpriseNo,
    threshold: u32,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO threshold (no, threshold) VALUES (?, ?) ON CONFLICT (no) DO UPDATE SET threshold = excluded.threshold",
    )
    .bind(no.0)
    .bind(threshold)
    .execute(connection)
    .await?;
    Ok(())
}
