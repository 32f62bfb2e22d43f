//! Enterprise numbers: bulk statements, because a million at a time is ordinary.
//!
//! A statement costs some ten microseconds and a row that leaves the store about one, so lists go in and come out as
//! one value: a JSON list in, concatenated text out.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use qihui_catalog::{EnterpriseNo, NumberRequest, NumbersError, Uscc};
use sqlx::{Row, SqliteConnection};

use crate::ledger::{Mode, numbers_error};

/// How many enterprises one statement is about.
const BATCH: usize = 20_000;
/// How many numbers one statement reads.
const RANGE: u32 = 1 << 16;
/// The digits of a number inside a batch; every number has at most ten.
const DIGITS: usize = 10;
/// The symbols of a USCC.
const USCC: usize = 18;

fn store_error(error: sqlx::Error) -> NumbersError {
    numbers_error(error.into())
}

fn damaged() -> NumbersError {
    NumbersError::Store {
        reason: "the enterprise numbers are damaged: restore them from a backup".to_owned(),
        source: None,
    }
}

/// A connection for numbers, with room for the pages that a million enterprises touch.
pub(crate) async fn open(path: &Path, mode: Mode) -> Result<SqliteConnection, NumbersError> {
    let opened = match mode {
        Mode::Owned => super::open(path).await,
        Mode::Followed => super::follow(path).await,
    };
    let mut connection = opened.map_err(numbers_error)?;
    sqlx::query("PRAGMA cache_size = -131072")
        .execute(&mut connection)
        .await
        .map_err(store_error)?;
    Ok(connection)
}

/// How many enterprises have a number.
pub(crate) async fn count(connection: &mut SqliteConnection) -> Result<usize, NumbersError> {
    let count: i64 = sqlx::query_scalar("SELECT coalesce(sum(used) - 1, 0) FROM number_block")
        .fetch_one(connection)
        .await
        .map_err(store_error)?;
    usize::try_from(count).map_err(|_| damaged())
}

/// Every enterprise with its number.
pub(crate) async fn all(
    connection: &mut SqliteConnection,
) -> Result<Vec<(Uscc, u32)>, NumbersError> {
    let last: Option<u32> = sqlx::query_scalar("SELECT max(no) FROM enterprise")
        .fetch_one(&mut *connection)
        .await
        .map_err(store_error)?;
    let mut all = Vec::new();
    for from in (0..=last.unwrap_or(0)).step_by(RANGE as usize) {
        let found: Option<String> = sqlx::query_scalar(
            "SELECT group_concat(no || uscc, ' ') FROM enterprise WHERE no BETWEEN ? AND ?",
        )
        .bind(from)
        .bind(from.saturating_add(RANGE - 1))
        .fetch_one(&mut *connection)
        .await
        .map_err(store_error)?;
        for word in found.unwrap_or_default().split_ascii_whitespace() {
            let digits = word.len().checked_sub(USCC).ok_or_else(damaged)?;
            let (number, uscc) = word.split_at_checked(digits).ok_or_else(damaged)?;
            let number = number.parse().map_err(|_| damaged())?;
            all.push((Uscc::normalise(uscc).map_err(|_| damaged())?, number));
        }
    }
    Ok(all)
}

/// The number of each enterprise, 0 where it has none. The caller remembers so many, but none of these.
pub(crate) async fn lookup(
    connection: &mut SqliteConnection,
    usccs: &[Uscc],
    remembered: usize,
) -> Result<Vec<u32>, NumbersError> {
    // INVARIANT: numbers are never taken back, so who remembers as many as there are remembers all.
    if count(connection).await? == remembered {
        return Ok(vec![0; usccs.len()]);
    }
    let mut numbers = Vec::with_capacity(usccs.len());
    for batch in usccs.chunks(BATCH) {
        let packed: String = batch.iter().map(Uscc::as_str).collect();
        let found: Option<String> = sqlx::query_scalar(
            "WITH RECURSIVE place (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM place WHERE i + 1 < ?2),
                 wanted (i, uscc) AS (SELECT i, CAST(substr(?1, i * 18 + 1, 18) AS TEXT) FROM place)
             SELECT group_concat(coalesce((SELECT no FROM enterprise WHERE enterprise.uscc = wanted.uscc), 0), ' '
                 ORDER BY i) FROM wanted",
        )
        .bind(packed.into_bytes())
        .bind(i64::try_from(batch.len()).unwrap_or(0))
        .fetch_one(&mut *connection)
        .await
        .map_err(store_error)?;
        for word in found.unwrap_or_default().split_ascii_whitespace() {
            numbers.push(word.parse().map_err(|_| damaged())?);
        }
    }
    if numbers.len() == usccs.len() {
        Ok(numbers)
    } else {
        Err(damaged())
    }
}

/// The enterprise behind each number.
pub(crate) async fn uscc_of(
    connection: &mut SqliteConnection,
    numbers: &[u32],
) -> Result<Vec<Option<Uscc>>, NumbersError> {
    let mut usccs = Vec::with_capacity(numbers.len());
    for batch in numbers.chunks(BATCH) {
        let wanted = crate::text::canonical(&batch).map_err(numbers_error)?;
        let found: Option<String> = sqlx::query_scalar(
            "SELECT group_concat(coalesce((SELECT uscc FROM enterprise WHERE no = json_each.value), '-'), ' '
                 ORDER BY json_each.key) FROM json_each(?)",
        )
        .bind(wanted)
        .fetch_one(&mut *connection)
        .await
        .map_err(store_error)?;
        for word in found.unwrap_or_default().split_ascii_whitespace() {
            usccs.push(if word == "-" {
                None
            } else {
                Some(Uscc::normalise(word).map_err(|_| damaged())?)
            });
        }
    }
    if usccs.len() == numbers.len() {
        Ok(usccs)
    } else {
        Err(damaged())
    }
}

/// The number of each enterprise, in one transaction; those that have none get the next of their county and section.
pub(crate) async fn assign(
    connection: &mut SqliteConnection,
    wanted: &[NumberRequest],
    remembered: usize,
) -> Result<Vec<u32>, NumbersError> {
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await
        .map_err(store_error)?;
    let assigned = assign_inside(connection, wanted, remembered).await;
    // The caller drops the connection after an error, and with it the transaction.
    let assigned = assigned?;
    sqlx::query("COMMIT")
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(assigned)
}

async fn assign_inside(
    connection: &mut SqliteConnection,
    wanted: &[NumberRequest],
    remembered: usize,
) -> Result<Vec<u32>, NumbersError> {
    // Ascending codes: neighbours in the index are touched together.
    let mut order: Vec<(Uscc, usize)> = wanted
        .iter()
        .enumerate()
        .map(|(place, wanted)| (wanted.uscc, place))
        .collect();
    order.sort_unstable();
    let mut distinct: Vec<Uscc> = order.iter().map(|(uscc, _)| *uscc).collect();
    distinct.dedup();
    let mut numbers = lookup(connection, &distinct, remembered).await?;
    let mut groups: BTreeMap<Home, Vec<usize>> = BTreeMap::new();
    let first_wish = order
        .chunk_by(|a, b| a.0 == b.0)
        .filter_map(|same| same.first());
    for (index, (_, place)) in first_wish.enumerate() {
        if numbers.get(index) == Some(&0)
            && let Some(wish) = wanted.get(*place)
        {
            groups.entry(home(wish)).or_default().push(index);
        }
    }
    let mut new = Vec::new();
    for (home, members) in groups {
        let fresh = next_numbers(connection, home, members.len()).await?;
        for (index, number) in members.into_iter().zip(fresh) {
            if let (Some(slot), Some(uscc)) = (numbers.get_mut(index), distinct.get(index)) {
                *slot = number;
                new.push((*uscc, number));
            }
        }
    }
    // In the order of the index, whose pages are the more.
    new.sort_unstable();
    insert_new(connection, &new).await?;
    let mut result = vec![0; wanted.len()];
    for (same, number) in order.chunk_by(|a, b| a.0 == b.0).zip(&numbers) {
        for (_, place) in same {
            if let Some(slot) = result.get_mut(*place) {
                *slot = *number;
            }
        }
    }
    Ok(result)
}

/// The county and section whose block an enterprise belongs to.
type Home = ([u8; 6], Option<char>);

/// Without a county that of its code stands in; what is no text is no county.
fn home(wish: &NumberRequest) -> Home {
    let own = wish
        .uscc
        .division()
        .as_bytes()
        .try_into()
        .unwrap_or_default();
    let county = wish
        .county
        .filter(|county| std::str::from_utf8(county).is_ok());
    (county.unwrap_or(own), wish.section)
}

/// The next numbers of a county and section, ascending.
async fn next_numbers(
    connection: &mut SqliteConnection,
    (county, section): Home,
    count: usize,
) -> Result<Vec<u32>, NumbersError> {
    let county = &String::from_utf8_lossy(&county).into_owned();
    let section = &section.map(String::from).unwrap_or_default();
    let open = sqlx::query(
        "SELECT block, used FROM number_block WHERE county = ? AND section = ? ORDER BY block DESC LIMIT 1",
    )
    .bind(county)
    .bind(section)
    .fetch_optional(&mut *connection)
    .await
    .map_err(store_error)?;
    let mut open: Option<(u32, u32)> = match open {
        Some(row) => Some((
            row.try_get(0).map_err(store_error)?,
            row.try_get(1).map_err(store_error)?,
        )),
        None => None,
    };
    let mut numbers = Vec::with_capacity(count);
    while numbers.len() < count {
        let (block, used) = match open.take().filter(|(_, used)| *used < EnterpriseNo::BLOCK) {
            Some(open) => open,
            None => new_block(connection, county, section).await?,
        };
        let left = u32::try_from(count - numbers.len()).unwrap_or(u32::MAX);
        let taken = left.min(EnterpriseNo::BLOCK - used);
        let first = block * EnterpriseNo::BLOCK + used;
        numbers.extend(first..first + taken);
        sqlx::query("UPDATE number_block SET used = ? WHERE block = ?")
            .bind(used + taken)
            .bind(block)
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
        open = Some((block, used + taken));
    }
    Ok(numbers)
}

/// Opens the next block; of the very first one number 0 is taken already.
async fn new_block(
    connection: &mut SqliteConnection,
    county: &str,
    section: &str,
) -> Result<(u32, u32), NumbersError> {
    let last: Option<u32> = sqlx::query_scalar("SELECT max(block) FROM number_block")
        .fetch_one(&mut *connection)
        .await
        .map_err(store_error)?;
    let block = last.map_or(0, |last| last + 1);
    if block > EnterpriseNo::MAX.block() {
        return Err(NumbersError::Exhausted);
    }
    let used = u32::from(block == 0);
    sqlx::query("INSERT INTO number_block (block, county, section, used) VALUES (?, ?, ?, ?)")
        .bind(block)
        .bind(county)
        .bind(section)
        .bind(used)
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok((block, used))
}

/// Stores enterprises with their new numbers.
async fn insert_new(
    connection: &mut SqliteConnection,
    new: &[(Uscc, u32)],
) -> Result<(), NumbersError> {
    for batch in new.chunks(BATCH) {
        let mut packed = String::with_capacity(batch.len() * (DIGITS + USCC));
        for (uscc, number) in batch {
            let _ = write!(packed, "{number:010}{uscc}");
        }
        sqlx::query(
            "WITH RECURSIVE place (i) AS (SELECT 0 UNION ALL SELECT i + 28 FROM place WHERE i + 28 < length(?1))
             INSERT INTO enterprise (no, uscc)
             SELECT CAST(substr(?1, i + 1, 10) AS INTEGER), CAST(substr(?1, i + 11, 18) AS TEXT) FROM place",
        )
        .bind(packed.into_bytes())
        .execute(&mut *connection)
        .await
        .map_err(store_error)?;
    }
    Ok(())
}
