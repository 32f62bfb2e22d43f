//! Operations on consents.
//!
//! What takes away acts as soon as the ledger has it, whatever else of the hub is broken: the log, the catalogue, a
//! table. Only the acknowledgement needs the log. What gives acts once it is in the log.

use std::sync::Arc;

use qihui_catalog::{Catalog, CatalogErrors, ConsentId, Timestamp};
use qihui_consent::document::NarrowRequest;
use qihui_consent::ledger::{Consent, ConsentOperation, Holding};
use qihui_consent::signing::{Operation, SigningKey};
use qihui_consent::{Ledger, LedgerError};

use super::{Hub, Opening};
use crate::failure::Failure;
use crate::principal;

/// An operation on a consent, and on whose authority.
#[derive(Debug)]
pub struct Act {
    /// The consent.
    pub id: ConsentId,
    /// The operation.
    pub operation: Operation,
    /// For a narrowing, what remains.
    pub narrowed: Option<NarrowRequest>,
    /// The signatory who signs, by name, with the key; none: the holder of the hub, without a signature.
    pub signatory: Option<(String, SigningKey)>,
}

/// What came of an operation.
#[derive(Debug)]
pub struct Acted {
    /// The consent as it then stands.
    pub consent: Consent,
    /// In which holdings something of its enterprise still has to be deleted because of it.
    pub holdings: Vec<Holding>,
    /// The instant at which they stand so.
    pub at: Timestamp,
}

impl Act {
    async fn carry_out(
        &self,
        ledger: &Ledger,
        catalog: &Catalog,
        principal: &str,
    ) -> Result<Consent, LedgerError> {
        let narrowed = self.narrowed.clone();
        if let Some((name, key)) = &self.signatory {
            let signed = ledger.sign_with(catalog, &self.id, self.operation, narrowed, (name, key));
            return signed.await;
        }
        let held = ConsentOperation::Held {
            consent_id: self.id.clone(),
            operation: self.operation,
            by: principal.to_owned(),
            narrowed,
        };
        ledger.operate(catalog, held).await
    }
}

impl Hub {
    /// Does an operation and waits until it is in the log; what came of it.
    ///
    /// # Errors
    /// What the ledger says, or `LogUnavailable`.
    pub async fn act(&self, act: &Act) -> Result<Acted, Failure> {
        let catalog = or_builtin(self.catalog.clone())?;
        act.carry_out(&self.ledger, &catalog, &self.principal)
            .await?;
        self.acknowledge().await?;
        self.acted(&act.id).await
    }

    async fn acted(&self, id: &ConsentId) -> Result<Acted, Failure> {
        Ok(Acted {
            consent: self.ledger.consent(id).await?,
            holdings: self.ledger.holdings_due_to(id).await?,
            at: Timestamp(self.clock().now_ms()),
        })
    }

    /// Does an operation that is on its own authority and waits until it is in the log; what came of it.
    ///
    /// # Errors
    /// What the ledger says, or `LogUnavailable`.
    pub async fn operate(&self, operation: ConsentOperation) -> Result<Acted, Failure> {
        let catalog = or_builtin(self.catalog.clone())?;
        let consent = self.ledger.operate(&catalog, operation).await?;
        self.acknowledge().await?;
        self.acted(&consent.document.consent_id).await
    }

    /// Opens a hub for an operation that takes something away, as far as it can be opened.
    ///
    /// # Errors
    /// What the ledger says. When the rest of the hub cannot be opened, or the log takes nothing, that failure, though
    /// the operation acts.
    pub async fn take_away(opening: &Opening, act: &Act) -> Result<Acted, Failure> {
        if let Some(hub) = &opening.shared {
            return hub.act(act).await;
        }
        let failure = match Self::open(opening).await {
            Ok(hub) => {
                let acted = hub.act(act).await?;
                hub.close().await;
                return Ok(acted);
            }
            Err(failure) => failure,
        };
        // Nothing may be done in somebody else's directory, and an absent ledger must not be made anew.
        if ["HubBusy", "NotAHub"].contains(&failure.code()) || !opening.layout.ledger().is_file() {
            return Err(failure);
        }
        let _lock = opening.lock().await?;
        let ledger = opening.ledger().await?;
        let catalog = or_builtin(opening.catalog())?;
        act.carry_out(&ledger, &catalog, &principal::local())
            .await?;
        ledger.close().await;
        let acts =
            "what was taken away is in force, and goes into the log once the hub can be opened";
        Err(failure.with_details([acts.to_owned()]))
    }
}

/// The catalogue for operations that mostly do not look at it.
fn or_builtin(catalog: Result<Arc<Catalog>, CatalogErrors>) -> Result<Arc<Catalog>, Failure> {
    Ok(match catalog {
        Ok(catalog) => catalog,
        Err(_) => Arc::new(qihui_pipelines::models::complete(Catalog::builtin()?)?),
    })
}
