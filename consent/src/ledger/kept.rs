//! What a holding is, and how it stands.

use std::collections::BTreeSet;

use qihui_catalog::{DatasetId, EnterpriseNo, OrgId, PurposeCode, Timestamp};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use crate::decision::AgreementId;

/// Why a holding is due whose time is over.
pub(super) const LIFE_OVER: &str = "life_over";

/// What of a dataset is in a holding by consent alone: not by a law, and not because it is open to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByConsent {
    /// Rows: without a consent there is none of an enterprise, so that even the number of rows rests on consents.
    #[default]
    Rows,
    /// Cells of the columns that were read; the rows are there anyhow.
    Cells,
    /// Nothing.
    Nothing,
}

impl ByConsent {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde hands to it")]
    fn is_rows(&self) -> bool {
        *self == Self::Rows
    }
}

/// What of a dataset is in a holding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldDataset {
    /// The dataset.
    pub dataset: DatasetId,
    /// The columns that the answer was made from.
    pub columns: Vec<String>,
    /// What of it is there by consent; left out where rows are.
    #[serde(default, skip_serializing_if = "ByConsent::is_rows")]
    pub by_consent: ByConsent,
}

/// What a holding is: fixed when it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldingDocument {
    /// Its name: `h-` and hexadecimal digits.
    pub holding_id: String,
    /// The access that released it.
    pub access_id: String,
    /// Who holds it.
    pub org: OrgId,
    /// What for.
    pub purpose: PurposeCode,
    /// What it was made from.
    pub datasets: Vec<HeldDataset>,
    /// The agreements it rests on.
    pub basis: BTreeSet<AgreementId>,
    /// When it was released.
    pub at: Timestamp,
    /// Whether the whole answer was released; a part of one may be held as well.
    pub complete: bool,
    /// Rows of the answer; none: it is a part of one.
    pub rows: Option<u64>,
    /// Bytes that left; none: the hub was killed on the way.
    pub bytes: Option<u64>,
    /// SHA-256 of these bytes, hexadecimal; none: the same.
    pub sha256: Option<String>,
    /// How many enterprises have data in it.
    pub enterprises: u64,
    /// For how many days from then on it may be kept; none: it is of open data alone.
    pub data_life_days: Option<u32>,
    /// SHA-256 over whose data is in it, hexadecimal.
    pub members_sha256: String,
}

/// How a holding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HoldingState {
    /// It may be kept.
    Held,
    /// All of it or the part of some enterprises has to be deleted.
    DeletionDue,
    /// The organisation stated that it is deleted.
    Deleted,
}

impl HoldingState {
    /// The state as written in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "HELD",
            Self::DeletionDue => "DELETION_DUE",
            Self::Deleted => "DELETED",
        }
    }
}

/// What was stated about a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deletion {
    /// When it was stated.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// In whose words.
    pub statement: String,
}

/// Something of a holding that has to be deleted, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuePart {
    /// Whose part; none: all of it.
    pub no: Option<EnterpriseNo>,
    /// Why: `withdrawn`, `revoked`, `invalidated`, `narrowed`, `superseded`, `agreement` or `life_over`.
    pub reason: String,
    /// The consent that was taken back.
    pub consent_id: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// Until when it has to be gone.
    pub delete_by: Timestamp,
    /// What the organisation stated.
    pub deletion: Option<Deletion>,
}

/// A holding as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// What it is.
    pub document: HoldingDocument,
    /// How it stands now.
    pub state: HoldingState,
    /// Until when it may be kept at most; none: without end.
    pub keep_until: Option<Timestamp>,
    /// The earliest instant by which something of it has to be gone that is not.
    pub delete_by: Option<Timestamp>,
    /// Whether that instant has passed.
    pub overdue: bool,
    /// What of it has to be deleted or was, all of it first; in a list only what concerns the enterprise asked about.
    pub due: Vec<DuePart>,
    /// What was stated when all of it was deleted.
    pub deletion: Option<Deletion>,
}

/// How one enterprise's part of a holding stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPart<'a> {
    /// How it stands.
    pub state: HoldingState,
    /// Why it has to be deleted, or had to be.
    pub reason: Option<&'a str>,
    /// Until when it has to be gone.
    pub delete_by: Option<Timestamp>,
    /// Whether that instant has passed.
    pub overdue: bool,
    /// What the organisation stated.
    pub deletion: Option<&'a Deletion>,
}

impl Holding {
    /// How the part of one of its enterprises stands at an instant, whatever became of the parts of others.
    #[must_use]
    pub fn part_of(&self, no: EnterpriseNo, now: Timestamp) -> OwnPart<'_> {
        let concerning = |part: &&DuePart| part.no.is_none_or(|of| of == no);
        let parts = || self.due.iter().filter(concerning);
        let deletion = self.deletion.as_ref();
        let deletion = deletion.or_else(|| parts().find_map(|part| part.deletion.as_ref()));
        let life_over = self.keep_until.filter(|end| *end <= now);
        let delete_by = parts().map(|part| part.delete_by).chain(life_over).min();
        let delete_by = delete_by.filter(|_| deletion.is_none());
        let first = parts().min_by_key(|part| part.delete_by);
        let reason = first.map(|part| part.reason.as_str());
        OwnPart {
            state: match (deletion, delete_by) {
                (Some(_), _) => HoldingState::Deleted,
                (None, Some(_)) => HoldingState::DeletionDue,
                (None, None) => HoldingState::Held,
            },
            reason: reason.or_else(|| life_over.map(|_| LIFE_OVER)),
            delete_by,
            overdue: delete_by.is_some_and(|by| by < now),
            deletion,
        }
    }
}

/// A release that is to be recorded as a holding.
#[derive(Debug, Clone)]
pub struct Released {
    /// The access.
    pub access_id: String,
    /// Who receives.
    pub org: OrgId,
    /// What for.
    pub purpose: PurposeCode,
    /// What it was made from, with everybody who has a row in it and, of these, those whose data is in it by consent.
    pub datasets: Vec<(HeldDataset, RoaringBitmap, RoaringBitmap)>,
    /// The agreements that its decision rests on.
    pub basis: BTreeSet<AgreementId>,
    /// The position of the ledger at the decision: what was taken away since has to be deleted again.
    pub decided_at: u64,
    /// The instant of the decision.
    pub decided: Timestamp,
    /// The longest that its purpose allows to keep anything, in days.
    pub cap_days: Option<u32>,
    /// Whether the whole answer was released.
    pub complete: bool,
    /// Rows (none: of a part of an answer), bytes and their SHA-256, hexadecimal; none: nobody knows.
    pub came_to: Option<(Option<u64>, u64, String)>,
}

/// Which holdings to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldingFilter {
    /// Those of this organisation.
    pub org: Option<OrgId>,
    /// Those with data of this enterprise.
    pub enterprise: Option<EnterpriseNo>,
    /// Those of which something should have been deleted by now.
    pub overdue: bool,
    /// After the page that ended with this mark; none: the first page.
    pub after: Option<i64>,
    /// At most so many; none: a thousand, which is also the most.
    pub limit: Option<u32>,
}
