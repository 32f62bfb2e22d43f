//! Requests that were refused before there was anything to decide about.
//!
//! A request that cannot be read, that its principal may not make, or that nobody has room for never becomes an
//! [`AccessRequest`]. It is an access denied all the same (AUD-3), so it is an entry `access.denied` like every other: who
//! asked and why it was refused, and of the rest what could be read.
//!
//! Limits: who the principal is has to be known. What nobody signed is recorded nowhere, since anybody could fill the log
//! with it. The request's bytes are not kept: an entry has names of bounded length and the numbers of enterprises that the
//! hub knows. How many are recorded at once is for the caller to bound.

use qihui_catalog::{Action, Coded, EnterpriseNumbers, OrgId, PurposeCode, Uscc};
use serde_json::json;

use super::entries::{DENIED, Record, new_access_id, printable};
use super::{AccessRequest, Gate};
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

impl From<&AccessRequest> for RefusedRequest {
    fn from(request: &AccessRequest) -> Self {
        Self {
            principal: request.principal.clone(),
            org: Some(request.org.clone()),
            purpose: Some(request.purpose.clone()),
            action: Some(request.action),
            subjects: request.subjects.clone(),
        }
    }
}

impl Gate {
    /// Records a refusal with the code that the caller is going to hear, and waits until it is durable. What could not be
    /// read is null in the entry, and the statement always is.
    ///
    /// # Errors
    /// [`QueryError::LogUnavailable`], or the ledger cannot say which enterprises were named. Then that is the answer: an
    /// unrecorded refusal is none, nor is one that those whom it is about do not hear of.
    pub async fn refused(&self, request: &RefusedRequest, code: &str) -> Result<(), QueryError> {
        self.deny(&new_access_id()?, request, None, code).await
    }

    /// Records that the gate itself refused a request; gives what the caller is to hear: why, or why that could not be
    /// recorded.
    pub(super) async fn denied(
        &self,
        request: &AccessRequest,
        access_id: &str,
        error: QueryError,
    ) -> QueryError {
        let (asked, statement) = (request.into(), Some(printable(&request.sql)));
        let denied = self.deny(access_id, &asked, statement, error.code());
        denied.await.err().unwrap_or(error)
    }

    /// The entry `access.denied`.
    async fn deny(
        &self,
        access_id: &str,
        asked: &RefusedRequest,
        statement: Option<String>,
        code: &str,
    ) -> Result<(), QueryError> {
        let subjects = self.parts.ledger.lookup(&asked.subjects);
        let subjects = subjects.map_err(|error| QueryError::Refused(Box::new(error)))?;
        let record = Record {
            kind: DENIED,
            body: json!({
                "access_id": access_id,
                "principal": asked.principal,
                "org": asked.org,
                "purpose": asked.purpose,
                "action": asked.action,
                "statement": statement,
                "code": code,
            }),
            subjects: subjects.into_iter().flatten().map(|no| no.0).collect(),
        };
        self.record(&record).await?;
        Ok(())
    }
}
