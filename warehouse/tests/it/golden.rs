//! What is persisted has a golden file: a change of form shows as a change of these.

use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    schema::printer::print_schema,
};
use qihui_catalog::Partition;
use serde_json::{Value, json};

use crate::support::{Record, commit, contract, land, list, open};

macro_rules! golden {
    ($name:literal, $text:expr) => {
        insta::with_settings!({
            snapshot_path => "../golden", prepend_module_to_snapshot => false, omit_expression => true,
        }, { insta::assert_snapshot!($name, $text) })
    };
}

/// Replaces what differs from run to run: times, sizes, random names.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match (name.as_str(), &value) {
                    (
                        "timestamp" | "createdTime" | "modificationTime" | "deletionTimestamp"
                        | "lastUpdated",
                        _,
                    ) => {
                        *value = json!("<time>");
                    }
                    ("size", _) => *value = json!("<size>"),
                    ("id", _) => *value = json!("<uuid>"),
                    ("engineInfo", _) => *value = json!("<version>"),
                    ("path", Value::String(path)) => {
                        let (folder, name) = path.rsplit_once('/').unwrap();
                        let (kind, random) = name.split_once('-').unwrap();
                        assert_eq!(
                            random.len(),
                            "0123456789abcdef0123456789abcdef.parquet".len()
                        );
                        *value = json!(format!("{folder}/{kind}-<random>.parquet"));
                    }
                    ("stats" | "schemaString" | "qihui.layout", Value::String(text)) => {
                        *value = serde_json::from_str(text).unwrap();
                    }
                    _ => normalise(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(normalise),
        _ => {}
    }
}

#[tokio::test]
async fn the_log_and_the_parquet_schema() {
    let root = tempfile::tempdir().unwrap();
    let contract = contract(Partition::Month);
    let table = open(root.path()).table(&contract).await.unwrap();
    let mut records = vec![
        Record::new(1, 7),
        Record::new(2, 3),
        Record {
            paid_on: None,
            ..Record::new(3, 7)
        },
    ];
    land(&table, &contract, &records).await;
    records[0].seen = Some(2);
    records[1] = Record {
        seen: Some(2),
        retract: true,
        ..Record::new(2, 3)
    };
    land(&table, &contract, &records).await;
    let folder = root.path().join("levy");
    for (version, name) in [
        (0, "commit_0_create"),
        (1, "commit_1_append"),
        (2, "commit_2_upsert"),
    ] {
        let mut actions = commit(&folder, version);
        actions.iter_mut().for_each(normalise);
        actions[1..].sort_by_key(ToString::to_string);
        let text: Vec<_> = actions
            .iter()
            .map(|action| serde_json::to_string_pretty(action).unwrap())
            .collect();
        match name {
            "commit_0_create" => golden!("commit_0_create", text.join("\n")),
            "commit_1_append" => golden!("commit_1_append", text.join("\n")),
            _ => golden!("commit_2_upsert", text.join("\n")),
        }
    }
    let (path, _) = list(&folder, None).await.into_iter().next().unwrap();
    let file = SerializedFileReader::new(std::fs::File::open(folder.join(path)).unwrap()).unwrap();
    let mut text = Vec::new();
    print_schema(&mut text, file.metadata().file_metadata().schema());
    golden!("parquet_schema", String::from_utf8(text).unwrap());
}
