//! Feeds for the enterprises of a given registry.

use std::fs;
use std::path::{Path, PathBuf};

use qihui_catalog::Uscc;
use qihui_synth::{SynthError, SynthOptions, generate};

use crate::feeds::reconcile;

fn options(out: &Path, registry: &Path, enterprises: u32) -> SynthOptions {
    SynthOptions {
        out: out.to_owned(),
        enterprises,
        months: 3,
        seed: 2,
        ugly: 0.02,
        registry: Some(registry.to_owned()),
    }
}

fn registry(folder: &Path) -> PathBuf {
    let code = |serial: &str| Uscc::from_parts('9', '1', "330106", serial).unwrap();
    let mut text = "\u{feff}uscc,ent_name,est_date,ent_type,reg_capital_wan,reg_capital_currency,business_scope\n".to_owned();
    text += &format!(
        "{},杭州甲乙丙纺织有限公司,1999-05-01,,500,CNY,\"纺织品、服装的制造, \"\"销售\"\"\"\n",
        code("QHTEXT01")
    );
    text += &format!(
        " {} ,杭州丁戊己软件有限公司,,,,,\n",
        code("QHTEXT02").as_str().to_lowercase()
    );
    text += &format!(
        "{},杭州重复有限公司,2001-01-01,,10.5,CNY,\n",
        code("QHTEXT01")
    );
    text += "330100000012345,杭州旧号有限公司,1993-01-01,,10,CNY,\n";
    text += &format!(
        "{},杭州庚辛壬贸易有限公司,2012-12-12,,80,USD,货物进出口\n",
        code("QHTEXT03")
    );
    let path = folder.join("registry.csv");
    fs::write(&path, text).unwrap();
    path
}

const ADVERSE: [&str; 3] = ["abnormal_operation", "admin_penalty", "public_credit_score"];

#[test]
fn a_registry_gives_neutral_feeds_for_its_valid_rows() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path());
    let out = folder.path().join("feeds");
    let manifest = generate(&options(&out, &registry, 0)).unwrap().manifest;
    assert_eq!(
        (
            manifest.enterprises,
            manifest.registry_skipped,
            manifest.neutral
        ),
        (3, Some(2), true)
    );
    assert_eq!(manifest.feeds.len(), 12 - ADVERSE.len());
    assert!(
        manifest
            .feeds
            .iter()
            .all(|feed| !ADVERSE.contains(&feed.feed.as_str()))
    );
    reconcile(&out, &manifest);
    let text = fs::read(out.join(&manifest.feed("enterprise_registration").unwrap().files[0].name))
        .unwrap();
    let text = encoding_rs::GB18030.decode(&text).0.into_owned() + &String::from_utf8_lossy(&text);
    assert!(text.contains("纺织品、服装的制造, \"\"销售\"\"") && !text.contains("旧号"));
    let few = generate(&options(&folder.path().join("few"), &registry, 1))
        .unwrap()
        .manifest;
    assert_eq!(few.enterprises, 1);
}

#[test]
fn a_table_that_is_no_registry_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.csv");
    fs::write(&path, "code,name\n1,2\n").unwrap();
    let error = generate(&options(&folder.path().join("feeds"), &path, 0)).unwrap_err();
    assert!(
        matches!(error, SynthError::RegistryColumn { column: "uscc", .. }),
        "{error}"
    );
    let error = generate(&options(
        &folder.path().join("feeds"),
        &folder.path().join("absent.csv"),
        0,
    ))
    .unwrap_err();
    assert!(matches!(error, SynthError::Io { .. }), "{error}");
}

/// On a real register: nothing unfavourable, everything accepted. Needs the folder that `QIHUI_REAL_DATA` names.
#[test]
#[ignore = "real enterprises may not be copied into a repository: scripts/test runs this where QIHUI_REAL_DATA names their folder"]
fn a_real_register_gives_neutral_feeds() {
    let data = std::env::var_os("QIHUI_REAL_DATA").expect("QIHUI_REAL_DATA names the folder");
    let registry = Path::new(&data).join("enterprises_zhejiang.csv");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("feeds");
    let mut options = options(&out, &registry, 0);
    options.ugly = 0.0;
    options.months = 1;
    let manifest = generate(&options).unwrap().manifest;
    assert!(
        manifest.enterprises > 47_000,
        "{} enterprises",
        manifest.enterprises
    );
    assert_eq!(
        manifest.enterprises + manifest.registry_skipped.unwrap(),
        47_168
    );
    let readings = reconcile(&out, &manifest);
    for row in &readings["tax_credit_rating"].rows {
        assert!(matches!(row["pjjb"].text(), "B" | "M"));
    }
    for row in &readings["customs_credit_rating"].rows {
        assert!(matches!(
            row["credit_level"].text(),
            "其他企业" | "常规企业"
        ));
    }
    for row in &readings["enterprise_registration"].rows {
        assert_eq!(row["regstate"].text(), "K");
    }
}
