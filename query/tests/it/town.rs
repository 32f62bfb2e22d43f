//! A small world written by hand: what `slt/world.slt` says in its comment, read from there.

use std::sync::Arc;

use qihui_catalog::{
    Action, Column, ColumnType, Contract, DatasetId, DisclosureWindow, EnterpriseNo, Level,
    Partition, Timestamp, Unit,
};
use qihui_consent::decision::{
    ActionSet, Agreement, AgreementColumn, AgreementId, Basis, Bucket, DecisionRequest, Form,
    Grant, Mask, ScopeItem, Value,
};

use crate::world::{Row, Table, World, at, uscc};

const TEXT: &str = include_str!("../slt/world.slt");

/// The comment's lines, without their marks, up to the first statement.
fn lines() -> impl Iterator<Item = &'static str> {
    TEXT.lines()
        .map_while(|line| line.strip_prefix('#'))
        .map(str::trim)
}

fn cells(line: &str) -> Vec<&str> {
    line.split('|').map(str::trim).collect()
}

/// The number of an enterprise, by its letter.
fn number(letter: &str) -> u32 {
    u32::from(letter.as_bytes()[0] - b'A') + 1
}

/// What a dataset's part of the comment says.
struct Part {
    name: &'static str,
    terms: Vec<&'static str>,
    columns: Vec<Vec<&'static str>>,
    stored: Vec<Vec<&'static str>>,
}

fn parts() -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut in_rows = false;
    for line in lines() {
        if let Some(head) = line.strip_prefix("== dataset ") {
            let mut terms = head.split(", ");
            let name = terms.next().unwrap();
            let terms = terms.collect();
            let (columns, stored) = (Vec::new(), Vec::new());
            parts.push(Part {
                name,
                terms,
                columns,
                stored,
            });
            in_rows = false;
        } else if line.starts_with("stored: ") {
            in_rows = true;
        } else if let (Some(part), true) = (parts.last_mut(), line.contains('|')) {
            match in_rows {
                true => part.stored.push(cells(line)),
                false => part.columns.push(cells(line)),
            }
        }
    }
    // The names of the columns of the list of columns.
    parts
        .iter_mut()
        .for_each(|part| drop(part.columns.remove(0)));
    parts
}

impl Part {
    fn term(&self, name: &str) -> Option<&'static str> {
        let term = self.terms.iter().find_map(|term| term.strip_prefix(name));
        term.map(str::trim)
    }

    fn contract(&self) -> Contract {
        Contract {
            id: self.name.parse().unwrap(),
            version: "1.0.0".into(),
            title_en: self.name.into(),
            title_cn: self.name.into(),
            description: self.name.into(),
            description_cn: self.name.into(),
            owner: "test".into(),
            row_level: level(self.term("rows").unwrap()),
            key: vec![self.columns[0][0].into()],
            uscc: "uscc".into(),
            event_date: self.term("event date").map(str::to_owned),
            sequence: vec!["uscc".into()],
            partition: Partition::None,
            window: self.term("shown until").map(|until| DisclosureWindow {
                from: None,
                until: vec![until.into()],
                max_years_after: None,
            }),
            freshness_days: None,
            feeds: Vec::new(),
            columns: self.columns.iter().map(|cells| column(cells)).collect(),
            hash: [0; 32],
        }
    }

    fn agreement(&self) -> Agreement {
        let basis = match self.term("agreement by").unwrap() {
            "consent" => Basis::Consent,
            "statute" => Basis::Statute {
                law: "law".into(),
                data_life_days: None,
            },
            other => panic!("{other}"),
        };
        let agreed = self.columns.iter().filter(|cells| cells[3] != "not agreed");
        let columns = agreed.map(|cells| AgreementColumn {
            name: cells[0].into(),
            form: form(cells[3]),
            reason: Some("it decides".into()),
        });
        Agreement {
            aggregate_only: None,
            id: AgreementId::from(self.name),
            org: "bank".parse().unwrap(),
            dataset: self.name.parse().unwrap(),
            purposes: ["loan".parse().unwrap()].into(),
            basis,
            columns: columns.collect(),
            valid_from: Timestamp(0),
            valid_until: Timestamp(i64::MAX),
        }
    }

    fn table(&self) -> Table {
        let contract = Arc::new(self.contract());
        let row = |cells: &Vec<&str>| Row {
            no: number(cells[0]),
            cells: contract
                .landed()
                .zip(cells)
                .map(|(column, text)| value(column, text))
                .collect(),
        };
        let rows = self.stored.iter().map(row).collect();
        Table { contract, rows }
    }
}

fn level(text: &str) -> Level {
    match text {
        "L1" => Level::L1,
        "L2" => Level::L2,
        "L3" => Level::L3,
        other => panic!("no level: {other}"),
    }
}

fn column(cells: &[&str]) -> Column {
    let ty = match cells[1] {
        "string" => ColumnType::String,
        "date" => ColumnType::Date,
        "boolean" => ColumnType::Boolean,
        "int32" => ColumnType::Int32,
        "int64" => ColumnType::Int64,
        "timestamp" => ColumnType::Timestamp,
        "decimal(12,2)" => ColumnType::Decimal {
            precision: 12,
            scale: 2,
        },
        "decimal(5,3)" => ColumnType::Decimal {
            precision: 5,
            scale: 3,
        },
        other => panic!("no type: {other}"),
    };
    let (plain, flag) = match cells[2].split_once(", if ") {
        Some((plain, flag)) => (plain, Some(flag.to_owned())),
        None => (cells[2], None),
    };
    Column {
        name: cells[0].into(),
        title_cn: cells[0].into(),
        description: cells[0].into(),
        ty,
        nullable: true,
        level: level(plain),
        public_when: flag,
        code_list: None,
        quality: Vec::new(),
        unit: Unit::One,
    }
}

fn form(text: &str) -> Option<Form> {
    match text {
        "clear" => Some(Form::Clear),
        "by default" => None,
        "hidden" => Some(Form::Masked(Mask::Hide)),
        "ends 1 1" => Some(Form::Masked(Mask::KeepEnds { head: 1, tail: 1 })),
        "by month" => Some(Form::Bucketed(Bucket::Month)),
        "by quarter" => Some(Form::Bucketed(Bucket::Quarter)),
        other => {
            let width = other.strip_prefix("in buckets of ").unwrap();
            Some(Form::Bucketed(Bucket::Width(width.parse().unwrap())))
        }
    }
}

fn value(column: &Column, text: &str) -> Option<Value> {
    if text == "NULL" {
        return None;
    }
    Some(match column.ty {
        ColumnType::String if column.name == "uscc" => Value::String(uscc(number(text))),
        ColumnType::String => Value::String(text.to_owned()),
        ColumnType::Date => Value::Date(text.parse().unwrap()),
        ColumnType::Boolean => Value::Boolean(text.parse().unwrap()),
        ColumnType::Int32 | ColumnType::Int64 => Value::Number(text.parse().unwrap()),
        // Every decimal is written with as many places as its type has.
        ColumnType::Decimal { scale, .. } => {
            let places = text.split_once('.').map_or(0, |(_, places)| places.len());
            assert_eq!(places, usize::try_from(scale).unwrap(), "{text}");
            Value::Number(text.replace('.', "").parse().unwrap())
        }
        ColumnType::Timestamp => {
            let instant: chrono::DateTime<chrono::Utc> = text.parse().unwrap();
            Value::Timestamp(instant.timestamp_micros())
        }
    })
}

/// `consent A: filing, all columns but tax, from 2024-07-01; anything else`.
fn grant(place: usize, line: &str, tables: &[Table]) -> Grant {
    let (who, terms) = line.split_once(": ").unwrap();
    let mut terms = terms.split(", ");
    let name = terms.next().unwrap();
    let table = tables
        .iter()
        .find(|table| table.contract.id.as_str() == name);
    let contract = &table.unwrap().contract;
    let mut item = ScopeItem {
        dataset: contract.id.clone(),
        columns: Vec::new(),
        from: None,
        to: None,
    };
    let mut actions: ActionSet = [Action::Query, Action::View].into_iter().collect();
    let mut purpose = "loan";
    let all = || contract.landed().map(|column| column.name.clone());
    for term in terms {
        let words: Vec<&str> = term.split(' ').collect();
        match words[..] {
            ["all", "columns"] => item.columns = all().collect(),
            ["all", "columns", "but", ref but @ ..] => {
                item.columns = all().filter(|name| !but.contains(&&**name)).collect();
            }
            ["columns", ref columns @ ..] => {
                item.columns = columns.iter().map(|name| (*name).to_owned()).collect();
            }
            ["from", day] => item.from = Some(day.parse().unwrap()),
            ["to", day] => item.to = Some(day.parse().unwrap()),
            ["to", "look", ..] => actions = ActionSet::default().with(Action::View),
            ["for", "another", "purpose"] => purpose = "audit",
            _ => panic!("no term of a consent: {term}"),
        }
    }
    Grant {
        consent_id: format!("c-{place}").parse().unwrap(),
        version: 1,
        no: EnterpriseNo(number(who)),
        org: "bank".parse().unwrap(),
        purpose: purpose.parse().unwrap(),
        items: vec![item],
        actions,
        starts: Timestamp(0),
        expires: Timestamp(i64::MAX),
        metered: false,
    }
}

/// The world.
pub fn town() -> World {
    let parts = parts();
    let tables: Vec<Table> = parts.iter().map(Part::table).collect();
    let consents = lines().filter_map(|line| line.strip_prefix("consent "));
    let grants = consents
        .enumerate()
        .map(|(place, line)| grant(place, line, &tables))
        .collect();
    let datasets: Vec<DatasetId> = tables
        .iter()
        .map(|table| table.contract.id.clone())
        .collect();
    World {
        agreements: parts.iter().map(Part::agreement).collect(),
        tables,
        grants,
        request: DecisionRequest {
            org: "bank".parse().unwrap(),
            purpose: "loan".parse().unwrap(),
            action: Action::Query,
            at: at(),
            until: Timestamp(at().0 + 60_000),
            subjects: None,
            datasets,
        },
    }
}
