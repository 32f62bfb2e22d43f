//! Data files: how rows become Parquet, and back.
//!
//! Every file is sorted by (`_no`, event date, key hash), nulls first. Pages hold at most [`PAGE_ROWS`] rows and, but
//! for wide texts, start at the same rows in every column; every column has a page index, so that a reader selects
//! pages by `_no` and prunes them by whatever else it asks for. Files stay under 128 MB and two million rows
//! ([`crate::layout::Limits`]).

use std::{fmt::Write as _, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, RecordBatch, new_null_array},
    datatypes::{DataType, Int32Type, Schema, SchemaRef},
    temporal_conversions::date32_to_datetime,
};
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::{ParquetMetaData, SortingColumn},
        properties::{EnabledStatistics, WriterProperties},
        statistics::Statistics,
    },
    schema::types::ColumnPath,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Map, Value, json};

use crate::{
    canonical::Fingerprints,
    error::WarehouseError,
    layout::{Layout, NO_COLUMN, Place},
    log::LoggedFile,
    sidecar::SidecarBuilder,
};

/// The greatest number of rows of a row group.
const GROUP_ROWS: usize = 512 << 10;
/// The greatest number of rows of a page.
pub(crate) const PAGE_ROWS: usize = 8192;
fn properties(layout: &Layout) -> WriterProperties {
    let no = ColumnPath::from(NO_COLUMN);
    let ascending = |i: usize| SortingColumn {
        column_idx: i32::try_from(i).unwrap_or(0),
        descending: false,
        nulls_first: true,
    };
    let mut properties = WriterProperties::builder();
    if let [key] = layout.key[..] {
        // Its values are all different: a dictionary would be built and thrown away.
        let key = ColumnPath::from(layout.schema.field(key).name().as_str());
        properties = properties.set_column_dictionary_enabled(key, false);
    }
    properties
        .set_created_by(concat!("qihui ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        // Numbers are sorted: their differences pack into a few bits.
        .set_column_dictionary_enabled(no.clone(), false)
        .set_column_encoding(no, Encoding::DELTA_BINARY_PACKED)
        .set_sorting_columns(Some(
            std::iter::once(0)
                .chain(layout.event_date)
                .map(ascending)
                .collect(),
        ))
        .build()
}

/// The name of a new file: `<prefix>-<128 random bits>.parquet`.
pub(crate) fn new_name(prefix: &str) -> Result<String, WarehouseError> {
    let mut random = [0; 16];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| WarehouseError::Interrupted)?;
    let mut name = format!("{prefix}-");
    for byte in random {
        let _ = write!(name, "{byte:02x}");
    }
    name.push_str(".parquet");
    Ok(name)
}

/// A random identifier in the form of a version 4 UUID.
pub(crate) fn random_uuid() -> Result<String, WarehouseError> {
    let mut random = [0; 16];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| WarehouseError::Interrupted)?;
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let groups = [
        &random[..4],
        &random[4..6],
        &random[6..8],
        &random[8..10],
        &random[10..],
    ];
    Ok(groups.map(hex).join("-"))
}

/// An encoded data file with its sidecar, not yet stored.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub file: LoggedFile,
    /// Statistics as the log keeps them.
    pub statistics: Value,
    pub data: Bytes,
    pub sidecar: Bytes,
}

/// Takes sorted rows of one partition and cuts them into files.
pub(crate) struct DataSink<'a> {
    layout: &'a Layout,
    place: Place,
    open: Option<(ArrowWriter<Vec<u8>>, SidecarBuilder)>,
    emit: &'a mut dyn FnMut(Encoded) -> Result<(), WarehouseError>,
}

impl<'a> DataSink<'a> {
    pub fn new(
        layout: &'a Layout,
        place: Place,
        emit: &'a mut dyn FnMut(Encoded) -> Result<(), WarehouseError>,
    ) -> Self {
        Self {
            layout,
            place,
            open: None,
            emit,
        }
    }

    /// Appends rows that follow all rows before; at most `batch_rows` of the limits.
    pub fn push(
        &mut self,
        batch: &RecordBatch,
        fingerprints: &Fingerprints,
    ) -> Result<(), WarehouseError> {
        let limits = self.layout.limits;
        debug_assert!(
            batch.num_rows() <= limits.batch_rows && batch.num_rows() == fingerprints.keys.len()
        );
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let failed = |source| WarehouseError::parquet(self.layout.dataset.as_str(), source);
        if self.open.is_none() {
            let schema = Arc::clone(&self.layout.schema);
            let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties(self.layout)))
                .map_err(failed)?;
            self.open = Some((writer, SidecarBuilder::default()));
        }
        let Some((writer, sidecar)) = &mut self.open else {
            return Err(WarehouseError::Interrupted);
        };
        // Cut at multiples of a page, so that no page grows beyond its limit.
        let (mut at, before) = (0, sidecar.rows());
        while at < batch.num_rows() {
            let rows = (PAGE_ROWS - (before + at) % PAGE_ROWS).min(batch.num_rows() - at);
            writer.write(&batch.slice(at, rows)).map_err(failed)?;
            at += rows;
        }
        sidecar.push(fingerprints, &numbers(batch));
        let bytes = writer.bytes_written() + writer.in_progress_size();
        if bytes >= limits.full_bytes || sidecar.rows() + limits.batch_rows > limits.file_rows {
            self.finish()?;
        }
        Ok(())
    }

    /// Closes the file that is open, if any.
    pub fn finish(&mut self) -> Result<(), WarehouseError> {
        let Some((mut writer, sidecar)) = self.open.take() else {
            return Ok(());
        };
        let columns = self.layout.partition_columns();
        let path = format!("{}/{}", self.place.folder(columns), new_name("part")?);
        let metadata = writer
            .finish()
            .map_err(|source| WarehouseError::parquet(&path, source))?;
        let data = std::mem::take(writer.inner_mut());
        let statistics = statistics(self.layout, &metadata);
        let size = data.len() as u64;
        let file = crate::log::logged_file(
            path,
            i64::try_from(size).unwrap_or(i64::MAX),
            Some(&statistics.to_string()),
            &self.place.values(columns),
        )?;
        let sidecar = sidecar.finish(size);
        (self.emit)(Encoded {
            file,
            statistics,
            data: data.into(),
            sidecar: sidecar.into(),
        })
    }
}

/// A file of the change feed: rows of one partition with what happened to them.
pub(crate) struct ChangeSink {
    place: Place,
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
    pub rows: usize,
}

/// The column of change files that says what happened.
pub(crate) const CHANGE_COLUMN: &str = "_change_type";

/// What happened to a row, in the words of the Delta protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Insert,
    Delete,
    Preimage,
    Postimage,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Delete => "delete",
            Self::Preimage => "update_preimage",
            Self::Postimage => "update_postimage",
        }
    }
}

impl ChangeSink {
    pub fn new(layout: &Layout, place: Place) -> Result<Self, WarehouseError> {
        let change = arrow::datatypes::Field::new(CHANGE_COLUMN, DataType::Utf8, false);
        let fields = layout
            .schema
            .fields()
            .iter()
            .cloned()
            .chain([Arc::new(change)])
            .collect::<Vec<_>>();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let schema = Arc::new(Schema::new(fields));
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))
            .map_err(|source| WarehouseError::parquet(layout.dataset.as_str(), source))?;
        Ok(Self {
            place,
            schema,
            writer,
            rows: 0,
        })
    }

    pub fn push(&mut self, batch: &RecordBatch, changes: &[Change]) -> Result<(), WarehouseError> {
        let words: arrow::array::StringArray =
            changes.iter().map(|change| Some(change.as_str())).collect();
        let columns = batch
            .columns()
            .iter()
            .cloned()
            .chain([Arc::new(words) as ArrayRef])
            .collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|source| {
            WarehouseError::parquet(
                "_change_data",
                parquet::errors::ParquetError::ArrowError(source.to_string()),
            )
        })?;
        self.rows += batch.num_rows();
        self.writer
            .write(&batch)
            .map_err(|source| WarehouseError::parquet("_change_data", source))
    }

    /// The path relative to the table, the partition, and the bytes.
    pub fn finish(self, layout: &Layout) -> Result<(String, Place, Bytes), WarehouseError> {
        let folder = self.place.folder(layout.partition_columns());
        let path = format!("_change_data/{folder}/{}", new_name("cdc")?);
        let data = self
            .writer
            .into_inner()
            .map_err(|source| WarehouseError::parquet(&path, source))?;
        Ok((path, self.place, data.into()))
    }
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// The least and greatest value of one column chunk, as the log spells them; only where they are exact.
fn bounds(ty: &DataType, statistics: &Statistics) -> Option<(Value, Value)> {
    let day = |days: i32| {
        let date = date32_to_datetime(days)?.date();
        (0..=9999)
            .contains(&chrono::Datelike::year(&date))
            .then(|| text(&date.to_string()))
    };
    match (ty, statistics) {
        (DataType::Int32, Statistics::Int32(s)) => Some((json!(s.min_opt()?), json!(s.max_opt()?))),
        (DataType::Int64, Statistics::Int64(s)) => Some((json!(s.min_opt()?), json!(s.max_opt()?))),
        (DataType::Date32, Statistics::Int32(s)) => {
            Some((day(*s.min_opt()?)?, day(*s.max_opt()?)?))
        }
        (DataType::Utf8, Statistics::ByteArray(s)) if s.min_is_exact() && s.max_is_exact() => {
            Some((
                text(s.min_opt()?.as_utf8().ok()?),
                text(s.max_opt()?.as_utf8().ok()?),
            ))
        }
        _ => None,
    }
}

fn least(ty: &DataType, a: Value, b: Value, greatest: bool) -> Value {
    let less = match ty {
        DataType::Int32 | DataType::Int64 => a.as_i64() <= b.as_i64(),
        _ => a.as_str() <= b.as_str(),
    };
    if less == greatest { b } else { a }
}

/// The statistics of a file, for the columns that the log keeps them of.
fn statistics(layout: &Layout, metadata: &ParquetMetaData) -> Value {
    let (mut mins, mut maxs, mut nulls) = (Map::new(), Map::new(), Map::new());
    for column in layout.statistics_columns() {
        let field = layout.schema.field(column);
        let (name, ty) = (field.name(), field.data_type());
        let (mut range, mut null_count, mut known) = (None, 0, true);
        for group in metadata.row_groups() {
            let chunk = group.column(column);
            let counted = chunk.statistics().and_then(Statistics::null_count_opt);
            null_count += counted.unwrap_or(0);
            if counted == Some(chunk.num_values().unsigned_abs()) {
                continue;
            }
            range = match (
                range,
                chunk
                    .statistics()
                    .and_then(|statistics| bounds(ty, statistics)),
            ) {
                (None, Some(bounds)) => Some(bounds),
                (Some((min, max)), Some((low, high))) => {
                    Some((least(ty, min, low, false), least(ty, max, high, true)))
                }
                (range, None) => {
                    known = false;
                    range
                }
            };
        }
        nulls.insert(name.clone(), json!(null_count));
        if let Some((min, max)) = range.filter(|_| known) {
            mins.insert(name.clone(), min);
            maxs.insert(name.clone(), max);
        }
    }
    json!({
        "numRecords": metadata.file_metadata().num_rows(),
        "minValues": mins,
        "maxValues": maxs,
        "nullCount": nulls,
    })
}

/// The enterprise numbers of a batch.
pub(crate) fn numbers(batch: &RecordBatch) -> Vec<i32> {
    batch
        .column(0)
        .as_primitive::<Int32Type>()
        .values()
        .to_vec()
}

/// The whole file at `path`.
pub(crate) async fn fetch(
    store: &Arc<dyn ObjectStore>,
    path: &str,
) -> Result<Bytes, WarehouseError> {
    let failed = |source| WarehouseError::storage("reading", path, source);
    store
        .get(&Path::from(path))
        .await
        .map_err(failed)?
        .bytes()
        .await
        .map_err(failed)
}

/// Gives `batch` the columns of `schema`, null where it lacks them.
pub(crate) fn conform(
    batch: &RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let column = |field: &Arc<arrow::datatypes::Field>| match batch.column_by_name(field.name()) {
        Some(array) if array.data_type() == field.data_type() => Ok(Arc::clone(array)),
        Some(_) => Err(arrow::error::ArrowError::SchemaError(format!(
            "the type of `{}` changed",
            field.name()
        ))),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    };
    let columns = schema
        .fields()
        .iter()
        .map(column)
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// Decodes a data file in the form of `layout`, `batch_rows` of the limits at a time.
pub(crate) fn read_batches(
    layout: &Arc<Layout>,
    path: &str,
    bytes: Bytes,
) -> Result<impl Iterator<Item = Result<RecordBatch, WarehouseError>> + use<>, WarehouseError> {
    let path = path.to_owned();
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .map_err(|source| WarehouseError::parquet(&path, source))?;
    let reader = builder
        .with_batch_size(layout.limits.batch_rows)
        .build()
        .map_err(|source| WarehouseError::parquet(&path, source))?;
    let layout = Arc::clone(layout);
    Ok(reader.map(move |batch| {
        let batch = batch.map_err(|source| {
            WarehouseError::parquet(
                &path,
                parquet::errors::ParquetError::ArrowError(source.to_string()),
            )
        })?;
        conform(&batch, &layout.schema)
            .map_err(|source| WarehouseError::columns(&layout.dataset, source))
    }))
}
