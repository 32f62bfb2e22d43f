//! Requests that were refused before there was anything to decide about.
//!
//! A request that cannot be read, that its principal may not make, or that nobody has room for never becomes an
//! [`AccessRequest`](super::AccessRequest). It is an access denied all the same (AUD-3), so it is an entry `access.denied`
//! like every other: who asked and why it was refused, and of the rest what could be read.
//!
//! Limits: who the principal is has to be known. What nobody signed is recorded nowhere, since anybody could fill the log
//! with it. The request's bytes are not kept: an entry has names of bounded length and the numbers of enterprises that the
//! hub knows. How many are recorded at once is for the caller to bound.

use qihui_catalog::{Action, EnterpriseNumbers, OrgId, PurposeCode, Uscc};
use serde_json::json;

use super::Gate;
use super::entries::{DENIED, Record, new_access_id};
use crate::error::QueryError;

/// What is known of a request that was refused unread.
#[derive(Debug, Clone, Default)]
pub struct RefusedRequest {
    /// The person or process, e.g. `token:an.lee`.
    pub principal: String,
    /// The organisation that it acts for, by its token. Not the one that a request names: nobody is to have another's
    /// name in a list of accesses.
    pub org: Option<OrgId>,
    /// The purpose, if it could be read.
    pub purpose: Option<PurposeCode>,
    /// What was to be done with the rows, if it could be read.
    pub action: Option<Action>,
    /// The enterprises that it named, as far as they could be read.
    pub subjects: Vec<Uscc>,
}

impl Gate {
    /// Records a refusal with the code that the caller is going to hear, and waits until it is durable; gives its index.
    /// What could not be read is null in the entry, and the statement always is.
    ///
    /// # Errors
    /// [`QueryError::LogUnavailable`]: then that is the answer, since an unrecorded refusal is none.
    pub async fn refused(&self, request: &RefusedRequest, code: &str) -> Result<u64, QueryError> {
        let subjects = self.parts.ledger.lookup(&request.subjects);
        let subjects = subjects.unwrap_or_default();
        let body = json!({
            "access_id": new_access_id()?,
            "principal": request.principal,
            "org": request.org,
            "purpose": request.purpose,
            "action": request.action,
            "statement": null,
            "code": code,
        });
        let record = Record {
            kind: DENIED,
            body,
            subjects: subjects.into_iter().flatten().map(|no| no.0).collect(),
        };
        self.record(&record).await
    }
}
