//! Scopes at rest: what a subscriber was authorised to see, kept for as long as a delivery has to compare with it.
//!
//! Promise: what is read back is the scope that was written, or an error; its name is its
//! [commitment](DatasetScope::commitment), computed anew when it is read. Limit: reasons are not kept, and named
//! subjects cannot be (no delivery has them).
//!
//! Format, version 1: the line `qihui scope 1`, a line of JSON (contract, columns, all_rows, agreements, shapes, and the
//! length in bytes of each bitmap), then the members of each shape as portable Roaring bitmaps, one after another.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use qihui_catalog::{Contract, Date};
use qihui_consent::decision::{
    AgreementId, ColumnScope, ColumnSet, DatasetScope, Form, Shape, ShapeItem,
};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use crate::error::QueryError;

const MAGIC: &[u8] = b"qihui scope 1\n";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    contract: serde_json::Value,
    columns: Vec<Column>,
    all_rows: bool,
    agreements: Vec<AgreementId>,
    shapes: Vec<Vec<Item>>,
    members: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    name: String,
    form: Form,
    always: bool,
    public_when: Option<String>,
    by_grant: bool,
    agreements: Vec<AgreementId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    /// Positions among the columns.
    columns: Vec<usize>,
    from: Option<Date>,
    to: Option<Date>,
}

fn damaged() -> QueryError {
    QueryError::Warehouse {
        message: "a kept scope is damaged; begin the subscription again".into(),
    }
}

/// The bytes of a scope. Equal scopes may have different bytes, since bitmaps can be built in several ways.
///
/// # Errors
/// [`QueryError::Internal`] for a scope of named subjects.
pub fn encode(scope: &DatasetScope) -> Result<Vec<u8>, QueryError> {
    let internal = QueryError::Internal {
        what: "the form of a scope",
    };
    if scope.subjects.is_some() {
        return Err(internal);
    }
    let mut bitmaps = Vec::new();
    let mut members = Vec::with_capacity(scope.members.len());
    for numbers in &scope.members {
        let mut numbers = numbers.clone();
        numbers.optimize();
        members.push(numbers.serialized_size());
        numbers
            .serialize_into(&mut bitmaps)
            .map_err(|_| damaged())?;
    }
    let item = |item: &ShapeItem| Item {
        columns: item.columns.iter().collect(),
        from: item.from,
        to: item.to,
    };
    let head = Head {
        contract: serde_json::from_str(&scope.contract.canonical_json()).map_err(|_| damaged())?,
        columns: scope.columns.iter().map(column).collect(),
        all_rows: scope.all_rows,
        agreements: scope.agreements.clone(),
        shapes: scope
            .shapes
            .iter()
            .map(|shape| shape.items.iter().map(item).collect())
            .collect(),
        members,
    };
    let Ok(head) = serde_json_canonicalizer::to_vec(&head) else {
        return Err(internal);
    };
    Ok([MAGIC, &head, b"\n", &bitmaps].concat())
}

fn column(column: &ColumnScope) -> Column {
    Column {
        name: column.name.clone(),
        form: column.form,
        always: column.always,
        public_when: column.public_when.clone(),
        by_grant: column.by_grant,
        agreements: column.agreements.clone(),
    }
}

/// The scope in `bytes`, whose commitment must be `commitment`.
///
/// # Errors
/// [`QueryError::Warehouse`] when the bytes are not that scope.
pub fn decode(bytes: &[u8], commitment: &[u8; 32]) -> Result<DatasetScope, QueryError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let end = rest
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(damaged)?;
    let (head, bitmaps) = rest.split_at(end);
    let head: Head = serde_json::from_slice(head).map_err(|_| damaged())?;
    let contract = Contract::from_yaml(Path::new("kept"), &head.contract.to_string())
        .map_err(|_| damaged())?;
    let mut bitmaps = Cursor::new(bitmaps.get(1..).unwrap_or_default());
    let mut members = Vec::with_capacity(head.members.len());
    for _ in &head.members {
        members.push(RoaringBitmap::deserialize_from(&mut bitmaps).map_err(|_| damaged())?);
    }
    let shapes = head.shapes.into_iter().map(|items| Shape {
        items: items
            .into_iter()
            .map(|item| ShapeItem {
                columns: item.columns.into_iter().collect::<ColumnSet>(),
                from: item.from,
                to: item.to,
            })
            .collect(),
    });
    let columns = head.columns.into_iter().map(|column| ColumnScope {
        name: column.name,
        form: column.form,
        always: column.always,
        public_when: column.public_when,
        by_grant: column.by_grant,
        agreements: column.agreements,
    });
    let scope = DatasetScope {
        contract: Arc::new(contract),
        columns: columns.collect(),
        all_rows: head.all_rows,
        shapes: shapes.collect(),
        members,
        agreements: head.agreements,
        reasons: Vec::new(),
        subjects: None,
        statistics: None,
    };
    if scope.commitment() == *commitment {
        Ok(scope)
    } else {
        Err(damaged())
    }
}
