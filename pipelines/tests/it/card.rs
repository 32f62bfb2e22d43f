//! The shipped product: what follows from its statement.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use qihui_catalog::{Catalog, Contract, DatasetId, Level};
use qihui_pipelines::models::derive::derive;
use qihui_pipelines::models::{Product, complete};
use serde_json::Value;

fn golden(name: &str, content: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, content));
}

fn card() -> (Catalog, Product) {
    let catalog = complete(Catalog::builtin().unwrap()).unwrap();
    let name: DatasetId = "enterprise_card".parse().unwrap();
    let model = Arc::clone(&catalog.models[&name]);
    let product = derive(&catalog, &model).unwrap();
    (catalog, product)
}

#[test]
fn the_contract_of_the_card_is_derived_and_reads_back() {
    let (catalog, product) = card();
    let document: Value = serde_json::from_str(&product.contract.canonical_json()).unwrap();
    let yaml = serde_saphyr::to_string(&document).unwrap();
    golden("enterprise_card_contract", &yaml);
    let again = Contract::from_yaml(Path::new("enterprise_card.yaml"), &yaml).unwrap();
    assert_eq!(again, product.contract);
    assert_eq!(**catalog.contract(&product.model.name).unwrap(), again);
}

#[test]
fn the_lineage_of_the_card_is_known() {
    let (_, product) = card();
    let mut text = String::new();
    let rows = ("(the row)".to_owned(), product.rows.clone());
    for (name, reason) in std::iter::once(&rows).chain(&product.columns) {
        let lowered = reason.declassified_by.as_ref();
        let lowered = lowered.map(|rule| format!(" ({} lowered by {rule})", reason.inherited));
        let (level, lowered) = (reason.level, lowered.unwrap_or_default());
        writeln!(text, "{name} {level}{lowered}").unwrap();
        for parent in &reason.parents {
            let mark = if reason.because_of.contains(parent) {
                "!"
            } else {
                " "
            };
            writeln!(text, "  {mark} {parent}").unwrap();
        }
    }
    golden("enterprise_card_lineage", &text);
}

#[test]
fn the_levels_of_the_card_are_those_of_its_parents() {
    let (_, product) = card();
    let level = |name: &str| product.contract.column(name).unwrap().level;
    // A card is there for whoever is registered, which is public; so is what anybody may look up.
    assert_eq!(product.contract.row_level, Level::L1);
    for name in [
        "uscc",
        "entname",
        "regcap",
        "licences",
        "penalties",
        "tax_credit_year",
    ] {
        assert_eq!(level(name), Level::L1, "{name}");
    }
    // Public only where a flag of the row says so: counted with its full level.
    for name in ["employees", "tax_credit_level"] {
        assert_eq!(level(name), Level::L2, "{name}");
    }
    // A public column of rows whose existence is not.
    assert_eq!(level("general_taxpayer"), Level::L2);
    assert_eq!(level("customs_declared_on"), Level::L3);
    assert_eq!(level("tax_credit_a_year"), Level::L1);
    assert_eq!(level("build_no"), Level::L3);
    let window = product.contract.window.as_ref().unwrap();
    assert_eq!(window.until, ["shown_until"]);
}
