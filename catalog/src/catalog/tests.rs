//! The shipped catalogue, its recorded form, and catalogues whose files do not fit together.

use std::fmt::Write as _;

use super::*;
use crate::{CodeList, Level, PurposeCode, Unit};

fn dataset(name: &str) -> DatasetId {
    DatasetId::new(name).unwrap()
}

#[test]
fn the_shipped_catalogue_loads() {
    let catalog = Catalog::builtin()
        .map_err(CatalogErrors::into_problems)
        .unwrap();
    let datasets: Vec<&str> = catalog.contracts.keys().map(DatasetId::as_str).collect();
    assert_eq!(datasets.len(), 12);
    assert_eq!(catalog.feeds.len(), 13);
    assert_eq!(
        catalog
            .contract(&dataset("enterprise_registration"))
            .unwrap()
            .row_level,
        Level::L1
    );
    let levels: Vec<Level> = catalog
        .contracts
        .values()
        .map(|contract| contract.row_level)
        .collect();
    assert!(
        levels.contains(&Level::L3)
            && levels.iter().filter(|level| **level == Level::L2).count() > 2
    );
    for (file, _) in Catalog::builtin_files() {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).is_file());
    }
}

#[test]
fn every_shipped_file_is_built_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, ending) in [
        (CONTRACTS, ".yaml"),
        (FEEDS, ".yaml"),
        (MODELS, ".sql"),
        (DECLASSIFICATIONS, ".yaml"),
    ] {
        for name in files_in(&root.join(folder), ending).unwrap() {
            let path = format!("{folder}/{name}");
            assert!(BUILTIN.iter().any(|(known, _)| *known == path), "{path}");
        }
    }
}

#[test]
fn what_is_written_out_loads_as_the_same_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in Catalog::builtin_files() {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::write(dir.path().join("contracts/README.md"), "left alone").unwrap();
    assert_eq!(check_dir(dir.path()), []);
    assert_eq!(
        Catalog::load(dir.path()).unwrap(),
        Catalog::builtin().unwrap()
    );
}

#[test]
fn every_part_is_an_artefact_and_reads_back() {
    let catalog = Catalog::builtin().unwrap();
    let artefacts = catalog.artefacts();
    assert_eq!(artefacts.len(), 12 + 13 + 1 + 1 + 1);
    let file = |artefact: &Artefact| match artefact.kind {
        "contract" => format!("contracts/{}.yaml", artefact.id),
        "feed" => format!("feeds/{}.yaml", artefact.id),
        "declassification" => format!("declassifications/{}.yaml", artefact.id),
        "model" => format!("models/{}.sql", artefact.id),
        _ => PURPOSES.to_owned(),
    };
    let files: Vec<(String, String)> = artefacts
        .iter()
        .map(|artefact| match artefact.kind {
            // The form that is recorded is not the one that is written: a header and a statement.
            "model" => (file(artefact), builtin_text(&file(artefact))),
            _ => (file(artefact), artefact.canonical_json.clone()),
        })
        .collect();
    let again = Catalog::from_files(
        files
            .iter()
            .map(|(file, text)| (file.as_str(), text.as_str())),
    )
    .unwrap();
    assert_eq!(again, catalog);
}

fn builtin_text(path: &str) -> String {
    let mut files = Catalog::builtin_files().iter();
    files
        .find(|(known, _)| *known == path)
        .unwrap()
        .1
        .to_owned()
}

#[test]
fn the_recorded_form_is_stable() {
    let catalog = Catalog::builtin().unwrap();
    let mut hashes = String::new();
    for artefact in catalog.artefacts() {
        let hash = hex::encode(artefact.hash);
        writeln!(
            hashes,
            "{} {} {} {hash}",
            artefact.kind, artefact.id, artefact.version
        )
        .unwrap();
    }
    crate::golden("artefact_hashes", &hashes);
    let score = catalog.contract(&dataset("public_credit_score")).unwrap();
    crate::golden("contract_public_credit_score", &score.canonical_json());
    let registry = catalog.feeds.get("registry_csv").unwrap();
    crate::golden("feed_registry_csv", &registry.canonical_json());
    crate::golden("purposes", &catalog.purposes.canonical_json());
    let card = catalog.models.get("enterprise_card").unwrap();
    crate::golden("model_enterprise_card", &card.canonical_json());
    let lowered = &catalog.declassifications["tax_credit_a_list"];
    crate::golden(
        "declassification_tax_credit_a_list",
        &lowered.canonical_json(),
    );
}

#[test]
fn the_shape_of_every_dataset_is_known() {
    let catalog = Catalog::builtin().unwrap();
    let mut shapes = String::new();
    for contract in catalog.contracts.values() {
        let (id, row) = (&contract.id, contract.row_level);
        writeln!(
            shapes,
            "{id} {row} key {:?} event {:?}",
            contract.key, contract.event_date
        )
        .unwrap();
        for column in &contract.columns {
            let null = if column.nullable { "" } else { " required" };
            let flag = column
                .public_when
                .as_ref()
                .map(|flag| format!(" public when {flag}"))
                .unwrap_or_default();
            writeln!(
                shapes,
                "  {} {} {}{null}{flag}",
                column.name, column.ty, column.level
            )
            .unwrap();
        }
    }
    crate::golden("datasets", &shapes);
}

#[test]
fn personal_fields_never_land() {
    const PERSONAL: &[&str] = &[
        "lerep",
        "frdb",
        "frmc",
        "zjhm",
        "zjlx",
        "inputer",
        "typist",
        "declare_name",
        "bp_no",
        "partener",
        "tel",
        "email",
        "bsrxm",
        "cerno",
    ];
    for contract in Catalog::builtin().unwrap().contracts.values() {
        for column in contract.landed() {
            let found = PERSONAL.iter().find(|word| column.name.contains(**word));
            assert_eq!(found, None, "{}.{}", contract.id, column.name);
        }
    }
}

#[test]
fn each_amount_of_a_report_has_its_flag() {
    let catalog = Catalog::builtin().unwrap();
    let report = catalog.contract(&dataset("annual_report")).unwrap();
    for name in [
        "assgro",
        "liagro",
        "totequ",
        "vendinc",
        "maibusinc",
        "progro",
        "netinc",
        "ratgro",
        "empnum",
    ] {
        let column = report.column(name).unwrap();
        assert_eq!(column.public_when, Some(format!("{name}dis")));
        assert_eq!(
            column.unit,
            if name == "empnum" {
                Unit::One
            } else {
                Unit::TenThousand
            }
        );
    }
    let feed = catalog.feeds.get("annual_report").unwrap();
    assert_eq!(
        (
            feed.boolean_of("1"),
            feed.boolean_of("2"),
            feed.boolean_of("公示")
        ),
        (Some(true), Some(false), Some(true))
    );
    assert_eq!(
        (feed.boolean_of("否"), feed.boolean_of("3")),
        (Some(false), None)
    );
}

#[test]
fn the_published_register_fills_what_it_has() {
    let catalog = Catalog::builtin().unwrap();
    let feed = catalog.feeds.get("registry_csv").unwrap();
    let header = "uscc,ent_name,est_date,ent_type,reg_capital_wan,reg_capital_currency,business_scope,province,city,\
                  reg_division_code";
    assert!(
        header
            .split(',')
            .all(|source| feed.column_of(source).is_some())
    );
    assert_eq!(feed.column_of(" USCC "), Some("uscc"));
    assert!(feed.takes_file("enterprises_zhejiang.csv"));
    let own = catalog.feeds.get("enterprise_registration").unwrap();
    assert!(
        own.takes_file("enterprise_registration_2024.csv")
            && !own.takes_file("enterprises_zhejiang.csv")
    );
    assert_eq!(own.column_of("UniScId"), Some("uscc"));
}

#[test]
fn every_code_list_of_a_contract_is_used_well() {
    for contract in Catalog::builtin().unwrap().contracts.values() {
        for list in contract
            .columns
            .iter()
            .filter_map(|column| column.code_list.as_ref())
        {
            assert!(CodeList::get(&list.name).is_some());
        }
    }
}

#[test]
fn purposes_narrow_downwards() {
    let purposes = Catalog::builtin().unwrap().purposes;
    let get = |code: &str| purposes.get(&PurposeCode::new(code).unwrap());
    let review = get("credit.loan_review").unwrap();
    assert_eq!(
        review.parent.as_ref().map(PurposeCode::as_str),
        Some("credit")
    );
    assert!(!review.heading && get("credit").unwrap().heading);
    assert!(get("credit.anything").is_none());
    for purpose in purposes.iter().filter(|purpose| purpose.parent.is_some()) {
        let above = purposes.get(purpose.parent.as_ref().unwrap()).unwrap();
        assert!(purpose.caps.max_validity_days <= above.caps.max_validity_days);
    }
}

/// Loads the shipped catalogue with one file replaced or removed and lists what is wrong.
fn problems_with(file: &str, change: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let files: Vec<(&str, String)> = BUILTIN
        .iter()
        .filter_map(|(path, text)| {
            let text = if *path == file {
                change(text)?
            } else {
                (*text).to_owned()
            };
            Some((*path, text))
        })
        .collect();
    let problems =
        match Catalog::from_files(files.iter().map(|(path, text)| (*path, text.as_str()))) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.into_problems(),
        };
    problems
        .iter()
        .map(|problem| format!("[{}] {problem}", problem.code))
        .collect()
}

#[test]
fn files_that_do_not_fit_together_are_refused() {
    let replace = |from: &'static str, to: &'static str| {
        move |text: &str| {
            assert!(text.contains(from), "{from}");
            Some(text.replacen(from, to, 1))
        }
    };
    let levy = "feeds/tax_levy.yaml";
    let mut report = Vec::new();
    report.extend(problems_with(levy, |_| None));
    report.extend(problems_with(
        levy,
        replace("dataset: tax_levy", "dataset: tax_levies"),
    ));
    report.extend(problems_with(
        levy,
        replace("dataset: tax_levy", "dataset: taxpayer"),
    ));
    report.extend(problems_with(levy, replace("name: tax_levy", "name: levy")));
    report.extend(problems_with(levy, replace("RKRQ: rkrq", "RKRQ: rkrqq")));
    report.extend(problems_with(
        levy,
        replace("RKRQ: rkrq\n", "rkrq: rkrq\n  RKRQ: rkrq\n"),
    ));
    report.extend(problems_with(levy, replace("format: csv", "format: xls")));
    report.extend(problems_with(
        levy,
        replace("format: csv", "format: csv\nencoding: latin-1"),
    ));
    report.extend(problems_with(
        levy,
        replace("format: csv", "format: json-lines\ndelimiter: tab"),
    ));
    report.extend(problems_with(
        levy,
        replace("filePattern: tax_levy*.csv", "filePattern: ../tax*.csv"),
    ));
    report.extend(problems_with(
        levy,
        replace("filePattern: tax_levy*.csv", "filePattern: tax*.csv"),
    ));
    report.extend(problems_with(
        levy,
        replace(
            "columns:\n",
            "constants:\n  rkrq: x\nunits:\n  nsrmc: one\ncolumns:\n",
        ),
    ));
    report.extend(problems_with(
        levy,
        replace(
            "columns:\n",
            "tombstone: {column: RKRQ}\nmode: x\ncolumns:\n",
        ),
    ));
    report.extend(problems_with("contracts/tax_levy.yaml", |_| None));
    report.extend(problems_with(
        "contracts/tax_levy.yaml",
        replace("value: [tax_levy]", "value: [taxpayer, tax]"),
    ));
    report.extend(problems_with("contracts/tax_levy.yaml", |_| {
        Some("- 1".to_owned())
    }));
    report.extend(problems_with(PURPOSES, |_| None));
    report.extend(problems_with(
        PURPOSES,
        replace("code: credit.loan_review", "code: loans.review"),
    ));
    report.extend(problems_with(
        PURPOSES,
        replace("code: card.display", "code: card.partner_check"),
    ));
    report.extend(problems_with(
        PURPOSES,
        replace("maxValidityDays: 180", "maxValidityDays: 100000"),
    ));
    report.extend(problems_with(
        PURPOSES,
        replace("maxValidityDays: 180", "maxValidityDays: 1000"),
    ));
    report.extend(problems_with(
        PURPOSES,
        replace("count: 30, per: month", "count: 30, per: fortnight"),
    ));
    report.extend(problems_with(PURPOSES, |text| {
        Some(text.replacen("    caps:\n", "    kaps:\n", 1))
    }));
    crate::golden("wrong_catalogues", &report.join("\n"));
}

#[test]
fn folders_that_cannot_be_read_are_problems() {
    let dir = tempfile::tempdir().unwrap();
    let found: Vec<_> = check_dir(dir.path())
        .into_iter()
        .map(|problem| (problem.file, problem.code))
        .collect();
    let unreadable = |file: &str| (file.to_owned(), codes::UNREADABLE);
    assert_eq!(
        &found[..3],
        [
            unreadable(CONTRACTS),
            unreadable(FEEDS),
            unreadable(PURPOSES)
        ]
    );
    fs::create_dir_all(dir.path().join("contracts/folder.yaml")).unwrap();
    fs::create_dir_all(dir.path().join(FEEDS)).unwrap();
    fs::write(dir.path().join("feeds/bytes.yaml"), b"name: \xff").unwrap();
    fs::write(dir.path().join(PURPOSES), vec![b' '; MAX_BYTES + 1]).unwrap();
    let found: Vec<_> = check_dir(dir.path())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "contracts/folder.yaml: the file cannot be read: not a file",
            "feeds/bytes.yaml: the file cannot be read: not UTF-8",
            "purposes.yaml: the file cannot be read: larger than 1048576 bytes",
        ]
    );
}
