//! `signatory add`.

use qihui_catalog::Uscc;
use qihui_consent::signing::PublicKey;
use serde_json::json;

use super::{Context, enterprise, with_hub};
use crate::cli::SignatoryCommand;
use crate::failure::Failure;
use crate::hub::Hub;
use crate::report::Report;

pub(super) async fn run(
    command: SignatoryCommand,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    let SignatoryCommand::Add { uscc, name, key } = command;
    let (uscc, key) = (enterprise(&uscc)?, PublicKey::read(&key)?);
    with_hub(&context.opening, async |hub| {
        register(hub, uscc, &name, key).await
    })
    .await
}

/// Registers who may sign for an enterprise.
pub(crate) async fn register(
    hub: &Hub,
    uscc: Uscc,
    name: &str,
    key: PublicKey,
) -> Result<Report, Failure> {
    hub.ledger().add_signatory(uscc, name, key).await?;
    hub.acknowledge().await?;
    let json = json!({ "uscc": uscc, "name": name, "key_id": key.id() });
    let text = format!("{name} may sign with key {}", key.id());
    Ok(Report::new(json, text))
}
