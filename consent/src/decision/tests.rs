//! The decision against the reference, and its promises one by one.

use std::{collections::BTreeSet, sync::Arc};

use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::Config};
use qihui_catalog::{
    Action, Column, ColumnType, ConsentId, Contract, DatasetId, Date, EnterpriseNo, Level, OrgId,
    Partition, PurposeCode, Timestamp, Unit,
};

use super::{
    ActionSet, Agreement, AgreementColumn, Basis, Bucket, DatasetScope, DecisionRequest, Form,
    Grant, Mask, ScopeItem, Verdict, Why,
    reference::{Reference, Row},
    scope,
};

const COLUMNS: usize = 7;
const ENTERPRISES: u32 = 4;

pub(crate) fn column(name: &str, ty: ColumnType, level: Level) -> Column {
    Column {
        name: name.to_owned(),
        title_cn: name.to_owned(),
        description: String::new(),
        ty,
        nullable: true,
        level,
        public_when: None,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    }
}

pub(crate) fn contract(
    id: &str,
    row_level: Level,
    dated: bool,
    columns: Vec<Column>,
) -> Arc<Contract> {
    Arc::new(Contract {
        id: id.parse().unwrap(),
        version: "1.0.0".to_owned(),
        title_en: String::new(),
        title_cn: String::new(),
        description: String::new(),
        description_cn: String::new(),
        owner: "tax".to_owned(),
        row_level,
        key: vec!["uscc".to_owned()],
        uscc: "uscc".to_owned(),
        event_date: dated.then(|| "day".to_owned()),
        sequence: vec!["day".to_owned()],
        partition: Partition::None,
        window: None,
        freshness_days: None,
        feeds: Vec::new(),
        columns,
        hash: [7; 32],
    })
}

fn name(index: usize) -> String {
    format!("c{index}")
}

fn day(index: u32) -> Date {
    Date::from_ymd_opt(2026, 1, 1 + index).unwrap()
}

pub(crate) fn org(index: u8) -> OrgId {
    format!("org{index}").parse().unwrap()
}

pub(crate) fn purpose(index: u8) -> PurposeCode {
    ["credit", "credit.loan"][usize::from(index % 2)]
        .parse()
        .unwrap()
}

pub(crate) fn dataset(index: u8) -> DatasetId {
    ["tax", "customs"][usize::from(index % 2)].parse().unwrap()
}

fn levels() -> impl Strategy<Value = Level> {
    select(vec![
        Level::L1,
        Level::L2,
        Level::L2,
        Level::L3,
        Level::L3,
        Level::L4,
    ])
}

prop_compose! {
    pub(crate) fn contracts()(
        row_level in select(vec![Level::L1, Level::L2, Level::L3]),
        dated in any::<bool>(),
        columns in vec((levels(), any::<bool>()), COLUMNS),
    ) -> Arc<Contract> {
        let mut all = vec![column("flag", ColumnType::Boolean, Level::L2)];
        all.extend(columns.into_iter().enumerate().map(|(index, (level, public_when))| Column {
            public_when: public_when.then(|| "flag".to_owned()),
            ..column(&name(index), ColumnType::Int64, level)
        }));
        contract("tax", row_level, dated, all)
    }
}

/// Mostly what concerns the request, sometimes not.
fn mostly() -> impl Strategy<Value = u8> {
    select(vec![0, 0, 0, 0, 1])
}

/// Agreements whose names differ.
pub(crate) fn agreements() -> impl Strategy<Value = Vec<Agreement>> {
    vec(one_agreement(), 0..5).prop_map(|mut agreements| {
        for (index, agreement) in agreements.iter_mut().enumerate() {
            agreement.id = format!("a{index}").as_str().into();
        }
        agreements
    })
}

prop_compose! {
    fn one_agreement()(
        to in mostly(), about in mostly(), purposes in vec(mostly(), 1..3), statute in mostly(),
        columns in vec(0..COLUMNS + 1, 1..5), from in 0_i64..4, length in 0_i64..8,
    ) -> Agreement {
        Agreement {
            id: "a".into(),
            org: org(to),
            dataset: dataset(about),
            purposes: purposes.into_iter().map(purpose).collect(),
            basis: if statute == 1 { Basis::Statute { law: "law".to_owned(), data_life_days: None } } else { Basis::Consent },
            aggregate_only: None,
            columns: columns
                .into_iter()
                .map(|index| AgreementColumn { name: name(index), form: None, reason: None })
                .collect(),
            valid_from: Timestamp(from),
            valid_until: Timestamp(from + length),
        }
    }
}

prop_compose! {
    fn items()(
        about in mostly(), columns in vec(0..COLUMNS, 1..4), from in option::of(0_u32..6), to in option::of(0_u32..7),
    ) -> ScopeItem {
        ScopeItem {
            dataset: dataset(about),
            columns: columns.into_iter().map(name).collect(),
            from: from.map(day),
            to: to.map(day),
        }
    }
}

prop_compose! {
    pub(crate) fn grants()(
        no in 1..=ENTERPRISES, to in mostly(), purpose_index in mostly(), items in vec(items(), 1..4),
        query in mostly(), starts in 0_i64..4, length in 0_i64..8, metered in mostly(),
    ) -> Grant {
        Grant {
            consent_id: ConsentId::new("c").unwrap(),
            version: 1,
            no: EnterpriseNo(no),
            org: org(to),
            purpose: purpose(purpose_index),
            items,
            actions: [if query == 1 { Action::View } else { Action::Query }].into_iter().collect(),
            starts: Timestamp(starts),
            expires: Timestamp(starts + length),
            metered: metered == 1,
        }
    }
}

prop_compose! {
    fn requests()(at in 1_i64..5, wait in 0_i64..3, subjects in option::weighted(0.3, vec(1..=ENTERPRISES, 0..3)))
    -> DecisionRequest {
        DecisionRequest {
            org: org(0),
            purpose: purpose(0),
            action: Action::Query,
            at: Timestamp(at),
            until: Timestamp(at + wait),
            subjects: subjects.map(|subjects| subjects.into_iter().map(EnterpriseNo).collect()),
            datasets: vec![dataset(0)],
        }
    }
}

fn rows() -> impl Iterator<Item = Row> {
    let dates = || (0..7).map(|index| Some(day(index))).chain([None]);
    (1..=ENTERPRISES).flat_map(move |no| {
        dates().flat_map(move |event_date| {
            [None, Some(false), Some(true)].map(|flag| Row {
                no: EnterpriseNo(no),
                event_date,
                flag,
            })
        })
    })
}

fn opened(scope: &DatasetScope) -> Vec<String> {
    scope
        .columns
        .iter()
        .map(|column| column.name.clone())
        .collect()
}

fn is_well_formed(scope: &DatasetScope) -> Result<(), TestCaseError> {
    prop_assert_eq!(scope.shapes.len(), scope.members.len());
    prop_assert!(scope.shapes[0].items.is_empty() && scope.members[0].is_empty());
    prop_assert!(
        scope.shapes.windows(2).all(|pair| pair[0] < pair[1]),
        "shapes are ascending and distinct"
    );
    prop_assert_eq!(
        scope.granted().len(),
        scope.enterprises(),
        "members are disjoint"
    );
    prop_assert!(scope.members[1..].iter().all(|members| !members.is_empty()));
    prop_assert!(scope.reasons.is_sorted());
    for shape in &scope.shapes {
        for item in &shape.items {
            prop_assert!(!item.columns.is_empty());
            prop_assert!(item.columns.iter().all(|index| index < scope.columns.len()));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config::with_cases(4096))]

    /// GATE-1, the part of the decision: the scope opens exactly what the rules open, row by row and cell by cell.
    #[test]
    fn gate_1_the_scope_opens_exactly_what_the_rules_open(
        contract in contracts(), request in requests(), agreements in agreements(),
        grants in vec(grants(), 0..10),
    ) {
        let scope = scope(&contract, &request, &agreements, &grants);
        is_well_formed(&scope)?;
        let reference = Reference { contract: &contract, request: &request, agreements: &agreements, grants: &grants };
        prop_assert_eq!(opened(&scope), reference.columns());
        for row in rows() {
            let visible = reference.row_visible(&row);
            prop_assert_eq!(scope.row_visible(row.no, row.event_date), visible, "row {:?}", row);
            if !visible {
                continue;
            }
            for (index, column) in scope.columns.iter().enumerate() {
                prop_assert_eq!(
                    scope.cell_shown(index, row.no, row.event_date, row.flag),
                    reference.cell_shown(&row, &column.name),
                    "cell {} of {:?}", column.name, row
                );
            }
        }
    }

    /// Equal inputs give equal scopes and commitments, whatever their order; what cannot matter does not.
    #[test]
    fn gate_1_the_scope_does_not_depend_on_order(
        contract in contracts(), request in requests(), agreements in agreements(),
        grants in vec(grants(), 0..10), seed in any::<u64>(),
    ) {
        let first = scope(&contract, &request, &agreements, &grants);
        let shuffle = |index: usize| (index as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut order: Vec<usize> = (0..grants.len()).collect();
        order.sort_by_key(|index| shuffle(*index));
        let mut grants: Vec<Grant> = order.into_iter().map(|index| grants[index].clone()).collect();
        for grant in &mut grants {
            grant.items.reverse();
            for item in &mut grant.items {
                item.columns.reverse();
            }
        }
        let mut agreements = agreements;
        agreements.reverse();
        let second = scope(&contract, &request, &agreements, &grants);
        prop_assert_eq!(&first.columns, &second.columns);
        prop_assert_eq!(&first.shapes, &second.shapes);
        prop_assert_eq!(&first.members, &second.members);
        prop_assert_eq!(&first.reasons, &second.reasons);
        prop_assert_eq!(first.commitment(), second.commitment());
    }

    /// More grants never close anything, and no grant opens a column that no agreement names.
    #[test]
    fn gate_1_a_grant_only_adds(
        contract in contracts(), request in requests(), agreements in agreements(),
        mut grants in vec(grants(), 1..10),
    ) {
        let more = scope(&contract, &request, &agreements, &grants);
        grants.pop();
        let less = scope(&contract, &request, &agreements, &grants);
        prop_assert_eq!(&more.columns, &less.columns);
        for row in rows() {
            prop_assert!(!less.row_visible(row.no, row.event_date) || more.row_visible(row.no, row.event_date));
            let (some, all) = (less.covered(row.no, row.event_date), more.covered(row.no, row.event_date));
            prop_assert_eq!(some.intersection(all), some);
        }
    }

    /// A shape is canonical: the same coverage has the same shape, a different one a different shape.
    #[test]
    fn shapes_are_equal_exactly_when_they_cover_the_same(
        left in vec((0_u128..8, option::of(0_u32..6), option::of(0_u32..7)), 0..6),
        right in vec((0_u128..8, option::of(0_u32..6), option::of(0_u32..7)), 0..6),
    ) {
        let shape = |items: &[(u128, Option<u32>, Option<u32>)]| {
            super::Shape::canonical(items.iter().map(|(columns, from, to)| super::ShapeItem {
                columns: super::ColumnSet(*columns), from: from.map(day), to: to.map(day),
            }))
        };
        let (left, right) = (shape(&left), shape(&right));
        let before = Date::from_ymd_opt(2025, 1, 1).unwrap();
        let same = (0..8).map(day).chain([before])
            .all(|date| left.columns_at(true, Some(date)) == right.columns_at(true, Some(date)));
        prop_assert_eq!(same, left == right);
        prop_assert_eq!(&super::Shape::canonical(left.items.iter().copied()), &left);
    }
}

fn request() -> DecisionRequest {
    DecisionRequest {
        org: org(0),
        purpose: purpose(0),
        action: Action::Query,
        at: Timestamp(10),
        until: Timestamp(20),
        subjects: None,
        datasets: vec![dataset(0)],
    }
}

fn agreement(columns: &[(&str, Option<Form>, Option<&str>)]) -> Agreement {
    Agreement {
        id: "a0".into(),
        org: org(0),
        dataset: dataset(0),
        purposes: BTreeSet::from([purpose(0)]),
        basis: Basis::Consent,
        aggregate_only: None,
        columns: columns
            .iter()
            .map(|(name, form, reason)| AgreementColumn {
                name: (*name).to_owned(),
                form: *form,
                reason: reason.map(str::to_owned),
            })
            .collect(),
        valid_from: Timestamp(0),
        valid_until: Timestamp(100),
    }
}

fn forms_of(column: Column, agreements: &[Agreement]) -> Vec<Form> {
    let contract = contract("tax", Level::L3, false, vec![column]);
    scope(&contract, &request(), agreements, &[])
        .columns
        .into_iter()
        .map(|column| column.form)
        .collect()
}

#[test]
fn gate_1_an_l3_column_is_masked_unless_a_reason_is_given() {
    let l3 = || column("x", ColumnType::String, Level::L3);
    let mask = Form::Masked(Mask::KeepEnds { head: 1, tail: 1 });
    assert_eq!(forms_of(l3(), &[agreement(&[("x", None, None)])]), [mask]);
    assert_eq!(
        forms_of(l3(), &[agreement(&[("x", Some(Form::Clear), None)])]),
        [mask]
    );
    assert_eq!(
        forms_of(l3(), &[agreement(&[("x", Some(Form::Clear), Some(" "))])]),
        [mask]
    );
    assert_eq!(
        forms_of(
            l3(),
            &[agreement(&[(
                "x",
                Some(Form::Clear),
                Some("loan contract")
            )])]
        ),
        [Form::Clear]
    );
    let l2 = column("x", ColumnType::String, Level::L2);
    assert_eq!(
        forms_of(l2, &[agreement(&[("x", None, None)])]),
        [Form::Clear]
    );
}

#[test]
fn gate_1_the_stricter_of_two_forms_holds() {
    let l2 = || column("x", ColumnType::Int64, Level::L2);
    let clear = agreement(&[("x", Some(Form::Clear), None)]);
    let mut bucket = agreement(&[("x", Some(Form::Bucketed(Bucket::Width(10))), None)]);
    bucket.id = "a1".into();
    let mut mask = agreement(&[("x", Some(Form::Masked(Mask::Zero)), None)]);
    mask.id = "a2".into();
    assert_eq!(
        forms_of(l2(), &[clear.clone(), bucket.clone()]),
        [Form::Bucketed(Bucket::Width(10))]
    );
    assert_eq!(
        forms_of(l2(), &[mask, bucket, clear]),
        [Form::Masked(Mask::Zero)]
    );
    let wrong = agreement(&[("x", Some(Form::Masked(Mask::Year)), None)]);
    assert_eq!(
        forms_of(l2(), &[wrong]),
        [Form::Masked(Mask::Zero)],
        "a form that does not fit gives way to a mask"
    );
}

#[test]
fn gate_1_l4_is_never_opened_and_says_so() {
    let contract = contract(
        "tax",
        Level::L1,
        false,
        vec![column("x", ColumnType::String, Level::L4)],
    );
    let mut by_law = agreement(&[("x", Some(Form::Clear), Some("because"))]);
    by_law.basis = Basis::Statute {
        law: "law".to_owned(),
        data_life_days: None,
    };
    let scope = scope(&contract, &request(), &[by_law], &[]);
    assert!(scope.columns.is_empty());
    let reason = scope
        .reasons
        .iter()
        .find(|reason| reason.column.as_deref() == Some("x"))
        .unwrap();
    assert_eq!(
        (reason.verdict, &reason.why),
        (Verdict::Closed, &Why::NeverOpened)
    );
}

#[test]
fn gate_1_without_an_agreement_only_open_data_is_open() {
    let columns = || {
        vec![
            column("x", ColumnType::String, Level::L1),
            column("y", ColumnType::String, Level::L2),
        ]
    };
    let open = scope(
        &contract("tax", Level::L1, false, columns()),
        &request(),
        &[],
        &[],
    );
    assert_eq!(opened(&open), ["x"]);
    assert!(open.all_rows && open.columns[0].always);
    let closed = scope(
        &contract("tax", Level::L2, false, columns()),
        &request(),
        &[],
        &[],
    );
    assert!(closed.columns.is_empty() && !closed.row_visible(EnterpriseNo(1), None));
}

#[test]
fn grants_left_out_are_counted_and_explained() {
    let contract = contract(
        "tax",
        Level::L3,
        false,
        vec![column("x", ColumnType::String, Level::L2)],
    );
    let grant = |no, actions: &[Action], expires, metered| Grant {
        consent_id: ConsentId::new("c").unwrap(),
        version: 1,
        no: EnterpriseNo(no),
        org: org(0),
        purpose: purpose(0),
        items: vec![ScopeItem {
            dataset: dataset(0),
            columns: vec!["x".to_owned()],
            from: None,
            to: None,
        }],
        actions: actions.iter().copied().collect::<ActionSet>(),
        starts: Timestamp(0),
        expires: Timestamp(expires),
        metered,
    };
    let grants = [
        grant(1, &[Action::Query], 100, false),
        grant(2, &[Action::Query], 19, false),
        grant(3, &[Action::View], 100, false),
        grant(4, &[Action::Query], 100, true),
    ];
    let agreements = [agreement(&[("x", None, None)])];
    let found = scope(&contract, &request(), &agreements, &grants);
    assert_eq!(found.granted().iter().collect::<Vec<_>>(), [1]);
    let text: Vec<String> = found.reasons.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "rows: restricted: agreement `a0` opens it where the enterprise granted it",
            "rows: closed: 1 grants do not hold throughout the time of the request",
            "rows: closed: 1 grants are not for this action",
            "rows: closed: 1 grants count their uses: name the enterprise to draw on them",
            "column `x`: restricted: agreement `a0` opens it where the enterprise granted it",
        ]
    );
    let named = DecisionRequest {
        subjects: Some(vec![EnterpriseNo(4)]),
        ..request()
    };
    let found = scope(&contract, &named, &agreements, &grants);
    assert_eq!(
        found.granted().iter().collect::<Vec<_>>(),
        [4],
        "a named subject's uses are counted elsewhere"
    );
    assert!(!found.row_visible(EnterpriseNo(1), None));
}

#[test]
fn the_commitment_is_golden_and_notices_every_part() {
    let contract = contract(
        "tax",
        Level::L3,
        true,
        vec![
            column("x", ColumnType::String, Level::L2),
            column("y", ColumnType::Int64, Level::L3),
        ],
    );
    let item = |columns: &[&str]| ScopeItem {
        dataset: dataset(0),
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        from: Some(day(0)),
        to: None,
    };
    let grant = |no, items| Grant {
        consent_id: ConsentId::new("c").unwrap(),
        version: 1,
        no: EnterpriseNo(no),
        org: org(0),
        purpose: purpose(0),
        items,
        actions: [Action::Query].into_iter().collect(),
        starts: Timestamp(0),
        expires: Timestamp(100),
        metered: false,
    };
    let agreements = [agreement(&[("x", None, None), ("y", None, None)])];
    let base = scope(
        &contract,
        &request(),
        &agreements,
        &[grant(1, vec![item(&["x"])]), grant(9, vec![item(&["y"])])],
    );
    assert_eq!(
        hex::encode(base.commitment()),
        "9578957b029748b7958fcf7d1c2493884c987540d87f940ee34ef7dbd6e1333e"
    );
    let changes: [fn(&mut DatasetScope); 8] = [
        |scope| scope.all_rows = true,
        |scope| scope.columns[0].form = Form::Masked(Mask::Hide),
        |scope| scope.columns[1].by_grant = false,
        |scope| scope.shapes[1].items[0].to = Some(day(3)),
        |scope| {
            scope.members[1].insert(77);
        },
        |scope| scope.agreements.clear(),
        |scope| scope.subjects = Some([1].into_iter().collect()),
        |scope| Arc::make_mut(&mut scope.contract).hash = [8; 32],
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = base.clone();
        change(&mut changed);
        assert_ne!(changed.commitment(), base.commitment(), "change {index}");
    }
}
