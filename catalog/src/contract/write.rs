//! From a contract to its document: the form that is hashed and recorded. Defaults are left out.

use serde_json::{Map, Value, json};

use super::{
    Bound, Column, ColumnType, Contract, DisclosureWindow, Partition, QualityRule, Unit,
    odcs::{API_VERSION, ENGINE, PARTITIONS, UNITS, word_of},
};

/// The standard document of a contract.
pub(super) fn contract(contract: &Contract) -> Value {
    let mut document = json!({
        "apiVersion": API_VERSION,
        "kind": "DataContract",
        "status": "active",
        "id": contract.id,
        "name": contract.title_en,
        "version": contract.version,
        "domain": contract.owner,
        "description": { "purpose": contract.description },
        "customProperties": own_properties(contract),
        "schema": [{
            "name": contract.id,
            "logicalType": "object",
            "physicalType": "table",
            "businessName": contract.title_cn,
            "description": contract.description_cn,
            "properties": contract.columns.iter().map(|c| column(contract, c)).collect::<Vec<_>>(),
        }],
    });
    if let Some(days) = contract.freshness_days {
        document["slaProperties"] =
            json!([{ "property": "freshness", "value": days, "unit": "d" }]);
    }
    document
}

fn own_properties(contract: &Contract) -> Vec<Value> {
    let mut own = vec![property("rowLevel", contract.row_level.as_str())];
    if let Some(column) = &contract.event_date {
        own.push(property("eventDate", column.as_str()));
    }
    own.push(property("sequence", contract.sequence.clone()));
    if contract.partition != Partition::None {
        own.push(property(
            "partition",
            word_of(PARTITIONS, &contract.partition),
        ));
    }
    if let Some(limits) = &contract.window {
        own.push(property("disclosureWindow", window(limits)));
    }
    if !contract.feeds.is_empty() {
        own.push(property("feeds", json!(contract.feeds)));
    }
    own
}

fn property(name: &str, value: impl Into<Value>) -> Value {
    json!({ "property": name, "value": value.into() })
}

fn window(limits: &DisclosureWindow) -> Value {
    let mut value = Map::new();
    if let Some(from) = &limits.from {
        value.insert("from".to_owned(), json!(from));
    }
    if !limits.until.is_empty() {
        value.insert("until".to_owned(), json!(limits.until));
    }
    if let Some((column, years)) = &limits.max_years_after {
        value.insert(
            "maxYearsAfter".to_owned(),
            json!({ "column": column, "years": years }),
        );
    }
    Value::Object(value)
}

fn column(contract: &Contract, column: &Column) -> Value {
    let logical = match column.ty {
        ColumnType::String => "string",
        ColumnType::Date | ColumnType::Timestamp => "date",
        ColumnType::Boolean => "boolean",
        ColumnType::Int32 | ColumnType::Int64 => "integer",
        ColumnType::Decimal { .. } => "number",
    };
    let mut value = json!({
        "name": column.name,
        "businessName": column.title_cn,
        "description": column.description,
        "logicalType": logical,
        "physicalType": column.ty.to_string(),
        "classification": column.level.as_str(),
    });
    if !column.nullable {
        value["required"] = json!(true);
    }
    if let Some(at) = contract.key.iter().position(|name| *name == column.name) {
        value["primaryKey"] = json!(true);
        value["primaryKeyPosition"] = json!(at + 1);
    }
    if !column.quality.is_empty() {
        value["quality"] = column
            .quality
            .iter()
            .map(|rule| quality_rule(rule, column.ty))
            .collect();
    }
    let own = own_of_column(column);
    if !own.is_empty() {
        value["customProperties"] = Value::Array(own);
    }
    value
}

fn own_of_column(column: &Column) -> Vec<Value> {
    let mut own = Vec::new();
    if let Some(flag) = &column.public_when {
        own.push(property("publicWhen", flag.as_str()));
    }
    if let Some(list) = &column.code_list {
        let mut value = json!({ "name": list.name });
        if let Some(at) = &list.at {
            value["at"] = json!(at);
        }
        own.push(property("codeList", value));
    }
    if column.unit != Unit::One {
        own.push(property("unit", word_of(UNITS, &column.unit)));
    }
    own
}

fn quality_rule(rule: &QualityRule, ty: ColumnType) -> Value {
    let implementation = match rule {
        QualityRule::NotNull => json!({ "rule": "notNull" }),
        QualityRule::Range { min, max } => {
            let mut value = json!({ "rule": "range" });
            for (key, bound) in [("min", min), ("max", max)] {
                if let Some(bound) = bound {
                    value[key] = json!(literal(*bound, ty.scale().unwrap_or(0)));
                }
            }
            value
        }
        QualityRule::Length { min, max } => json!({ "rule": "length", "min": min, "max": max }),
        QualityRule::Pattern(pattern) => json!({ "rule": "pattern", "pattern": pattern.as_str() }),
        QualityRule::NotAfter { column } => json!({ "rule": "notAfter", "column": column }),
    };
    json!({ "type": "custom", "engine": ENGINE, "implementation": implementation })
}

/// A bound as it is written: a date, or a decimal number with all its places.
pub(crate) fn literal(bound: Bound, scale: u32) -> String {
    match bound {
        Bound::Date(date) => date.format("%Y-%m-%d").to_string(),
        Bound::Number(number) if scale == 0 => number.to_string(),
        Bound::Number(number) => {
            let scale = scale as usize;
            let digits = format!("{:0>width$}", number.unsigned_abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            format!("{}{whole}.{fraction}", if number < 0 { "-" } else { "" })
        }
    }
}
