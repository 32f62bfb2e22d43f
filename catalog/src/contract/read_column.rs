//! From a property of the document to a column.

use super::{
    Bound, CodeListRef, Column, ColumnType, Pattern, QualityRule, Unit,
    odcs::{ENGINE, LEVELS, UNITS},
    read::{custom_properties, unknown_property},
};
use crate::{
    document::{Fields, Node},
    problem::codes,
    time::parse_date,
};

/// A column together with its place in the key.
pub(super) type KeyedColumn = (Column, Option<u32>);

/// Reads a property; a mistake anywhere in it has left a problem.
pub(super) fn keyed_column(node: &Node<'_>) -> Option<KeyedColumn> {
    let unnamed = node.fields()?;
    let name = unnamed.required("name").and_then(|name| name.text());
    unnamed.leave();
    let node = node.clone().named(name?);
    let fields = node.fields()?;
    let name = fields.required("name")?.text()?.to_owned();
    let title_cn = fields
        .required("businessName")
        .and_then(|title| title.line());
    let description = fields.required("description").and_then(|text| text.line());
    let ty = column_type(&fields);
    let level = fields
        .required("classification")
        .and_then(|level| level.word(LEVELS));
    let required = fields
        .optional("required")
        .is_some_and(|required| required.boolean() == Some(true));
    let position = key_position(&fields);
    let own = fields
        .optional("customProperties")
        .map_or_else(|| Some(OwnOfColumn::default()), |own| own_of_column(&own));
    let quality = fields.optional("quality").map_or_else(
        || Some(Vec::new()),
        |rules| {
            let items = rules.items()?;
            let read: Vec<QualityRule> = items
                .iter()
                .filter_map(|item| quality_rule(item, ty))
                .collect();
            (read.len() == items.len()).then_some(read)
        },
    );
    drop(fields);
    let own = own?;
    let column = Column {
        name,
        title_cn: title_cn?,
        description: description?,
        ty: ty?,
        nullable: !required,
        level: level?,
        public_when: own.public_when,
        code_list: own.code_list,
        quality: quality?,
        unit: own.unit,
    };
    Some((column, position))
}

fn key_position(fields: &Fields<'_>) -> Option<u32> {
    let position = fields.optional("primaryKeyPosition");
    match fields
        .optional("primaryKey")
        .and_then(|flag| flag.boolean())
    {
        Some(true) => fields.required("primaryKeyPosition")?.count(1, 32),
        _ => {
            if let Some(position) = position {
                position.problem(codes::VALUE, "stands only beside `primaryKey: true`");
            }
            None
        }
    }
}

/// The exact type from `physicalType`, which `logicalType` must agree with.
fn column_type(fields: &Fields<'_>) -> Option<ColumnType> {
    let logical = fields.required("logicalType");
    let physical = fields.required("physicalType")?;
    let text = physical.text()?;
    let (ty, wanted) = match text {
        "string" => (ColumnType::String, "string"),
        "date" => (ColumnType::Date, "date"),
        "boolean" => (ColumnType::Boolean, "boolean"),
        "int32" => (ColumnType::Int32, "integer"),
        "int64" => (ColumnType::Int64, "integer"),
        "timestamp" => (ColumnType::Timestamp, "date"),
        "float" | "double" | "real" | "float32" | "float64" => {
            physical.problem(
                codes::RULE,
                "contracts hold no floats: write decimal(precision,scale)",
            );
            return None;
        }
        _ => match decimal(text) {
            Some(ty) => (ty, "number"),
            None => {
                physical.problem(
                    codes::VALUE,
                    "unknown type: use string, date, boolean, int32, int64, decimal(precision,scale) or timestamp",
                );
                return None;
            }
        },
    };
    if let Some(logical) = logical
        && let Some(text) = logical.text()
        && text != wanted
    {
        logical.problem(
            codes::VALUE,
            format!("must be `{wanted}` to agree with `physicalType: {ty}`"),
        );
    }
    Some(ty)
}

fn decimal(text: &str) -> Option<ColumnType> {
    let (precision, scale) = text
        .strip_prefix("decimal(")?
        .strip_suffix(')')?
        .split_once(',')?;
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    Some(ColumnType::Decimal { precision, scale })
}

#[derive(Default)]
struct OwnOfColumn {
    public_when: Option<String>,
    code_list: Option<CodeListRef>,
    unit: Unit,
}

fn own_of_column(node: &Node<'_>) -> Option<OwnOfColumn> {
    let mut own = OwnOfColumn::default();
    for (name, value) in custom_properties(node)? {
        match name {
            "publicWhen" => own.public_when = Some(value.text()?.to_owned()),
            "codeList" => own.code_list = Some(code_list(&value)?),
            "unit" => own.unit = value.word(UNITS)?,
            _ => unknown_property(&value, "publicWhen, codeList, unit"),
        }
    }
    Some(own)
}

fn code_list(node: &Node<'_>) -> Option<CodeListRef> {
    let fields = node.fields()?;
    let name = fields.required("name").and_then(|name| name.text());
    let at = fields
        .optional("at")
        .and_then(|at| at.text().map(str::to_owned));
    Some(CodeListRef {
        name: name?.to_owned(),
        at,
    })
}

fn quality_rule(node: &Node<'_>, ty: Option<ColumnType>) -> Option<QualityRule> {
    let fields = node.fields()?;
    let kind = fields
        .required("type")
        .and_then(|kind| kind.word(&[("custom", ())]));
    let engine = fields
        .required("engine")
        .and_then(|engine| engine.word(&[(ENGINE, ())]));
    let rule = fields
        .required("implementation")
        .and_then(|rule| implementation(&rule, ty));
    kind.and(engine).and(rule)
}

fn implementation(node: &Node<'_>, ty: Option<ColumnType>) -> Option<QualityRule> {
    let fields = node.fields()?;
    let rule = fields.required("rule")?;
    match rule.text()? {
        "notNull" => Some(QualityRule::NotNull),
        "range" => {
            let read = |bound: Option<Node<'_>>| match bound {
                Some(bound) => parse_bound(&bound, ty?).map(Some),
                None => Some(None),
            };
            let (min, max) = (read(fields.optional("min")), read(fields.optional("max")));
            Some(QualityRule::Range {
                min: min?,
                max: max?,
            })
        }
        "length" => {
            let min = fields
                .optional("min")
                .map_or(Some(0), |min| min.count(0, 100_000));
            let max = fields.required("max").and_then(|max| max.count(1, 100_000));
            Some(QualityRule::Length {
                min: min?,
                max: max?,
            })
        }
        "pattern" => {
            let pattern = fields.required("pattern")?;
            let read = Pattern::new(pattern.text()?);
            if read.is_none() {
                pattern.problem(
                    codes::VALUE,
                    format!("must have at most {} characters", Pattern::MAX),
                );
            }
            read.map(QualityRule::Pattern)
        }
        "notAfter" => Some(QualityRule::NotAfter {
            column: fields.required("column")?.text()?.to_owned(),
        }),
        _ => {
            fields.leave();
            rule.problem(
                codes::VALUE,
                "unknown rule: use notNull, range, length, pattern or notAfter",
            );
            None
        }
    }
}

fn parse_bound(node: &Node<'_>, ty: ColumnType) -> Option<Bound> {
    let literal = node.literal()?;
    let bound = match (ty, ty.scale()) {
        (ColumnType::Date, _) => parse_date(&literal).map(Bound::Date),
        (_, Some(scale)) => parse_decimal(&literal, scale).map(Bound::Number),
        _ => {
            node.problem(codes::RULE, "a range is for numbers and dates");
            return None;
        }
    };
    if bound.is_none() {
        node.problem(codes::VALUE, format!("is not a value of {ty}"));
    }
    bound
}

/// Reads a decimal number without exponent as a count of its smallest place; more digits than `scale`: none.
pub(crate) fn parse_decimal(text: &str, scale: u32) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let fits = !whole.is_empty()
        && all_digits(whole)
        && all_digits(fraction)
        && fraction.len() <= scale as usize;
    if !fits || digits.ends_with('.') {
        return None;
    }
    let padding = scale - u32::try_from(fraction.len()).ok()?;
    let value = format!("{whole}{fraction}")
        .parse::<i128>()
        .ok()?
        .checked_mul(10_i128.checked_pow(padding)?)?;
    Some(if negative { -value } else { value })
}
