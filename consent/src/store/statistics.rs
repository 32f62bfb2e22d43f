//! Editions of figures, and what was released of them.

use qihui_catalog::{DatasetId, Date};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::fit;
use crate::{error::Result, ledger::EditionKey};

/// A row of `statistic`.
pub(crate) struct StatisticRow {
    pub(crate) question: Vec<u8>,
    pub(crate) position: u64,
    pub(crate) measures: String,
    pub(crate) sizes: String,
    pub(crate) groups: Vec<u8>,
}

fn day(date: Date) -> String {
    date.to_string()
}

/// The edition of exactly this key.
pub(crate) async fn edition(
    connection: &mut SqliteConnection,
    key: &EditionKey,
) -> Result<Option<i64>> {
    let sql =
        "SELECT id FROM edition WHERE org = ? AND dataset = ? AND first_day = ? AND end_day = ?";
    let id = sqlx::query_scalar(sql)
        .bind(key.org.as_str())
        .bind(key.dataset.as_str())
        .bind(day(key.first_day))
        .bind(day(key.end_day));
    Ok(id.fetch_optional(connection).await?)
}

/// Whether another edition has a day in common with this one.
pub(crate) async fn overlaps(connection: &mut SqliteConnection, key: &EditionKey) -> Result<bool> {
    let sql = "SELECT count(*) FROM edition WHERE org = ? AND dataset = ? AND first_day < ? AND end_day > ? \
               AND NOT (first_day = ? AND end_day = ?)";
    let count: i64 = sqlx::query_scalar(sql)
        .bind(key.org.as_str())
        .bind(key.dataset.as_str())
        .bind(day(key.end_day))
        .bind(day(key.first_day))
        .bind(day(key.first_day))
        .bind(day(key.end_day))
        .fetch_one(connection)
        .await?;
    Ok(count > 0)
}

pub(crate) async fn insert_edition(
    connection: &mut SqliteConnection,
    key: &EditionKey,
) -> Result<i64> {
    let sql = "INSERT INTO edition (org, dataset, first_day, end_day) VALUES (?, ?, ?, ?)";
    let done = sqlx::query(sql)
        .bind(key.org.as_str())
        .bind(key.dataset.as_str())
        .bind(day(key.first_day))
        .bind(day(key.end_day))
        .execute(connection)
        .await?;
    Ok(done.last_insert_rowid())
}

/// The version of each table that the figures are made of.
pub(crate) async fn tables(
    connection: &mut SqliteConnection,
    edition: i64,
) -> Result<Vec<(String, i64)>> {
    let sql = "SELECT dataset, version FROM edition_table WHERE edition = ? ORDER BY dataset";
    let rows = sqlx::query(sql).bind(edition).fetch_all(connection).await?;
    let read = |row: &SqliteRow| Ok((row.try_get("dataset")?, row.try_get("version")?));
    rows.iter().map(read).collect()
}

/// The versions of tables that any edition is made of.
pub(crate) async fn all_tables(connection: &mut SqliteConnection) -> Result<Vec<(String, i64)>> {
    let sql = "SELECT DISTINCT dataset, version FROM edition_table ORDER BY dataset, version";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    let read = |row: &SqliteRow| Ok((row.try_get("dataset")?, row.try_get("version")?));
    rows.iter().map(read).collect()
}

pub(crate) async fn insert_table(
    connection: &mut SqliteConnection,
    edition: i64,
    dataset: &DatasetId,
    version: i64,
) -> Result<()> {
    sqlx::query("INSERT INTO edition_table (edition, dataset, version) VALUES (?, ?, ?)")
        .bind(edition)
        .bind(dataset.as_str())
        .bind(version)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn insert_statistic(
    connection: &mut SqliteConnection,
    edition: i64,
    row: &StatisticRow,
) -> Result<()> {
    let sql = "INSERT INTO statistic (edition, question, position, measures, sizes, groups) VALUES (?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(edition)
        .bind(row.question.as_slice())
        .bind(fit::<_, i64>(row.position, "a position")?)
        .bind(&row.measures)
        .bind(&row.sizes)
        .bind(row.groups.as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

/// What was released of an edition, oldest first.
pub(crate) async fn statistics(
    connection: &mut SqliteConnection,
    edition: i64,
) -> Result<Vec<StatisticRow>> {
    let sql = "SELECT question, position, measures, sizes, groups FROM statistic WHERE edition = ? ORDER BY position";
    let rows = sqlx::query(sql).bind(edition).fetch_all(connection).await?;
    let read = |row: &SqliteRow| {
        Ok(StatisticRow {
            question: row.try_get("question")?,
            position: fit(row.try_get::<i64, _>("position")?, "a position")?,
            measures: row.try_get("measures")?,
            sizes: row.try_get("sizes")?,
            groups: row.try_get("groups")?,
        })
    };
    rows.iter().map(read).collect()
}
