//! What is granted in the cases of the bench.

use std::sync::Arc;

use arrow::datatypes::Date32Type;
use qihui_catalog::{Action, Contract, EnterpriseNo, Timestamp};
use qihui_consent::decision::{
    self, Agreement, AgreementColumn, AgreementId, Basis, DecisionRequest, Form, Grant, ScopeItem,
};
use qihui_query::dense::DenseScope;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use roaring::RoaringBitmap;

use crate::data::FIRST_DAY;

/// How many different things enterprises granted in the case "shapes".
pub const SHAPES: u32 = 100;
/// Columns that every grant of the case "shapes" has, and those that some have.
const ALWAYS: [&str; 3] = ["uscc", "id", "day"];
const SOMETIMES: [&str; 6] = ["item", "office", "note", "amount", "base", "n"];

/// What a case grants, in a form for the gate and in one for a permission table.
pub struct Case {
    pub name: &'static str,
    pub scope: Arc<DenseScope>,
    /// Enterprise, index into `permissions`.
    pub granted: Vec<(u32, usize)>,
    pub permissions: Vec<Permission>,
}

/// Columns beyond the key, and the days (since the epoch, half-open) that a grant is about.
#[derive(Clone)]
pub struct Permission {
    pub columns: Vec<&'static str>,
    pub from: i32,
    pub to: i32,
}

impl Permission {
    fn everything() -> Self {
        Self {
            columns: SOMETIMES.to_vec(),
            from: i32::MIN,
            to: i32::MAX,
        }
    }

    /// One of [`SHAPES`], all different.
    fn shape(k: u32) -> Self {
        let columns = SOMETIMES.iter().enumerate();
        Self {
            // Amounts and items are granted more often than not: what is asked about.
            columns: columns
                .filter(|(bit, _)| *bit == (k % 7) as usize || (k / 7 + 3) >> (bit % 4) & 1 == 1)
                .map(|(_, name)| *name)
                .collect(),
            from: FIRST_DAY + (k % 10) as i32,
            to: FIRST_DAY + 30 * (3 + k as i32 / 10) + 1,
        }
    }
}

/// Open data, or a decision about grants that do not exist.
pub fn open(contract: &Arc<Contract>) -> Arc<DenseScope> {
    dense(contract, &[], &[], Vec::new())
}

/// The cases over a table of so many enterprises.
pub fn cases(contract: &Arc<Contract>, enterprises: u32) -> Vec<Case> {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let county = enterprises / 20;
    let everything = |name, granted: Vec<u32>| {
        let granted = granted.into_iter().map(|no| (no, 0)).collect();
        case(name, contract, granted, vec![Permission::everything()])
    };
    let half = (1..=enterprises).filter(|_| rng.random_bool(0.5)).collect();
    let middle = enterprises / 2;
    let shapes = (1..=enterprises).map(|no| (no, no as usize * 37 % SHAPES as usize));
    vec![
        everything("all", (1..=enterprises).collect()),
        everything("half", half),
        everything("county", (middle..middle + county).collect()),
        case(
            "shapes",
            contract,
            shapes.collect(),
            (0..SHAPES).map(Permission::shape).collect(),
        ),
    ]
}

fn case(
    name: &'static str,
    contract: &Arc<Contract>,
    granted: Vec<(u32, usize)>,
    permissions: Vec<Permission>,
) -> Case {
    // One grant of each kind is decided about; who else granted the same is put beside it.
    let grants: Vec<Grant> = (1..)
        .zip(&permissions)
        .map(|(no, permission)| grant(contract, no, permission))
        .collect();
    let mut members = vec![RoaringBitmap::new(); permissions.len()];
    for (no, permission) in &granted {
        members[*permission].insert(*no);
    }
    Case {
        name,
        scope: dense(contract, &[agreement(contract)], &grants, members),
        granted,
        permissions,
    }
}

fn agreement(contract: &Contract) -> Agreement {
    let column = |name: &&str| AgreementColumn {
        name: (*name).to_owned(),
        form: Some(Form::Clear),
        reason: None,
    };
    Agreement {
        id: AgreementId::from("a"),
        org: "bank".parse().unwrap(),
        dataset: contract.id.clone(),
        purposes: ["loan".parse().unwrap()].into(),
        basis: Basis::Consent,
        aggregate_only: None,
        columns: ALWAYS.iter().chain(&SOMETIMES).map(column).collect(),
        valid_from: Timestamp(0),
        valid_until: Timestamp(i64::MAX),
    }
}

fn grant(contract: &Contract, no: u32, permission: &Permission) -> Grant {
    let day = |day: i32| Date32Type::to_naive_date_opt(day);
    let columns = ALWAYS.iter().chain(&permission.columns);
    Grant {
        consent_id: format!("c-{no}").parse().unwrap(),
        version: 1,
        no: EnterpriseNo(no),
        org: "bank".parse().unwrap(),
        purpose: "loan".parse().unwrap(),
        items: vec![ScopeItem {
            dataset: contract.id.clone(),
            columns: columns.map(|name| (*name).to_owned()).collect(),
            from: (permission.from != i32::MIN).then(|| day(permission.from).unwrap()),
            to: (permission.to != i32::MAX).then(|| day(permission.to).unwrap()),
        }],
        actions: [Action::Query].into_iter().collect(),
        starts: Timestamp(0),
        expires: Timestamp(i64::MAX),
        metered: false,
    }
}

/// The scope of `grants`, the first of which is enterprise 1's and so on, when `members` gave the same.
fn dense(
    contract: &Arc<Contract>,
    agreements: &[Agreement],
    grants: &[Grant],
    members: Vec<RoaringBitmap>,
) -> Arc<DenseScope> {
    let request = DecisionRequest {
        org: "bank".parse().unwrap(),
        purpose: "loan".parse().unwrap(),
        action: Action::Query,
        at: Timestamp(1_000),
        until: Timestamp(2_000),
        subjects: None,
        datasets: vec![contract.id.clone()],
    };
    let mut scope = decision::scope(contract, &request, agreements, grants);
    let mut of_shape = vec![RoaringBitmap::new(); scope.shapes.len()];
    for (no, members) in (1..).zip(members) {
        of_shape[scope.shape_of(EnterpriseNo(no))] |= members;
    }
    scope.members = of_shape;
    Arc::new(DenseScope::new(Arc::new(scope)))
}
