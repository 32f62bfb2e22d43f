//! From a document to a contract.

use super::{
    Column, Contract, DisclosureWindow, Partition, USCC_COLUMN,
    odcs::{API_VERSION, LEVELS, PARTITIONS},
    read_column::{KeyedColumn, keyed_column},
};
use crate::{
    document::Node,
    ids::{DatasetId, FeedName},
    level::Level,
    problem::codes,
};

/// Reads the whole document. A part that cannot be read has left a problem; the rest is read all the same.
pub(super) fn contract(root: &Node<'_>) -> Option<Contract> {
    let fields = root.fields()?;
    let fixed = [
        ("apiVersion", API_VERSION),
        ("kind", "DataContract"),
        ("status", "active"),
    ];
    for (key, value) in fixed {
        let _ = fields
            .required(key)
            .and_then(|node| node.word(&[(value, ())]));
    }
    let id = fields
        .required("id")
        .and_then(|node| node.parsed::<DatasetId>());
    let title_en = fields.required("name").and_then(|node| node.line());
    let version = fields.required("version").and_then(|node| version(&node));
    let owner = fields.required("domain").and_then(|node| node.line());
    let description = fields.required("description").and_then(|node| {
        let description = node.fields()?;
        description.required("purpose")?.line()
    });
    let freshness_days = fields
        .optional("slaProperties")
        .and_then(|node| freshness(&node));
    let own = fields
        .required("customProperties")
        .and_then(|node| own_properties(&node));
    let table = fields
        .required("schema")
        .and_then(|node| table(&node, id.as_ref()));
    let (table, own) = (table?, own?);
    Some(Contract {
        id: id?,
        version: version?,
        title_en: title_en?,
        title_cn: table.title_cn?,
        description: description?,
        description_cn: table.description_cn?,
        owner: owner?,
        row_level: own.row_level?,
        key: table.key,
        uscc: USCC_COLUMN.to_owned(),
        event_date: own.event_date,
        sequence: own.sequence?,
        partition: own.partition,
        window: own.window,
        freshness_days,
        feeds: own.feeds,
        columns: table.columns?,
        hash: [0; 32],
    })
}

/// `major.minor.patch`.
pub(crate) fn version(node: &Node<'_>) -> Option<String> {
    let text = node.as_text().unwrap_or_default();
    let parts: Vec<&str> = text.split('.').collect();
    let number = |part: &&str| {
        (1..=6).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    if parts.len() == 3 && parts.iter().all(number) {
        return Some(text.to_owned());
    }
    node.problem(
        codes::VALUE,
        "must be a version as 1.0.0, in quotes if need be",
    );
    None
}

fn freshness(node: &Node<'_>) -> Option<u32> {
    let mut days = None;
    for item in node.items()? {
        let Some(fields) = item.fields() else {
            continue;
        };
        let _ = fields
            .required("property")
            .and_then(|property| property.word(&[("freshness", ())]));
        let _ = fields
            .required("unit")
            .and_then(|unit| unit.word(&[("d", ())]));
        let value = fields
            .required("value")
            .and_then(|value| value.count(1, 3660));
        if days.is_some() {
            item.problem(codes::VALUE, "freshness is given twice");
        }
        days = value;
    }
    days
}

/// The contract's own properties.
#[derive(Default)]
struct Own {
    row_level: Option<Level>,
    event_date: Option<String>,
    sequence: Option<Vec<String>>,
    partition: Partition,
    window: Option<DisclosureWindow>,
    feeds: Vec<FeedName>,
}

fn own_properties(node: &Node<'_>) -> Option<Own> {
    let mut own = Own::default();
    let properties = custom_properties(node)?;
    for wanted in ["rowLevel", "sequence"] {
        if properties.iter().all(|(name, _)| *name != wanted) {
            node.problem(
                codes::MISSING_KEY,
                format!("the property `{wanted}` is missing"),
            );
        }
    }
    for (name, value) in properties {
        match name {
            "rowLevel" => own.row_level = value.word(&LEVELS[..3]),
            "eventDate" => own.event_date = value.text().map(str::to_owned),
            "sequence" => own.sequence = names(&value),
            "partition" => own.partition = value.word(PARTITIONS)?,
            "disclosureWindow" => own.window = window(&value),
            "feeds" => own.feeds = value.items()?.iter().filter_map(Node::parsed).collect(),
            _ => unknown_property(
                &value,
                "rowLevel, eventDate, sequence, partition, disclosureWindow, feeds",
            ),
        }
    }
    Some(own)
}

/// The properties of a standard list of `{property, value}`, each at the place of its name.
pub(super) fn custom_properties<'d>(node: &Node<'d>) -> Option<Vec<(&'d str, Node<'d>)>> {
    let mut found: Vec<(&str, Node<'_>)> = Vec::new();
    for item in node.items()? {
        let Some(fields) = item.fields() else {
            continue;
        };
        let (property, value) = (fields.required("property"), fields.required("value"));
        let (Some(name), Some(value)) = (property.and_then(|property| property.text()), value)
        else {
            continue;
        };
        let place = item.clone().named(name).with_value_of(&value);
        if found.iter().any(|(known, _)| *known == name) {
            place.problem(codes::VALUE, "given twice");
        }
        found.push((name, place));
    }
    Some(found)
}

pub(super) fn unknown_property(node: &Node<'_>, known: &str) {
    node.problem(
        codes::UNKNOWN_KEY,
        format!("unknown property: known here are {known}"),
    );
}

fn names(node: &Node<'_>) -> Option<Vec<String>> {
    Some(
        node.items()?
            .iter()
            .filter_map(|item| item.text().map(str::to_owned))
            .collect(),
    )
}

fn window(node: &Node<'_>) -> Option<DisclosureWindow> {
    let fields = node.fields()?;
    let from = fields
        .optional("from")
        .and_then(|from| from.text().map(str::to_owned));
    let until = fields
        .optional("until")
        .and_then(|until| names(&until))
        .unwrap_or_default();
    let max_years_after = fields.optional("maxYearsAfter").and_then(|limit| {
        let limit = limit.fields()?;
        let (column, years) = (limit.required("column"), limit.required("years"));
        Some((column?.text()?.to_owned(), years?.count(1, 100)?))
    });
    Some(DisclosureWindow {
        from,
        until,
        max_years_after,
    })
}

/// The one table of a contract.
struct Table {
    title_cn: Option<String>,
    description_cn: Option<String>,
    key: Vec<String>,
    columns: Option<Vec<Column>>,
}

fn table(node: &Node<'_>, id: Option<&DatasetId>) -> Option<Table> {
    let objects = node.items()?;
    let [object] = objects.as_slice() else {
        node.problem(
            codes::VALUE,
            format!(
                "must hold one object, the table of the dataset, found {}",
                objects.len()
            ),
        );
        return None;
    };
    let fields = object.fields()?;
    if let Some(name) = fields.required("name")
        && let (Some(text), Some(id)) = (name.text(), id)
        && text != id.as_str()
    {
        name.problem(codes::VALUE, "must be the same as the contract's `id`");
    }
    let _ = fields
        .required("logicalType")
        .and_then(|node| node.word(&[("object", ())]));
    let _ = fields
        .required("physicalType")
        .and_then(|node| node.word(&[("table", ())]));
    let title_cn = fields.required("businessName").and_then(|node| node.line());
    let description_cn = fields.required("description").and_then(|node| node.line());
    let properties = fields.required("properties")?;
    let items = properties.items()?;
    let read: Vec<KeyedColumn> = items.iter().filter_map(keyed_column).collect();
    let complete = read.len() == items.len();
    let key = key(&properties, &read);
    let columns = complete.then(|| read.into_iter().map(|(column, _)| column).collect());
    Some(Table {
        title_cn,
        description_cn,
        key,
        columns,
    })
}

/// The key columns by their positions, which must be 1, 2, 3 …
fn key(node: &Node<'_>, columns: &[KeyedColumn]) -> Vec<String> {
    let mut key: Vec<(u32, &str)> = columns
        .iter()
        .filter_map(|(column, at)| Some(((*at)?, column.name.as_str())))
        .collect();
    key.sort_unstable();
    if key
        .iter()
        .zip(1..)
        .any(|((position, _), wanted)| *position != wanted)
    {
        node.problem(
            codes::RULE,
            "the values of `primaryKeyPosition` must be 1, 2, 3 … without gap or repetition",
        );
    }
    key.into_iter().map(|(_, name)| name.to_owned()).collect()
}
