//! Scopes at rest: what is read back is what was written, in the recorded format.

use std::sync::Arc;

use qihui_catalog::{Catalog, Contract};
use qihui_consent::decision::{ColumnScope, ColumnSet, DatasetScope, Form, Mask, Shape, ShapeItem};
use qihui_query::access::stored_scope::{decode, encode};
use roaring::RoaringBitmap;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/scope-1.bin");

fn scope() -> DatasetScope {
    let catalog = Catalog::builtin().unwrap();
    let contract: Arc<Contract> = Arc::clone(
        catalog
            .contract(&"tax_credit_rating".parse().unwrap())
            .unwrap(),
    );
    let column = |name: &str, form, always, public_when: Option<&str>| ColumnScope {
        name: name.to_owned(),
        form,
        always,
        public_when: public_when.map(str::to_owned),
        by_grant: !always,
        agreements: vec!["a-1".into(), "a-2".into()],
    };
    let item = |columns: &[usize], from: Option<&str>, to: Option<&str>| ShapeItem {
        columns: columns.iter().copied().collect::<ColumnSet>(),
        from: from.map(|date| date.parse().unwrap()),
        to: to.map(|date| date.parse().unwrap()),
    };
    let masked = Form::Masked(Mask::KeepEnds { head: 1, tail: 2 });
    DatasetScope {
        columns: vec![
            column("uscc", Form::Clear, true, None),
            column("pjjb", Form::Clear, false, Some("gkbz")),
            column("nsrmc", masked, false, None),
        ],
        contract,
        all_rows: false,
        shapes: vec![
            Shape::default(),
            Shape::canonical([item(&[1, 2], None, None)]),
            Shape::canonical([
                item(&[1], Some("2025-01-01"), Some("2026-01-01")),
                item(&[2], None, Some("2024-01-01")),
            ]),
        ],
        members: vec![
            RoaringBitmap::new(),
            (4096..4196).collect(),
            [1, 70_000, 3_000_000].into_iter().collect(),
        ],
        agreements: vec!["a-1".into(), "a-2".into()],
        reasons: Vec::new(),
        subjects: None,
        statistics: None,
    }
}

#[test]
fn a_kept_scope_reads_back_and_has_the_recorded_form() {
    let scope = scope();
    let bytes = encode(&scope).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &bytes).unwrap();
    }
    let golden = std::fs::read(GOLDEN).unwrap();
    assert!(bytes == golden, "a change of format needs a new version");
    assert_eq!(decode(&golden, &scope.commitment()).unwrap(), scope);
}

#[test]
fn a_damaged_or_foreign_scope_is_refused() {
    let scope = scope();
    let (bytes, commitment) = (encode(&scope).unwrap(), scope.commitment());
    assert!(decode(&bytes, &[0; 32]).is_err());
    for length in (0..bytes.len()).step_by(97) {
        assert!(
            decode(&bytes[..length], &commitment).is_err(),
            "cut at {length}"
        );
    }
    for at in (0..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        // What is not refused must at least mean the same, as a changed space in a description would not.
        if let Ok(read) = decode(&damaged, &commitment) {
            assert_eq!(read, scope, "byte {at}");
        }
    }
    let mut named = scope;
    named.subjects = Some(RoaringBitmap::new());
    assert!(encode(&named).is_err(), "a delivery has no named subjects");
}
