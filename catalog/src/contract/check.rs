//! The rules a contract keeps, beyond its form. Every broken rule is reported.

use std::collections::BTreeSet;

use super::{
    Bound, Column, ColumnType, Contract, MAX_COLUMNS, Partition, QualityRule, USCC_COLUMN, Unit,
};
use crate::{
    codes::CodeList,
    ids::is_plain_name,
    level::Level,
    problem::codes::{REFERENCE, RULE, VALUE},
};

/// Takes the place in the document, the code and the reason of each broken rule.
pub(super) type Report<'r> = &'r dyn Fn(&str, &'static str, String);

const PROPERTIES: &str = "schema[0].properties";

fn place(column: &str, key: &str) -> String {
    let separator = if key.is_empty() { "" } else { "." };
    format!("{PROPERTIES}[{column}]{separator}{key}")
}

/// Checks every rule.
pub(super) fn check(contract: &Contract, report: Report<'_>) {
    if !is_plain_name(&contract.owner) {
        report(
            "domain",
            VALUE,
            "must name the owner department in a-z, 0-9, _".to_owned(),
        );
    }
    if contract.row_level == Level::L4 {
        report(
            "customProperties[rowLevel]",
            RULE,
            "L4 is never opened: a row level is L1, L2 or L3".to_owned(),
        );
    }
    check_columns(contract, report);
    check_uscc(contract, report);
    check_key(contract, report);
    check_sequence(contract, report);
    check_event_date(contract, report);
    check_window(contract, report);
    let mut feeds = BTreeSet::new();
    for feed in contract.feeds.iter().filter(|feed| !feeds.insert(*feed)) {
        report(
            "customProperties[feeds]",
            RULE,
            format!("`{feed}` is listed twice"),
        );
    }
}

fn check_columns(contract: &Contract, report: Report<'_>) {
    if contract.columns.len() > MAX_COLUMNS {
        let count = contract.columns.len();
        report(
            PROPERTIES,
            RULE,
            format!("{count} columns: a contract has at most {MAX_COLUMNS}"),
        );
    }
    if contract.landed().all(|column| column.name == USCC_COLUMN) {
        report(
            PROPERTIES,
            RULE,
            "no column besides the enterprise would exist in the table".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    for column in &contract.columns {
        if column.name.starts_with('_') {
            report(
                &place(&column.name, "name"),
                RULE,
                "names that begin with `_` are the hub's own".to_owned(),
            );
        } else if !is_plain_name(&column.name) {
            let form = "a column name is a lower-case letter, then at most 62 of a-z, 0-9, _";
            report(&place(&column.name, "name"), VALUE, form.to_owned());
        }
        if !seen.insert(&column.name) {
            report(
                &place(&column.name, "name"),
                RULE,
                "there are two columns of this name".to_owned(),
            );
        }
        check_type(column, report);
        check_public_when(contract, column, report);
        check_code_list(contract, column, report);
        for (at, rule) in column.quality.iter().enumerate() {
            check_quality(
                contract,
                column,
                rule,
                &place(&column.name, &format!("quality[{at}].implementation")),
                report,
            );
        }
    }
}

fn check_type(column: &Column, report: Report<'_>) {
    if let ColumnType::Decimal { precision, scale } = column.ty
        && !((1..=38).contains(&precision) && scale >= 0 && scale.unsigned_abs() <= precision)
    {
        let rule = "a decimal has 1 to 38 digits, of which 0 to all stand after the point";
        report(&place(&column.name, "physicalType"), VALUE, rule.to_owned());
    }
    if column.unit != Unit::One && !column.ty.is_number() {
        report(
            &place(&column.name, "customProperties[unit]"),
            RULE,
            "only a number has a unit".to_owned(),
        );
    }
    if column.level == Level::L4
        && !(column.nullable && column.quality.is_empty() && column.code_list.is_none())
    {
        let rule = "a column of level L4 is dropped unread: it can be neither required nor checked";
        report(&place(&column.name, ""), RULE, rule.to_owned());
    }
}

/// The column that a rule refers to, unless it is missing or never lands.
fn landed<'c>(
    contract: &'c Contract,
    name: &str,
    place: &str,
    report: Report<'_>,
) -> Option<&'c Column> {
    let Some(column) = contract.column(name) else {
        report(
            place,
            REFERENCE,
            format!(
                "there is no column `{}`",
                name.chars().take(80).collect::<String>()
            ),
        );
        return None;
    };
    if column.level == Level::L4 {
        report(
            place,
            RULE,
            format!("`{name}` is of level L4 and never lands in the table: name another column"),
        );
        return None;
    }
    Some(column)
}

fn of_type(column: &Column, wanted: &[ColumnType], what: &str, place: &str, report: Report<'_>) {
    if !wanted.contains(&column.ty) {
        report(
            place,
            RULE,
            format!("`{}` is of type {}: {what}", column.name, column.ty),
        );
    }
}

/// Who may know of a row may know this column: it must not be more sensitive.
fn not_above_row(contract: &Contract, column: &Column, what: &str, report: Report<'_>) {
    if column.level > contract.row_level {
        let (level, row) = (column.level, contract.row_level);
        let rule = format!("{what} is never above the row level: it is {level} and the row {row}");
        report(&place(&column.name, "classification"), RULE, rule);
    }
}

fn check_uscc(contract: &Contract, report: Report<'_>) {
    let Some(column) = contract.column(USCC_COLUMN) else {
        let rule =
            format!("there is no column `{USCC_COLUMN}`: every dataset is about enterprises");
        report(PROPERTIES, RULE, rule);
        return;
    };
    if contract.uscc != USCC_COLUMN {
        report(
            PROPERTIES,
            RULE,
            format!("the enterprise column is `{USCC_COLUMN}`"),
        );
    }
    let at = place(USCC_COLUMN, "physicalType");
    of_type(
        column,
        &[ColumnType::String],
        "the enterprise column is a string",
        &at,
        report,
    );
    if column.nullable {
        report(
            &place(USCC_COLUMN, "required"),
            RULE,
            "every row names its enterprise: say `required: true`".to_owned(),
        );
    }
    not_above_row(contract, column, "the enterprise column", report);
}

fn check_key(contract: &Contract, report: Report<'_>) {
    if contract.key.is_empty() {
        report(
            PROPERTIES,
            RULE,
            "no column has `primaryKey: true`: say what identifies a row".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    for name in &contract.key {
        let at = place(name, "primaryKey");
        let Some(column) = landed(contract, name, &at, report) else {
            continue;
        };
        if !seen.insert(name) {
            report(&at, RULE, "the key names a column twice".to_owned());
        }
        if matches!(column.ty, ColumnType::Boolean | ColumnType::Decimal { .. }) {
            report(
                &at,
                RULE,
                format!("a value of type {} cannot be part of a key", column.ty),
            );
        }
        if column.nullable {
            report(
                &at,
                RULE,
                "a key column is never null: say `required: true`".to_owned(),
            );
        }
        not_above_row(contract, column, "a key column", report);
    }
}

fn check_sequence(contract: &Contract, report: Report<'_>) {
    const PLACE: &str = "customProperties[sequence]";
    const ORDERED: &[ColumnType] = &[
        ColumnType::Timestamp,
        ColumnType::Date,
        ColumnType::Int32,
        ColumnType::Int64,
    ];
    if contract.sequence.is_empty() {
        report(
            PLACE,
            RULE,
            "must name at least one column that orders the versions of a row".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    for name in &contract.sequence {
        let Some(column) = landed(contract, name, PLACE, report) else {
            continue;
        };
        of_type(
            column,
            ORDERED,
            "versions are ordered by timestamps, dates or integers",
            PLACE,
            report,
        );
        if !seen.insert(name) {
            report(PLACE, RULE, format!("`{name}` is listed twice"));
        }
        if contract.key.contains(name) {
            report(
                PLACE,
                RULE,
                format!("`{name}` is part of the key, so it is the same in every version"),
            );
        }
    }
}

fn check_event_date(contract: &Contract, report: Report<'_>) {
    const PLACE: &str = "customProperties[eventDate]";
    let Some(name) = &contract.event_date else {
        if contract.partition != Partition::None {
            let rule = "the table is cut by event date, and there is none: name one in `eventDate`";
            report("customProperties[partition]", RULE, rule.to_owned());
        }
        return;
    };
    if let Some(column) = landed(contract, name, PLACE, report) {
        of_type(
            column,
            &[ColumnType::Date],
            "the event date is a date",
            PLACE,
            report,
        );
        not_above_row(contract, column, "the event date", report);
    }
}

fn check_window(contract: &Contract, report: Report<'_>) {
    const PLACE: &str = "customProperties[disclosureWindow]";
    let Some(window) = &contract.window else {
        return;
    };
    let limit = window.max_years_after.as_ref();
    if window.from.is_none() && window.until.is_empty() && limit.is_none() {
        report(
            PLACE,
            RULE,
            "limits nothing: give `from`, `until` or `maxYearsAfter`".to_owned(),
        );
    }
    let from = window.from.iter().map(|name| (name, "from"));
    let until = window.until.iter().map(|name| (name, "until"));
    for (name, key) in from
        .chain(until)
        .chain(limit.map(|(name, _)| (name, "maxYearsAfter")))
    {
        let at = format!("{PLACE}.{key}");
        if let Some(column) = landed(contract, name, &at, report) {
            of_type(
                column,
                &[ColumnType::Date],
                "a disclosure window is made of dates",
                &at,
                report,
            );
        }
    }
}

fn check_public_when(contract: &Contract, column: &Column, report: Report<'_>) {
    let Some(flag) = &column.public_when else {
        return;
    };
    let at = place(&column.name, "customProperties[publicWhen]");
    if matches!(column.level, Level::L1 | Level::L4) {
        let why = if column.level == Level::L1 {
            "is public anyway"
        } else {
            "is never opened"
        };
        report(
            &at,
            RULE,
            format!("a column of level {} {why}", column.level),
        );
    }
    let Some(flag) = landed(contract, flag, &at, report) else {
        return;
    };
    of_type(
        flag,
        &[ColumnType::Boolean],
        "the flag that opens a column is a boolean",
        &at,
        report,
    );
    if flag.level > contract.row_level {
        let rule = format!(
            "an open cell tells its flag: `{}` must not be above the row level",
            flag.name
        );
        report(&at, RULE, rule);
    }
}

fn check_code_list(contract: &Contract, column: &Column, report: Report<'_>) {
    let Some(list) = &column.code_list else {
        return;
    };
    let at = place(&column.name, "customProperties[codeList]");
    of_type(
        column,
        &[ColumnType::String],
        "codes are strings",
        &at,
        report,
    );
    if CodeList::get(&list.name).is_none() {
        let known = CodeList::all()
            .map(|list| list.name())
            .collect::<Vec<_>>()
            .join(", ");
        report(
            &format!("{at}.name"),
            REFERENCE,
            format!("there is no such code list: known are {known}"),
        );
    }
    if let Some(date) = &list.at {
        let at = format!("{at}.at");
        if let Some(date) = landed(contract, date, &at, report) {
            of_type(
                date,
                &[ColumnType::Date],
                "the edition of a code list is chosen by a date",
                &at,
                report,
            );
        }
    }
}

fn check_quality(
    contract: &Contract,
    column: &Column,
    rule: &QualityRule,
    at: &str,
    report: Report<'_>,
) {
    match rule {
        QualityRule::NotNull => {}
        QualityRule::Range {
            min: None,
            max: None,
        } => {
            report(at, RULE, "limits nothing: give `min` or `max`".to_owned());
        }
        QualityRule::Range { min, max } => {
            let fits = |bound: &Bound| match bound {
                Bound::Number(_) => column.ty.is_number(),
                Bound::Date(_) => column.ty == ColumnType::Date,
            };
            if !min.iter().chain(max).all(fits) {
                report(
                    at,
                    RULE,
                    format!("the bounds are not values of {}", column.ty),
                );
            }
            if let (Some(min), Some(max)) = (min, max)
                && min > max
            {
                report(
                    at,
                    RULE,
                    "`min` is above `max`: no value would pass".to_owned(),
                );
            }
        }
        QualityRule::Length { min, max } => {
            of_type(
                column,
                &[ColumnType::String],
                "a length is for strings",
                at,
                report,
            );
            if min > max {
                report(
                    at,
                    RULE,
                    "`min` is above `max`: no value would pass".to_owned(),
                );
            }
        }
        QualityRule::Pattern(_) => of_type(
            column,
            &[ColumnType::String],
            "a pattern is for strings",
            at,
            report,
        ),
        QualityRule::NotAfter { column: later } => {
            of_type(
                column,
                &[ColumnType::Date],
                "the order of dates is for dates",
                at,
                report,
            );
            let at = format!("{at}.column");
            if let Some(later) = landed(contract, later, &at, report) {
                of_type(
                    later,
                    &[ColumnType::Date],
                    "the order of dates is for dates",
                    &at,
                    report,
                );
            }
        }
    }
}
