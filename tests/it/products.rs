//! Data products through the real binary: the shipped card is what its description says, an operator's model takes
//! effect as a recorded version only, and both are gated like any dataset.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::support::{Lab, query};

/// An agreement by statute about every column of some datasets, so that a test can see all there is.
fn oversees(lab: &Lab, datasets: &[&str]) {
    for dataset in datasets {
        let shown = lab.json(&["catalog", "show", dataset]).done().json();
        let columns: String = shown["schema"][0]["properties"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|property| property["classification"] != "L4")
            .map(|property| {
                let name = property["name"].as_str().unwrap();
                format!("  - {{name: {name}, form: clear, reason: oversight}}\n")
            })
            .collect();
        let text = format!(
            "id: oversight-{dataset}\norg: tax_bureau\ndataset: {dataset}\npurposes: [supervision.tax]\n\
             basis: {{statute: {{law: 税收征收管理法}}}}\nvalid_until: 2099-01-01\ncolumns:\n{columns}"
        );
        let file = lab.write("oversight.yaml", text);
        lab.run(&["agreement", "add", &file]).done();
    }
}

type Row = Map<String, Value>;

fn rows(lab: &Lab, sql: &str) -> Vec<Row> {
    let answer = lab.tax(sql).done().json();
    let rows = answer["rows"].as_array().unwrap();
    rows.iter()
        .map(|row| row.as_object().unwrap().clone())
        .collect()
}

/// The rows of a dataset by enterprise, those with the greatest values of `order` first.
fn latest_first(lab: &Lab, dataset: &str, order: &[&str]) -> BTreeMap<String, Vec<Row>> {
    let mut of: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows(lab, &format!("SELECT * FROM {dataset}")) {
        let uscc = row["uscc"].as_str().unwrap().to_owned();
        of.entry(uscc).or_default().push(row);
    }
    let key = |row: &Row| -> Vec<String> {
        let text = |name: &&str| match row.get(*name) {
            Some(Value::String(text)) => text.clone(),
            other => other.map(ToString::to_string).unwrap_or_default(),
        };
        order.iter().map(text).collect()
    };
    for rows in of.values_mut() {
        rows.sort_by_key(|row| std::cmp::Reverse(key(row)));
    }
    of
}

struct World {
    of: BTreeMap<&'static str, BTreeMap<String, Vec<Row>>>,
}

impl World {
    fn first(&self, dataset: &str, uscc: &str, column: &str) -> Value {
        let rows = self.of[dataset].get(uscc);
        let value = rows.and_then(|rows| rows[0].get(column));
        value.cloned().unwrap_or_default()
    }

    fn count(&self, dataset: &str, uscc: &str) -> Value {
        json!(self.of[dataset].get(uscc).map_or(0, Vec::len))
    }

    fn rows(&self, dataset: &str, uscc: &str) -> impl Iterator<Item = &Row> {
        self.of[dataset].get(uscc).into_iter().flatten()
    }
}

const ORDERS: [(&str, &[&str]); 10] = [
    ("enterprise_registration", &["uscc"]),
    ("annual_report", &["ancheyear", "anchedate"]),
    ("taxpayer", &["djrq"]),
    ("tax_credit_rating", &["pjnd"]),
    ("customs_credit_rating", &["rdrq"]),
    ("public_credit_score", &["pjrq"]),
    ("admin_licence", &["xk_jdrq"]),
    ("admin_penalty", &["cf_jdrq"]),
    ("abnormal_operation", &["abntime"]),
    ("customs_declaration", &["i_e_date"]),
];

/// The card of an enterprise, computed from what the gate shows of its inputs.
fn recomputed(world: &World, uscc: &str, registered: &Row) -> Row {
    let mut card = Row::new();
    for column in [
        "uscc",
        "entname",
        "enttype_cn",
        "regstate",
        "estdate",
        "apprdate",
        "industryco",
        "domdistrict",
        "regcap",
        "regcapcur",
    ] {
        let value = registered.get(column).cloned();
        card.insert(column.to_owned(), value.unwrap_or_default());
    }
    let first = |dataset, column| world.first(dataset, uscc, column);
    let published = world
        .rows("tax_credit_rating", uscc)
        .find(|row| row.get("gkbz") == Some(&json!(true)) && row["pjjb"] == "A");
    let general = world
        .rows("taxpayer", uscc)
        .filter_map(|row| row.get("ybnsrbz"))
        .max_by_key(|flag| **flag == json!(true));
    let further = [
        ("annual_report_year", first("annual_report", "ancheyear")),
        ("annual_report_on", first("annual_report", "anchedate")),
        ("employees", first("annual_report", "empnum")),
        ("taxpayer_state", first("taxpayer", "nsrzt")),
        ("general_taxpayer", general.cloned().unwrap_or_default()),
        ("tax_credit_year", first("tax_credit_rating", "pjnd")),
        ("tax_credit_level", first("tax_credit_rating", "pjjb")),
        (
            "tax_credit_a_year",
            published.map_or(Value::Null, |row| row["pjnd"].clone()),
        ),
        (
            "customs_credit_level",
            first("customs_credit_rating", "credit_level"),
        ),
        ("customs_credit_on", first("customs_credit_rating", "rdrq")),
        ("public_credit_level", first("public_credit_score", "pjdj")),
        ("public_credit_on", first("public_credit_score", "pjrq")),
        ("licences", world.count("admin_licence", uscc)),
        ("licence_on", first("admin_licence", "xk_jdrq")),
        ("penalties", world.count("admin_penalty", uscc)),
        ("penalty_on", first("admin_penalty", "cf_jdrq")),
        ("abnormal_entries", world.count("abnormal_operation", uscc)),
        ("abnormal_on", first("abnormal_operation", "abntime")),
        (
            "customs_declared_on",
            first("customs_declaration", "i_e_date"),
        ),
    ];
    card.extend(further.map(|(name, value)| (name.to_owned(), value)));
    // An answer leaves nulls out.
    card.retain(|_, value| !value.is_null());
    card
}

#[test]
fn the_card_is_what_its_inputs_say() {
    let lab = Lab::world();
    let names: Vec<&str> = ORDERS.iter().map(|(name, _)| *name).collect();
    oversees(&lab, &[&names[..], &["enterprise_card"]].concat());
    let built = lab.json(&["pipeline", "run", "--all"]).done().json();
    let built = &built["models"][0];
    assert_eq!(
        (&built["model"], &built["mode"]),
        (&json!("enterprise_card"), &json!("full"))
    );
    let world = World {
        of: ORDERS
            .iter()
            .map(|(name, order)| (*name, latest_first(&lab, name, order)))
            .collect(),
    };
    let cards = rows(&lab, "SELECT * FROM enterprise_card ORDER BY uscc");
    assert_eq!(built["inserted"], json!(cards.len()));
    assert_eq!(cards.len(), world.of["enterprise_registration"].len());
    for mut card in cards {
        let uscc = card["uscc"].as_str().unwrap().to_owned();
        card.remove("shown_until");
        card.remove("build_no");
        let expected = recomputed(
            &world,
            &uscc,
            &world.of["enterprise_registration"][&uscc][0],
        );
        assert_eq!(Value::Object(card), Value::Object(expected));
    }
    // Nothing changed: nothing is built, and nothing recorded.
    let size = || lab.json(&["audit", "verify"]).done().json()["entries"].clone();
    let before = size();
    let again = lab
        .json(&["pipeline", "run", "enterprise_card"])
        .done()
        .json();
    assert_eq!(again["models"][0]["mode"], "up_to_date");
    assert_eq!(size(), before);
    let whole = lab
        .json(&["pipeline", "run", "enterprise_card", "--whole"])
        .done()
        .json();
    assert_eq!(whole["models"][0]["unchanged"], built["inserted"]);
    assert_eq!(size().as_u64(), before.as_u64().map(|entries| entries + 1));
}

#[test]
fn a_card_is_gated_like_any_dataset() {
    let lab = Lab::world();
    lab.run(&["pipeline", "run", "--all"]).done();
    let agreed = "id: bank-card\norg: city_bank\ndataset: enterprise_card\npurposes: [policy.matching]\n\
        basis: consent\nvalid_until: 2099-01-01\ncolumns:\n  - {name: uscc}\n  - {name: entname}\n  \
        - {name: general_taxpayer, form: clear}\n  - {name: taxpayer_state, form: clear}\n";
    let file = lab.write("card.yaml", agreed);
    lab.run(&["agreement", "add", &file]).done();
    let sql = "SELECT uscc, entname, taxpayer_state FROM enterprise_card ORDER BY uscc";
    let open = lab.bank(sql).done().json();
    let all = open["rows"].as_array().unwrap();
    assert!(all.len() > 10 && all.iter().all(|row| row["entname"].is_string()));
    assert!(all.iter().all(|row| row["taxpayer_state"].is_null()));
    let expires = chrono::Utc::now().date_naive() + chrono::TimeDelta::days(30);
    let subject = lab.subject();
    let request = format!(
        "principal: {subject}\nconsumer: {{org: city_bank}}\npurpose: {{code: policy.matching}}\n\
         notice: {{lang: en, text: May the bank look at your card?}}\nscope:\n  - dataset: enterprise_card\n    \
         columns: [uscc, taxpayer_state]\nactions: [QUERY]\nexpires: {expires}\n"
    );
    let file = lab.write("request.yaml", request);
    let requested = lab.json(&["consent", "request", &file]).done().json();
    lab.sign(requested["consent_id"].as_str().unwrap()).done();
    let seen = lab.bank(sql).done().json();
    let granted: Vec<&str> = seen["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["taxpayer_state"].is_string())
        .map(|row| row["uscc"].as_str().unwrap())
        .collect();
    assert_eq!(granted, [subject.as_str()]);
    lab.bank("SELECT customs_declared_on FROM enterprise_card")
        .fails(1, "ColumnNotInAgreement", &["customs_declared_on"]);
}

const MODEL: &str = "-- name: licence_card
-- version: 1.0.0
-- title: Licences of an enterprise
-- title_cn: 企业许可概况
-- description: One row for each registered enterprise.
-- description_cn: 每户登记企业一行。
-- owner: data_authority
-- key: [uscc]
-- columns:
--   - {name: uscc, title_cn: 统一社会信用代码, description: The enterprise.}
--   - {name: licences, title_cn: 许可数, description: Licences on record.}
SELECT e.uscc, coalesce(l.licences, 0) AS licences
FROM enterprise_registration AS e
LEFT JOIN (SELECT uscc, count(*) AS licences FROM admin_licence GROUP BY uscc) AS l ON l.uscc = e.uscc
";

#[test]
fn an_operators_model_takes_effect_as_a_recorded_version() {
    let lab = Lab::world();
    let path = "hub/catalog/models/licence_card.sql";
    let ask = || {
        let sql = "SELECT count(*) AS n, sum(licences) AS licences FROM licence_card";
        lab.json(&query("city_bank", "matching.supply_demand", &[sql]))
    };
    let documented = include_str!("../../docs/pipelines.md");
    assert!(
        documented.contains(MODEL),
        "the model in docs/pipelines.md is the one that is tested"
    );
    lab.write(path, MODEL);
    ask().fails(3, "ContractNotRecorded", &["licence_card"]);
    lab.run(&["pipeline", "run", "licence_card"]).fails(
        3,
        "ContractNotRecorded",
        &["licence_card"],
    );
    lab.run(&["catalog", "check", "--record"]).done();
    lab.run(&["pipeline", "run", "licence_card"]).done();
    let counted = ask().done().json()["rows"][0].clone();
    assert!(counted["n"].as_u64().unwrap() > 10 && counted["licences"].as_u64() > Some(0));
    // Another statement under the same contract: what is in the table is not what is recorded.
    lab.write(
        path,
        MODEL.replace("coalesce(l.licences, 0)", "coalesce(l.licences + 1, 0)"),
    );
    ask().fails(3, "ContractNotRecorded", &["licence_card"]);
    lab.run(&["catalog", "check", "--record"]).done();
    ask().fails(3, "ProductNotBuilt", &["pipeline run licence_card"]);
    let built = lab.json(&["pipeline", "run", "licence_card"]).done().json();
    assert_eq!(built["models"][0]["mode"], "full");
    let more = ask().done().json()["rows"][0].clone();
    assert_eq!(more["n"], counted["n"]);
    assert!(more["licences"].as_u64() > counted["licences"].as_u64());
    let listed = lab.json(&["pipeline", "list"]).done().json();
    let names: Vec<&Value> = listed["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["name"])
        .collect();
    assert_eq!(names, ["enterprise_card", "licence_card"]);
    lab.write(path, MODEL.replace("FROM admin_licence", "FROM nowhere"));
    for words in [["pipeline", "check"], ["catalog", "check"]] {
        lab.json(&words)
            .fails(1, "CatalogModel", &["models/licence_card.sql", "nowhere"]);
    }
    lab.run(&["pipeline", "run", "nothing"])
        .fails(1, "CatalogModel", &["nowhere"]);
}

#[test]
fn a_product_is_shown_with_its_lineage() {
    let lab = Lab::empty();
    let shown = lab
        .json(&["catalog", "show", "enterprise_card"])
        .done()
        .json();
    assert_eq!(shown["kind"], "DataContract");
    let columns = shown["lineage"]["columns"].as_array().unwrap();
    let column = |name: &str| {
        columns
            .iter()
            .find(|column| column["column"] == name)
            .unwrap()
    };
    assert_eq!(column("taxpayer_state")["level"], "L2");
    let because = column("general_taxpayer")["because_of"].as_array().unwrap();
    assert_eq!(because, &[json!("rows of taxpayer")]);
    assert_eq!(
        column("tax_credit_a_year")["declassified_by"],
        "tax_credit_a_list"
    );
    let text = lab
        .run(&["catalog", "show", "enterprise_card"])
        .done()
        .stdout;
    assert!(text.contains("rows of taxpayer") && text.contains("because of"));
    lab.run(&["pipeline", "run", "nothing"])
        .fails(1, "UnknownModel", &["pipeline list"]);
    let checked = lab
        .json(&["pipeline", "check", "enterprise_card"])
        .done()
        .json();
    assert_eq!(checked["models"]["enterprise_card"], shown["lineage"]);
}

/// What reads rows without a decision is used where nothing leaves the hub, and nowhere else.
#[test]
fn only_builds_read_whole_tables() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut users = Vec::new();
    for member in [
        ".",
        "consent",
        "ingest",
        "pipelines",
        "query",
        "synth",
        "warehouse",
    ] {
        for path in crate::support::files(&root.join(member).join("src")) {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("whole::table(") {
                users.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    assert_eq!(users, ["pipelines/src/models/read.rs"]);
}
