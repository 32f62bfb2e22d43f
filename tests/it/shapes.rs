//! The JSON documents that scripts rely on, one snapshot each. What differs from run to run is replaced by its kind.

use serde_json::Value;

use crate::support::{Lab, query, request};

/// Replaces identifiers, hashes, times and keys.
fn steady(value: &mut Value, lab: &Lab) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "access_id" | "checkpoint" | "hash" | "key_id" | "leaf" | "leaf_hash"
                    | "nonce" | "origin" | "proof" | "root" | "sha256" | "source_sha256"
                    | "verifier_key" | "prev_hash" | "at" | "time" | "starts" | "expires"
                    | "valid_from"
                        if !value.is_null() =>
                    {
                        *value = format!("<{key}>").into();
                    }
                    _ => steady(value, lab),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|one| steady(one, lab)),
        Value::String(text) => {
            let folder = lab.path().to_str().unwrap();
            if text.starts_with("c-") {
                *text = "<name>".to_owned();
            }
            *text = text
                .replace(folder, "<folder>")
                .replace(&lab.subject(), "<subject>");
        }
        _ => {}
    }
}

#[test]
fn documents_have_the_shape_that_scripts_rely_on() {
    let lab = Lab::world();
    let subject = lab.subject();
    let bank = query("city_bank", "policy.matching", &[]);
    let snapshot = |name: &str, arguments: &[&str]| -> Value {
        let answer = lab.json(arguments).json();
        let mut steadied = answer.clone();
        steady(&mut steadied, &lab);
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../golden");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_json_snapshot!(name, steadied));
        answer
    };
    snapshot("feed_list", &["feed", "list"]);
    snapshot(
        "feed_run",
        &[
            "feed",
            "run",
            "vat_declaration",
            "--from",
            &lab.file("feeds"),
        ],
    );
    snapshot(
        "feed_quarantine",
        &["feed", "quarantine", "vat_declaration", "--limit", "1"],
    );
    snapshot("catalog_list", &["catalog", "list"]);
    snapshot("catalog_check", &["catalog", "check"]);
    snapshot("org_list", &["org", "list"]);
    snapshot("agreement_list", &["agreement", "list"]);
    let file = lab.write("request.yaml", request(&subject, "uscc, skssqq, xse", 90));
    let requested = snapshot("consent_request", &["consent", "request", &file]);
    let id = requested["consent_id"].as_str().unwrap();
    snapshot("consent_preview", &["consent", "preview", id]);
    snapshot(
        "consent_sign",
        &[
            "consent",
            "sign",
            id,
            "--as",
            "owner",
            "--key",
            &lab.file("owner.key"),
        ],
    );
    snapshot("consent_show", &["consent", "show", id]);
    snapshot("consent_list", &["consent", "list", "--subject", &subject]);
    let sql = "SELECT uscc, skssqq, xse FROM vat_declaration ORDER BY skssqq LIMIT 1";
    snapshot("query", &[&bank[..], &[sql]].concat());
    snapshot(
        "query_explain",
        &[&bank[..], &["EXPLAIN SELECT uscc FROM vat_declaration"]].concat(),
    );
    snapshot(
        "query_refused",
        &[&bank[..], &["SELECT jxse FROM vat_declaration"]].concat(),
    );
    snapshot("audit_accesses", &["audit", "accesses", &subject]);
    snapshot("audit_proof", &["audit", "proof", "0"]);
    snapshot("audit_checkpoint", &["audit", "checkpoint"]);
    snapshot("audit_verify", &["audit", "verify"]);
    snapshot(
        "no_hub",
        &["--data-dir", &lab.file("nowhere"), "org", "list"],
    );
}

/// The contract of a dataset, as `catalog show` prints it, is the one that is hashed and recorded.
#[test]
fn a_contract_is_shown_as_it_is_recorded() {
    let lab = Lab::empty();
    let shown = lab
        .json(&["catalog", "show", "vat_declaration"])
        .done()
        .json();
    let canonical = serde_json_canonicalizer::to_string(&shown).unwrap();
    let builtin = qihui_catalog::Catalog::builtin().unwrap();
    let contract = builtin
        .contract(&"vat_declaration".parse().unwrap())
        .unwrap();
    assert_eq!(canonical, contract.canonical_json());
    assert!(lab.json(&["catalog", "show", "purposes"]).done().json()["purposes"].is_array());
    lab.json(&["catalog", "show", "nosuch"])
        .fails(1, "UnknownDataset", &["catalog list"]);
}
