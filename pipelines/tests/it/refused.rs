//! Models that cannot be products, each with the file, the place and the reason.

use qihui_catalog::{Catalog, CatalogErrors, Level};
use qihui_pipelines::models::complete;

const HEADER: &str = "-- name: probe\n-- version: 1.0.0\n-- title: Probe\n-- title_cn: 探针\n\
    -- description: A probe.\n-- description_cn: 探针。\n-- owner: data_authority\n-- key: [uscc]\n-- columns:\n\
    --   - {name: uscc, title_cn: 代码, description: The enterprise.}\n";

fn described(name: &str) -> String {
    format!("--   - {{name: {name}, title_cn: 列, description: A column.}}\n")
}

/// The shipped catalogue, with one more model of one column besides the enterprise.
fn with(column: &str, sql: &str) -> Result<Catalog, CatalogErrors> {
    let text = format!("{HEADER}{}{sql}\n", described(column));
    with_files(&[("models/probe.sql", &text)])
}

fn with_files(more: &[(&str, &str)]) -> Result<Catalog, CatalogErrors> {
    let files = Catalog::builtin_files().iter().copied();
    complete(Catalog::from_files(files.chain(more.iter().copied()))?)
}

#[track_caller]
fn refused(column: &str, sql: &str, wanted: &str) {
    let errors = with(column, sql).unwrap_err();
    let said: Vec<String> = errors.problems().map(ToString::to_string).collect();
    assert!(
        said.iter()
            .any(|line| line.starts_with("models/probe.sql: ") && line.contains(wanted)),
        "{wanted}: {said:?}"
    );
}

fn level(catalog: &Catalog, column: &str) -> Level {
    let contract = catalog.contracts.get("probe").unwrap();
    contract.column(column).unwrap().level
}

#[test]
fn what_is_no_plain_select_is_refused() {
    refused("x", "DELETE FROM taxpayer", "DELETE is not allowed");
    refused(
        "x",
        "EXPLAIN SELECT uscc, entname AS x FROM enterprise_registration",
        "not EXPLAIN",
    );
    refused(
        "x",
        "SELECT uscc, nothing AS x FROM enterprise_registration",
        "nothing",
    );
    refused(
        "x",
        "SELECT uscc, 1 AS x FROM nowhere",
        "there is no dataset `nowhere`",
    );
    refused("x", "SELECT 'a' AS uscc, 1 AS x", "reads no dataset");
    refused(
        "x",
        "SELECT uscc, random() AS x FROM enterprise_registration",
        "random",
    );
}

#[test]
fn what_depends_on_the_moment_is_refused() {
    for now in ["now()", "current_date", "current_timestamp"] {
        let sql =
            format!("SELECT uscc, estdate < CAST({now} AS date) AS x FROM enterprise_registration");
        refused("x", &sql, "depends on when it is asked");
    }
}

#[test]
fn personal_columns_can_be_part_of_nothing() {
    refused(
        "x",
        "SELECT uscc, lerep AS x FROM enterprise_registration",
        "is of level L4",
    );
    refused(
        "x",
        "SELECT uscc, entname AS x FROM enterprise_registration WHERE tel IS NOT NULL",
        "is of level L4",
    );
}

#[test]
fn rows_of_several_enterprises_never_meet() {
    for (sql, wanted) in [
        (
            "SELECT uscc, (SELECT max(regcap) FROM enterprise_registration) AS x FROM enterprise_registration",
            "aggregate",
        ),
        (
            "SELECT max(uscc) AS uscc, count(*) AS x FROM enterprise_registration GROUP BY industryco",
            "grouped by the enterprise",
        ),
        (
            "SELECT uscc, rank() OVER (ORDER BY regcap) AS x FROM enterprise_registration",
            "window",
        ),
        (
            "SELECT a.uscc, b.entname AS x FROM enterprise_registration a JOIN enterprise_registration b ON a.regorg = b.regorg",
            "join",
        ),
        (
            "SELECT uscc, entname AS x FROM enterprise_registration ORDER BY regcap DESC LIMIT 10",
            "LIMIT",
        ),
        (
            "SELECT uscc, entname AS x FROM enterprise_registration e WHERE EXISTS (SELECT 1 FROM taxpayer)",
            "subquery",
        ),
        (
            "SELECT coalesce(b.uscc, a.uscc) AS uscc, a.entname AS x FROM enterprise_registration a FULL JOIN enterprise_registration b ON a.uscc = b.uscc",
            "full join",
        ),
        (
            "SELECT upper(uscc) AS uscc, entname AS x FROM enterprise_registration",
            "must be the enterprise column",
        ),
        (
            "SELECT b.uscc, a.entname AS x FROM enterprise_registration a LEFT JOIN taxpayer b ON a.uscc = b.uscc",
            "must be the enterprise column",
        ),
    ] {
        refused("x", sql, wanted);
    }
}

#[test]
fn a_key_must_be_shown_to_be_one() {
    refused(
        "x",
        "SELECT uscc, xk_nr AS x FROM admin_licence",
        "no two rows agree in the key",
    );
    refused(
        "x",
        "SELECT e.uscc, l.xk_nr AS x FROM enterprise_registration e LEFT JOIN admin_licence l ON e.uscc = l.uscc",
        "no two rows agree in the key",
    );
}

#[test]
fn columns_are_described_and_of_known_types() {
    refused(
        "y",
        "SELECT uscc, entname AS x FROM enterprise_registration",
        "`x` that is not described",
    );
    refused(
        "y",
        "SELECT uscc, entname AS x FROM enterprise_registration",
        "gives no such column",
    );
    refused(
        "x",
        "SELECT uscc, CAST(regcap AS double) AS x FROM enterprise_registration",
        "contracts do not know",
    );
}

#[test]
fn products_are_no_contracts_and_no_circles() {
    let card = Catalog::builtin_files()
        .iter()
        .find(|(path, _)| *path == "contracts/admin_licence.yaml")
        .unwrap();
    let errors = with_files(&[(
        "contracts/enterprise_card.yaml",
        &card.1.replace("admin_licence", "enterprise_card"),
    )]);
    let errors = errors.unwrap_err();
    let derived = |line: String| line.contains("is derived, not written");
    assert!(
        errors
            .problems()
            .any(|problem| derived(problem.to_string())),
        "{errors}"
    );
    let text = format!(
        "{HEADER}{}SELECT uscc, max(entname) AS x FROM probe GROUP BY uscc\n",
        described("x")
    );
    let errors = with_files(&[("models/probe.sql", &text)]).unwrap_err();
    assert!(errors.to_string().contains("made from itself"), "{errors}");
}

#[test]
fn a_product_of_a_product_inherits() {
    let catalog = with(
        "x",
        "SELECT uscc, customs_declared_on AS x FROM enterprise_card",
    )
    .unwrap();
    assert_eq!(level(&catalog, "x"), Level::L3);
    let contract = catalog.contracts.get("probe").unwrap();
    assert!(contract.window.is_some() && contract.column("shown_until").is_some());
}

#[test]
fn conditions_restrict_the_row_and_what_is_made_under_them() {
    let catalog = with(
        "x",
        "SELECT uscc, entname AS x FROM enterprise_registration WHERE pripid <> ''",
    )
    .unwrap();
    assert_eq!(catalog.contracts.get("probe").unwrap().row_level, Level::L2);
    assert_eq!(level(&catalog, "x"), Level::L1);
    let catalog = with(
        "x",
        "SELECT uscc, count(*) AS x FROM admin_licence WHERE bz IS NULL GROUP BY uscc",
    )
    .unwrap();
    assert_eq!(level(&catalog, "x"), Level::L2);
    let catalog = with(
        "x",
        "SELECT uscc, CASE WHEN pripid IS NULL THEN 1 ELSE 2 END AS x FROM enterprise_registration",
    )
    .unwrap();
    assert_eq!(level(&catalog, "x"), Level::L2);
    assert_eq!(catalog.contracts.get("probe").unwrap().row_level, Level::L1);
}

const LOWERED: &str = "id: open_x\nversion: 1.0.0\nmodel: probe\nmodel_version: 1.0.0\ncolumn: x\nlevel: L1\n\
    reason: It says nothing.\nlaw: 条例\nauthor: steward\nsql_sha256: ";

#[test]
fn a_declassification_lowers_one_column_of_one_statement() {
    let sql = "SELECT uscc, pripid IS NOT NULL AS x FROM enterprise_registration";
    let header = HEADER.replace("-- columns:", "-- declassifications: [open_x]\n-- columns:");
    let model = |sql: &str| format!("{header}{}{sql}\n", described("x"));
    let rule = |hash: &str| format!("{LOWERED}{hash}\n");
    let load = |model: &str, rule: &str| {
        with_files(&[
            ("models/probe.sql", model),
            ("declassifications/open_x.yaml", rule),
        ])
    };
    let errors = load(&model(sql), &rule(&"0".repeat(64)))
        .unwrap_err()
        .to_string();
    let hash = errors.split("SHA-256 ").nth(1).unwrap()[..64].to_owned();
    let catalog = load(&model(sql), &rule(&hash)).unwrap();
    assert_eq!(level(&catalog, "x"), Level::L1);
    // The number of a build still tells of the column behind it.
    assert_eq!(level(&catalog, "build_no"), Level::L2);
    assert!(
        catalog
            .rules_of(&"probe".parse().unwrap())
            .iter()
            .any(|(kind, id, _)| (*kind, *id) == ("declassification", "open_x"))
    );
    // It lapses with the statement, the version, and when there is nothing to lower.
    let other = "SELECT uscc, pripid IS NULL AS x FROM enterprise_registration";
    assert!(load(&model(other), &rule(&hash)).is_err());
    let newer = model(sql).replace("version: 1.0.0", "version: 1.0.1");
    assert!(
        load(&newer, &rule(&hash))
            .unwrap_err()
            .to_string()
            .contains("look at it again")
    );
    let forgotten = model(sql).replace("-- declassifications: [open_x]\n", "");
    assert!(
        load(&forgotten, &rule(&hash))
            .unwrap_err()
            .to_string()
            .contains("has no effect")
    );
    let public = "SELECT uscc, entname AS x FROM enterprise_registration";
    let errors = load(&model(public), &rule(&hash)).unwrap_err().to_string();
    let hash = errors.split("SHA-256 ").nth(1).unwrap()[..64].to_owned();
    let errors = load(&model(public), &rule(&hash)).unwrap_err().to_string();
    assert!(errors.contains("nothing to lower"), "{errors}");
}
