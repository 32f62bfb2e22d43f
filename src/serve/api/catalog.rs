//! What there is to ask for.

use axum::extract::Path;
use serde_json::{Value, json};

use super::{Answered, document_of, identifier};
use crate::failure::ProgramError;
use crate::serve::authorise::Caller;

/// List the datasets.
#[utoipa::path(get, path = "/v1/datasets", operation_id = "catalog_list", tag = "catalogue",
    responses((status = 200, description = "The datasets.", body = Value)))]
pub(crate) async fn list(caller: Caller) -> Answered {
    let contracts = caller.hub.catalog()?.contracts.values();
    let datasets: Vec<Value> = contracts
        .map(|contract| {
            json!({
                "dataset": contract.id,
                "title": contract.title_en,
                "title_cn": contract.title_cn,
                "owner": contract.owner,
                "row_level": contract.row_level,
                "version": contract.version,
            })
        })
        .collect();
    Ok(document_of(&json!({ "datasets": datasets })))
}

/// Show the contract of a dataset.
#[utoipa::path(get, path = "/v1/datasets/{dataset}", operation_id = "catalog_show", tag = "catalogue",
    params(("dataset" = String, Path, description = "The dataset.")),
    responses((status = 200, description = "Its contract.", body = Value),
        (status = 404, description = "There is no such dataset.", body = Value,
            content_type = "application/problem+json")))]
pub(crate) async fn show(caller: Caller, Path(dataset): Path<String>) -> Answered {
    let id = identifier(&dataset, "dataset")?;
    let contract = caller.hub.catalog()?.contract(&id);
    let contract = contract.ok_or(ProgramError::UnknownDataset(dataset))?;
    Ok(super::json_text(contract.canonical_json()))
}

/// Show the tree of purposes with their caps.
#[utoipa::path(get, path = "/v1/purposes", operation_id = "purpose_list", tag = "catalogue",
    responses((status = 200, description = "The purposes.", body = Value)))]
pub(crate) async fn purposes(caller: Caller) -> Answered {
    Ok(super::json_text(
        caller.hub.catalog()?.purposes.canonical_json(),
    ))
}
