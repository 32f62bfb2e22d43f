//! Holdings: what organisations were given to keep.
//!
//! Promises:
//! - Every release under action STORE is a holding, in the ledger before the release counts as complete; the same access
//!   is one holding, however often it is told.
//! - A holding says until when it may be kept: from the release on, for the shortest time that a consent, a statute or
//!   the purpose behind it allows. What an enterprise takes back has to be deleted within [`DELETE_WITHIN_DAYS`], and that
//!   is in force when the taking back is. [`DELETION_DUE`](HoldingState::DeletionDue) is said from the instant on,
//!   whether or not it was written down yet.
//! - Every change is an event, and what is stored of a holding is the fold over its events ([`super::fold`]). Whose data is in
//!   it is bound to its event by a hash.
//!
//! Limits: the hub says what has to be deleted and records what the organisation states; it cannot see the copy. The
//! enterprises of an event are its subjects while there are at most [`MAX_SUBJECTS`] of them.

use std::collections::BTreeSet;

use qihui_catalog::{ConsentId, DatasetId, EnterpriseNo, OrgId, PurposeCode, Timestamp};
use roaring::RoaringBitmap;
use serde::Deserialize;
use serde_json::json;
use sqlx::SqliteConnection;

use super::{
    Deletion, DuePart, Holding, HoldingDocument, HoldingFilter, HoldingState, Ledger, Released,
    change::Change, marks,
};
use crate::{
    decision::Basis,
    error::{LedgerError, Result},
    store::{
        agreements,
        holdings::{
            self, Chunk, DecidedOn, DuePartRow, EVERYTHING, HoldingRow, Parts, StandingRow,
            StatedRow, Wanted,
        },
        parsed,
    },
    text,
};

/// How long an organisation has to delete what was taken back, in days, unless it may keep it for less.
pub const DELETE_WITHIN_DAYS: u32 = 7;
/// Up to this many enterprises, each is a subject of the event.
const MAX_SUBJECTS: u64 = 1024;
/// Up to this many enterprises, their grants are looked up one by one.
const MAX_LOOKED_UP: u64 = 1024;
/// The most that one page holds.
const MAX_PAGE: u32 = 1000;
/// At least so many are looked at at once.
const LOOKED_AT: u32 = 100;
/// The longest statement of a deletion, in characters.
const MAX_STATEMENT: usize = 2000;
const DAY_MS: i64 = 86_400_000;

impl Released {
    fn everybody(&self) -> (RoaringBitmap, RoaringBitmap) {
        let empty = || (RoaringBitmap::new(), RoaringBitmap::new());
        self.datasets
            .iter()
            .fold(empty(), |(all, consenting), (_, members, by_consent)| {
                (all | members, consenting | (by_consent & members))
            })
    }
}

/// A set of enterprises in canonical form: equal sets give equal bytes.
fn canonical(numbers: impl Iterator<Item = u32>) -> RoaringBitmap {
    let mut numbers: RoaringBitmap = numbers.collect();
    numbers.optimize();
    numbers
}

fn chunks(members: &RoaringBitmap, consenting: &RoaringBitmap) -> Vec<Chunk> {
    let upper: BTreeSet<u32> = members.iter().map(|no| no >> 16).collect();
    upper
        .into_iter()
        .map(|chunk| {
            let range = (chunk << 16)..=(chunk << 16 | 0xffff);
            Chunk {
                chunk,
                members: canonical(members.range(range.clone())),
                consenting: canonical(consenting.range(range)),
            }
        })
        .collect()
}

/// SHA-256 over whose data is in a holding, as it is stored.
pub(crate) fn members_hash(chunks: &[Chunk]) -> Result<String> {
    let mut bytes = Vec::new();
    for chunk in chunks {
        bytes.extend_from_slice(&chunk.chunk.to_be_bytes());
        for set in [&chunk.members, &chunk.consenting] {
            let set = holdings::bytes_of(set)?;
            bytes.extend_from_slice(&(set.len() as u64).to_be_bytes());
            bytes.extend_from_slice(&set);
        }
    }
    Ok(hex::encode(text::sha256(&bytes)))
}

fn subjects(numbers: &RoaringBitmap) -> Vec<EnterpriseNo> {
    if numbers.len() > MAX_SUBJECTS {
        return Vec::new();
    }
    numbers.iter().map(EnterpriseNo).collect()
}

pub(crate) fn days_after(at: Timestamp, days: u32) -> Timestamp {
    Timestamp(at.0.saturating_add(i64::from(days).saturating_mul(DAY_MS)))
}

/// For how many days a release may be kept: the shortest of what the purpose, the statutes and the consents behind it
/// allow, as they were at its decision; none where it rests on none of them, being of open data alone. The answer is the
/// same whenever it is asked, so that nobody who writes has to wait for it.
async fn life_of(connection: &mut SqliteConnection, new: &Released) -> Result<Option<u32>> {
    let (_, consenting) = new.everybody();
    if new.basis.is_empty() && consenting.is_empty() {
        return Ok(None);
    }
    let mut life = new.cap_days;
    let mut at_most = |days: u32| life = Some(life.map_or(days, |life| life.min(days)));
    for id in &new.basis {
        let found = agreements::find(connection, id.as_str()).await?;
        if let Some(Basis::Statute {
            data_life_days: Some(days),
            ..
        }) = found.map(|row| row.agreement.basis)
        {
            at_most(days);
        }
    }
    for (held, members, by_consent) in &new.datasets {
        let consenting = members & by_consent;
        if consenting.is_empty() {
            continue;
        }
        let few: Option<Vec<u32>> =
            (consenting.len() <= MAX_LOOKED_UP).then(|| consenting.iter().collect());
        let decided = DecidedOn {
            grantee: (&new.org, &new.purpose, &held.dataset),
            position: new.decided_at,
            at: new.decided,
        };
        let behind = holdings::storable(connection, decided, few.as_deref()).await?;
        let shortest = behind
            .into_iter()
            .find(|grants| !grants.whose.is_disjoint(&consenting));
        if let Some(grants) = shortest {
            at_most(grants.days);
        }
    }
    Ok(life)
}

impl Ledger {
    /// Records a release as a holding, or finds the one that was recorded of the same access. What was taken away since
    /// its decision is marked as to be deleted from the start.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn record_holding(&self, new: Released) -> Result<Holding> {
        let mut reader = self.inner.reader().await?;
        let life = life_of(&mut reader, &new).await?;
        let mut ended = marks::Ended::since(new.decided_at);
        ended.look(&mut reader, (&new.org, &new.purpose)).await?;
        drop(reader);
        let mut change = self.change().await?;
        let known = holdings::of_access(change.connection(), &new.access_id).await?;
        if let Some(known) = known {
            drop(change);
            return self.holding(&known.document.holding_id).await;
        }
        let (members, consenting) = new.everybody();
        let chunks = chunks(&members, &consenting);
        let at = change.now;
        let (rows, bytes, sha256) = match new.came_to {
            Some((rows, bytes, sha256)) => (rows, Some(bytes), Some(sha256)),
            None => (None, None, None),
        };
        let document = HoldingDocument {
            holding_id: format!("h-{}", text::random_hex::<8>()?),
            access_id: new.access_id,
            org: new.org,
            purpose: new.purpose,
            datasets: new.datasets.into_iter().map(|(held, ..)| held).collect(),
            basis: new.basis,
            at,
            complete: new.complete,
            rows,
            bytes,
            sha256,
            enterprises: members.len(),
            data_life_days: life,
            members_sha256: members_hash(&chunks)?,
        };
        let keep_until = life.map(|days| days_after(at, days));
        let body = json!({ "holding": document });
        let subjects = subjects(&members);
        let position = change
            .append("holding.recorded", &body, &subjects, None)
            .await?;
        let seq = holdings::insert(change.connection(), &document, keep_until, position).await?;
        for chunk in &chunks {
            holdings::insert_members(change.connection(), seq, chunk).await?;
        }
        marks::taken_meanwhile(&mut change, &document, ended).await?;
        let id = document.holding_id;
        change.commit().await?;
        self.holding(&id).await
    }

    /// Whose consents, those apart that count their uses, opened a dataset for keeping at a decision that was made at a
    /// position of the ledger and an instant: whatever became of them since.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn storable_at(
        &self,
        grantee: (&OrgId, &PurposeCode, &DatasetId),
        (position, at): (u64, Timestamp),
    ) -> Result<RoaringBitmap> {
        let mut reader = self.inner.reader().await?;
        let decided = DecidedOn {
            grantee,
            position,
            at,
        };
        let found = holdings::storable(&mut reader, decided, None).await?;
        let free = found.into_iter().filter(|grants| !grants.metered);
        Ok(free.fold(RoaringBitmap::new(), |all, grants| all | grants.whose))
    }

    /// A holding.
    ///
    /// # Errors
    /// There is none of this name, or the ledger cannot be read.
    pub async fn holding(&self, id: &str) -> Result<Holding> {
        let mut reader = self.inner.reader().await?;
        let standing = holdings::standing_of(&mut reader, id).await?;
        let standing = standing.ok_or_else(|| LedgerError::UnknownHolding(text::shown(id)))?;
        let due = holdings::due_parts(&mut reader, standing.row.seq, Parts::All).await?;
        self.stands(standing, due)
    }

    /// Whether data of an enterprise is in a holding.
    ///
    /// # Errors
    /// There is none of this name, or the ledger cannot be read.
    pub async fn is_held(&self, id: &str, no: EnterpriseNo) -> Result<bool> {
        let mut reader = self.inner.reader().await?;
        let row = find(&mut reader, id).await?;
        holdings::is_member(&mut reader, row.seq, no).await
    }

    /// A page of holdings, oldest first, and the mark of the next page if there may be one. What is due of each is told as
    /// far as it concerns the enterprise that is asked about; otherwise [`Ledger::holding`] has it.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn holdings(&self, filter: &HoldingFilter) -> Result<(Vec<Holding>, Option<i64>)> {
        let mut reader = self.inner.reader().await?;
        let limit = filter.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
        let now = Timestamp(self.inner.clock.now_ms());
        let mut after = filter.after.unwrap_or(0);
        let mut page = Vec::new();
        loop {
            let wanted = Wanted {
                org: filter.org.as_ref(),
                no: filter.enterprise,
                overdue_at: filter.overdue.then_some(now),
                after,
                // Few of a chunk may be of the enterprise.
                limit: limit.max(LOOKED_AT),
            };
            let (found, next) = holdings::list(&mut reader, wanted).await?;
            for standing in found {
                let seq = standing.row.seq;
                let due = match filter.enterprise {
                    Some(no) => holdings::due_parts(&mut reader, seq, Parts::Of(no)).await?,
                    None => Vec::new(),
                };
                let holding = self.stands(standing, due)?;
                let overdue = match filter.enterprise {
                    Some(no) => holding.part_of(no, now).overdue,
                    None => holding.overdue,
                };
                if overdue || !filter.overdue {
                    page.push(holding);
                }
                if page.len() == limit as usize {
                    return Ok((page, Some(seq)));
                }
            }
            match next {
                Some(next) => after = next,
                None => return Ok((page, None)),
            }
        }
    }

    /// The holdings of which something is still to be deleted because a consent was taken back or narrowed, with what is
    /// due of its enterprise.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn holdings_due_to(&self, id: &ConsentId) -> Result<Vec<Holding>> {
        let mut reader = self.inner.reader().await?;
        let mut found = Vec::new();
        for (standing, no) in holdings::due_by_consent(&mut reader, id.as_str()).await? {
            let due = holdings::due_parts(&mut reader, standing.row.seq, Parts::Of(no)).await?;
            found.push(self.stands(standing, due)?);
        }
        Ok(found)
    }

    /// Records that an organisation states to have deleted what was due of a holding, or `everything` of it.
    ///
    /// # Errors
    /// There is no such holding, nothing of it is due, or all of it is deleted already; or the statement is none.
    pub async fn delete_holding(
        &self,
        id: &str,
        statement: &str,
        everything: bool,
        by: &str,
    ) -> Result<Holding> {
        let statement = checked_statement(statement)?;
        let mut change = self.change().await?;
        let row = find(change.connection(), id).await?;
        if row.deleted.is_some() {
            return Err(LedgerError::HoldingDeleted(row.document.holding_id));
        }
        let due = holdings::due(change.connection(), row.seq).await?;
        let open = || due.iter().filter(|part| part.deleted.is_none());
        let over = row.keep_until.is_some_and(|end| end <= change.now);
        let members = everybody_in(change.connection(), row.seq).await?;
        let mut parts: RoaringBitmap = due.iter().map(|part| part.no).collect();
        let all_due = open().any(|part| part.no == EVERYTHING);
        // Who has taken back is deleted part by part; once that was everybody, so is the holding.
        let whole = everything || over || all_due || members.is_subset(&parts);
        if !whole && open().next().is_none() {
            return Err(LedgerError::NothingToDelete(row.document.holding_id));
        }
        parts = if whole {
            members
        } else {
            open().map(|part| part.no).collect()
        };
        let body = json!({
            "holding_id": row.document.holding_id,
            "org": row.document.org,
            "by": by,
            "statement": statement,
            "everything": whole,
            "enterprises": parts.len(),
        });
        let subjects = subjects(&parts);
        let position = change
            .append("holding.deleted", &body, &subjects, None)
            .await?;
        holdings::delete(change.connection(), row.seq, whole, position).await?;
        let id = row.document.holding_id;
        change.commit().await?;
        self.holding(&id).await
    }

    /// Writes down of every holding whose time is over that it has to be deleted; how many.
    pub(super) async fn end_lives(&self) -> Result<u64> {
        let mut ended = 0;
        let mut reader = self.inner.reader().await?;
        let now = self.inner.now(&mut reader).await?;
        if holdings::ending(&mut reader, now, 1).await?.is_empty() {
            return Ok(0);
        }
        drop(reader);
        loop {
            let mut change = self.change().await?;
            let count = marks::lives_over(&mut change).await?;
            if count == 0 {
                return Ok(ended);
            }
            ended += count;
            change.commit().await?;
        }
    }

    /// How a holding stands.
    fn stands(&self, standing: StandingRow, due: Vec<DuePartRow>) -> Result<Holding> {
        let now = Timestamp(self.inner.clock.now_ms());
        let row = standing.row;
        let due = due.into_iter().map(part_of).collect::<Result<_>>()?;
        let deletion = standing.deletion.as_ref().map(deletion_of).transpose()?;
        let life_over = row.keep_until.filter(|end| *end <= now);
        let delete_by = standing.delete_by.into_iter().chain(life_over).min();
        let delete_by = delete_by.filter(|_| deletion.is_none());
        let state = match (&deletion, delete_by) {
            (Some(_), _) => HoldingState::Deleted,
            (None, Some(_)) => HoldingState::DeletionDue,
            (None, None) => HoldingState::Held,
        };
        Ok(Holding {
            document: row.document,
            state,
            keep_until: row.keep_until,
            delete_by,
            overdue: delete_by.is_some_and(|by| by < now),
            due,
            deletion,
        })
    }
}

async fn find(connection: &mut SqliteConnection, id: &str) -> Result<HoldingRow> {
    holdings::find(connection, id)
        .await?
        .ok_or_else(|| LedgerError::UnknownHolding(text::shown(id)))
}

async fn everybody_in(connection: &mut SqliteConnection, holding: i64) -> Result<RoaringBitmap> {
    let chunks = holdings::members(connection, holding).await?;
    Ok(chunks
        .iter()
        .fold(RoaringBitmap::new(), |all, chunk| all | &chunk.members))
}

fn part_of(part: DuePartRow) -> Result<DuePart> {
    let DuePartRow {
        row,
        since,
        deletion,
    } = part;
    Ok(DuePart {
        no: (row.no != EVERYTHING).then_some(EnterpriseNo(row.no)),
        reason: row.reason,
        consent_id: row.consent_id,
        since,
        delete_by: row.delete_by,
        deletion: deletion.as_ref().map(deletion_of).transpose()?,
    })
}

fn deletion_of(stated: &StatedRow) -> Result<Deletion> {
    #[derive(Deserialize)]
    struct Body {
        by: String,
        statement: String,
    }
    let Body { by, statement } = parsed(&stated.body, "a deletion")?;
    Ok(Deletion {
        at: stated.at,
        by,
        statement,
    })
}

fn checked_statement(statement: &str) -> Result<&str> {
    let statement = statement.trim();
    let fits = (1..=MAX_STATEMENT).contains(&statement.chars().count());
    if !fits || statement.chars().any(char::is_control) {
        let reason = format!("it is one line of 1 to {MAX_STATEMENT} characters");
        return Err(LedgerError::Malformed {
            what: "statement of a deletion",
            reason,
        });
    }
    Ok(statement)
}

/// Appends the event of something that has to be deleted.
pub(super) async fn append_due(
    change: &mut Change,
    body: &serde_json::Value,
    whose: &RoaringBitmap,
) -> Result<u64> {
    change
        .append("holding.due", body, &subjects(whose), None)
        .await
}

/// Everybody with data in a holding.
pub(super) async fn members_of(change: &mut Change, holding: i64) -> Result<RoaringBitmap> {
    everybody_in(change.connection(), holding).await
}
