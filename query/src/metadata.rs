//! Parquet metadata with page indexes, from the cache that the readers use too.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use object_store::{ObjectMeta, ObjectStore};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

/// The metadata of a file, its page index included.
///
/// # Errors
/// When the file cannot be read or is not Parquet.
pub async fn load(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    cache: &Arc<FileMetadataCache>,
) -> Result<Arc<ParquetMetaData>> {
    DFParquetMetadata::new(store.as_ref(), file)
        .with_file_metadata_cache(Some(Arc::clone(cache)))
        .with_page_index_policy(Some(PageIndexPolicy::Optional))
        .fetch_metadata()
        .await
}

/// The position of a top-level column among a file's leaf columns.
pub fn leaf_index(metadata: &ParquetMetaData, name: &str) -> Option<usize> {
    metadata
        .file_metadata()
        .schema_descr()
        .columns()
        .iter()
        .position(|column| column.path().string() == name)
}
