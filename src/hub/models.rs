//! Builds of products, each commit with its entry in the log.
//!
//! `model.run`: everything of [`BuildFact`] (input versions → table version, counts), the model and on whose behalf.
//! `model.failed`: the model, the code of the error and on whose behalf. Neither touches an enterprise: a build is no
//! access, because nothing of what it reads leaves the hub. It is recorded after its commit; one whose process died in
//! between, at the next opening.

use std::sync::Arc;

use qihui_catalog::{DatasetId, Timestamp};
use qihui_pipelines::models::{self, BuildContext, BuildFact, BuildLimits, BuildReport};
use serde_json::{Value, json};

use super::Hub;
use super::recover::MODEL_RUN;
use crate::failure::Failure;

const MODEL_FAILED: &str = "model.failed";
/// How many runs are recorded in one group.
const GROUP: usize = 64;

impl Hub {
    /// Builds a product and records what its table now holds.
    ///
    /// # Errors
    /// There is no such model; it, its contract, a declassification of it or a contract that it reads is not in the log;
    /// or the build failed; what it had committed before is recorded all the same.
    pub async fn run_model(&self, model: &DatasetId, whole: bool) -> Result<BuildReport, Failure> {
        self.require_model(model).await?;
        let turn = self.turn(model);
        let _turn = turn.lock().await;
        self.announce(|known| known.pending_models.insert(model.clone()))?;
        let context = self.build_context()?;
        let result = Box::pin(models::build(&context, model, whole)).await;
        let result = result.map_err(Failure::from);
        let recorded = self.record_model_end(model, result.as_ref().err()).await;
        let report = result?;
        recorded?;
        Ok(report)
    }

    fn build_context(&self) -> Result<BuildContext, Failure> {
        let limits = self.config().query.limits();
        Ok(BuildContext {
            catalog: Arc::clone(self.catalog()?),
            warehouse: self.shared.warehouse.clone(),
            numbers: Arc::new(self.ledger.clone()),
            day: Timestamp(self.shared.opening.clock.now_ms()).shanghai_date(),
            limits: BuildLimits {
                enterprises: BuildLimits::ENTERPRISES,
                memory_bytes: limits.memory_bytes,
                spill_bytes: limits.spill_bytes,
                spill_dir: self.layout().spill(),
                threads: limits.threads,
            },
        })
    }

    /// Refuses a model of which anything that counts is not in the log.
    async fn require_model(&self, model: &DatasetId) -> Result<(), Failure> {
        let catalog = Arc::clone(self.catalog()?);
        let known = catalog.models.get(model);
        let known = known.ok_or_else(|| models::ModelError::Unknown(model.clone()))?;
        let product = models::derive::derive(&catalog, known)?;
        let mut rules = catalog.rules_of(model);
        for input in &product.inputs {
            rules.extend(catalog.rules_of(input));
        }
        let matters = |kind: &str, id: &str| {
            let mut named = rules.iter().map(|(kind, id, _)| (*kind, *id));
            named.any(|rule| rule == (kind, id))
        };
        self.require_recorded(|artefact| matters(artefact.kind, &artefact.id))
            .await
    }

    async fn record_model_end(
        &self,
        model: &DatasetId,
        failure: Option<&Failure>,
    ) -> Result<(), Failure> {
        self.record_model_runs(model).await?;
        let Some(failure) = failure else {
            return Ok(());
        };
        let body = json!({ "by": self.principal, "code": failure.code(), "model": model });
        self.record(&[(MODEL_FAILED, body)]).await
    }

    /// Records the builds of a product that its table holds and the log does not.
    pub(super) async fn record_model_runs(&self, model: &DatasetId) -> Result<(), Failure> {
        let after = self
            .shared
            .known
            .lock()
            .model_runs
            .get(model)
            .copied()
            .unwrap_or(0);
        let facts = models::build_facts(&self.shared.warehouse, model, after).await?;
        for group in facts.chunks(GROUP) {
            let entries: Vec<_> = group
                .iter()
                .map(|fact| (MODEL_RUN, self.model_body(model, fact)))
                .collect();
            self.record(&entries).await?;
            let last = group.last().map_or(after, |fact| fact.run);
            self.shared
                .known
                .lock()
                .model_runs
                .insert(model.clone(), last);
        }
        self.shared.known.lock().pending_models.remove(model);
        Ok(())
    }

    fn model_body(&self, model: &DatasetId, fact: &BuildFact) -> Value {
        let mut body = json!(fact);
        body["by"] = json!(self.principal);
        body["model"] = json!(model);
        body
    }
}
