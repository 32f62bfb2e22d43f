//! Agreements.

use qihui_catalog::OrgId;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{fit, parsed};
use crate::{decision::Agreement, error::Result, text};

/// An agreement as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgreementRow {
    pub(crate) agreement: Agreement,
    pub(crate) added: u64,
    pub(crate) revoked: bool,
}

fn read(row: &SqliteRow) -> Result<AgreementRow> {
    Ok(AgreementRow {
        agreement: parsed(row.try_get("document")?, "an agreement")?,
        added: fit(row.try_get::<i64, _>("added")?, "a position")?,
        revoked: row.try_get::<Option<i64>, _>("revoked")?.is_some(),
    })
}

pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    agreement: &Agreement,
    position: u64,
) -> Result<()> {
    sqlx::query("INSERT INTO agreement (id, org, document, added) VALUES (?, ?, ?, ?)")
        .bind(agreement.id.as_str())
        .bind(agreement.org.as_str())
        .bind(text::canonical(agreement)?)
        .bind(fit::<_, i64>(position, "a position")?)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn find(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<AgreementRow>> {
    let row = sqlx::query("SELECT document, added, revoked FROM agreement WHERE id = ?")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

pub(crate) async fn revoke(
    connection: &mut SqliteConnection,
    id: &str,
    position: u64,
) -> Result<()> {
    sqlx::query("UPDATE agreement SET revoked = ? WHERE id = ? AND revoked IS NULL")
        .bind(fit::<_, i64>(position, "a position")?)
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn of_org(
    connection: &mut SqliteConnection,
    org: &OrgId,
) -> Result<Vec<AgreementRow>> {
    let rows =
        sqlx::query("SELECT document, added, revoked FROM agreement WHERE org = ? ORDER BY id")
            .bind(org.as_str())
            .fetch_all(connection)
            .await?;
    rows.iter().map(read).collect()
}

/// An agreement whose columns say something else than its document; none: there is no such agreement.
pub(crate) async fn contradicting(connection: &mut SqliteConnection) -> Result<Option<String>> {
    Ok(sqlx::query_scalar(
        "SELECT id FROM agreement
         WHERE id IS NOT json_extract(document, '$.id') OR org IS NOT json_extract(document, '$.org') LIMIT 1",
    )
    .fetch_optional(connection)
    .await?)
}

pub(crate) async fn all(connection: &mut SqliteConnection) -> Result<Vec<AgreementRow>> {
    let rows = sqlx::query("SELECT document, added, revoked FROM agreement ORDER BY id")
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}
