//! The demonstration: it ends well, and leaves a hub in which what it told holds.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn qihui(hub: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qihui"))
        .args(["--json", "--data-dir"])
        .arg(hub)
        .args(words)
        .env_remove("QIHUI_CONFIG")
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_demonstration_leaves_a_hub_as_it_told() {
    let folder = tempfile::tempdir().unwrap();
    let hub = folder.path().join("hub");
    let told = json(&qihui(&hub, &["demo", "--dir", hub.to_str().unwrap()]));
    let text = |key: &str| told[key].as_str().unwrap().to_owned();
    let (org, purpose, dataset) = (text("org"), text("purpose"), text("dataset"));
    let (granted, withdrawn) = (text("granted_uscc"), text("withdrawn_uscc"));

    let verified = json(&qihui(&hub, &["audit", "verify"]));
    assert_eq!(
        (&verified["ok"], &verified["entries"]),
        (&Value::Bool(true), &told["audit_entries"])
    );
    let contract = json(&qihui(&hub, &["catalog", "show", &dataset]));
    assert!(contract.to_string().contains("\"L3\""), "{contract}");

    let sql = format!("SELECT DISTINCT uscc FROM {dataset}");
    let ask = |more: &[&str]| {
        let mut words = vec!["query", "--org", &org, "--purpose", &purpose];
        words.extend(more);
        words.push(&sql);
        qihui(&hub, &words)
    };
    let seen = json(&ask(&[]));
    assert_eq!(seen["rows"], serde_json::json!([{ "uscc": granted }]));
    assert_eq!(json(&ask(&["--subject", &granted]))["rows"], seen["rows"]);
    assert_eq!(ask(&["--subject", &withdrawn]).status.code(), Some(3));
    let accesses = json(&qihui(&hub, &["audit", "accesses", &withdrawn]));
    assert!(
        accesses["accesses"]
            .as_array()
            .unwrap()
            .iter()
            .any(|access| access["org"] == org.as_str())
    );
}
