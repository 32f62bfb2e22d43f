//! Reading sidecars from the store, and rebuilding the ones that are missing or damaged.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use roaring::RoaringBitmap;

use crate::{
    canonical::Fingerprints,
    datafile::{numbers, read_batches},
    error::WarehouseError,
    layout::Layout,
    log::sidecar_of,
    sidecar::{HEADER_BYTES, Header, Keys, NotASidecar, Records, Section, SidecarBuilder},
};

/// Which data file a sidecar stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataRef<'a> {
    pub path: &'a str,
    pub size: u64,
    pub rows: u64,
}

enum Refusal {
    /// There is none, or not a good one: build it again.
    Rebuild(&'static str),
    Failed(object_store::Error),
}

impl From<NotASidecar> for Refusal {
    fn from(NotASidecar(reason): NotASidecar) -> Self {
        Self::Rebuild(reason)
    }
}

impl From<object_store::Error> for Refusal {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Rebuild("it is missing"),
            error => Self::Failed(error),
        }
    }
}

/// An open sidecar.
pub(crate) struct Index {
    store: Arc<dyn ObjectStore>,
    path: Path,
    header: Header,
}

impl Index {
    async fn open(store: &Arc<dyn ObjectStore>, data: DataRef<'_>) -> Result<Self, Refusal> {
        let path = Path::from(sidecar_of(data.path));
        let size = store.head(&path).await?.size;
        if size < HEADER_BYTES as u64 {
            return Err(Refusal::Rebuild("it is cut short"));
        }
        let header = store.get_range(&path, 0..HEADER_BYTES as u64).await?;
        let header = Header::parse(&header, data.size, data.rows)?;
        // The last section ends the file.
        if header.range(Section::Rows).end != size {
            return Err(Refusal::Rebuild("it is cut short"));
        }
        Ok(Self {
            store: Arc::clone(store),
            path,
            header,
        })
    }

    async fn section(&self, section: Section) -> Result<Bytes, Refusal> {
        let range = self.header.range(section);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        Ok(self.store.get_range(&self.path, range).await?)
    }

    async fn keys(&self) -> Result<Keys, Refusal> {
        Ok(self.header.keys(self.section(Section::Keys).await?)?)
    }

    async fn records(&self) -> Result<Records, Refusal> {
        let contents = self.section(Section::Contents).await?;
        let sequences = self.section(Section::Sequences).await?;
        let numbers = self.section(Section::Numbers).await?;
        let rows = self.section(Section::Rows).await?;
        Ok(self.header.records([contents, sequences, numbers, rows])?)
    }

    async fn presence(&self) -> Result<RoaringBitmap, Refusal> {
        Ok(self
            .header
            .presence(&self.section(Section::Presence).await?)?)
    }
}

/// Builds the sidecar of `data` again if that is what its refusal asks for.
async fn recover(
    store: &Arc<dyn ObjectStore>,
    layout: &Arc<Layout>,
    data: DataRef<'_>,
    refused: Refusal,
) -> Result<(), WarehouseError> {
    match refused {
        Refusal::Failed(source) => Err(WarehouseError::storage(
            "reading the sidecar of",
            data.path,
            source,
        )),
        Refusal::Rebuild(reason) => {
            tracing::info!(dataset = %layout.dataset, file = data.path, reason, "a sidecar is built again");
            rebuild(store, layout, data).await
        }
    }
}

/// What to say when a sidecar that was just built is no good either.
fn hopeless(data: DataRef<'_>, refused: Refusal) -> WarehouseError {
    match refused {
        Refusal::Failed(source) => {
            WarehouseError::storage("reading the sidecar of", data.path, source)
        }
        Refusal::Rebuild(reason) => WarehouseError::corrupt(&sidecar_of(data.path), reason),
    }
}

/// The enterprises in a data file.
pub(crate) async fn presence(
    store: &Arc<dyn ObjectStore>,
    layout: &Arc<Layout>,
    data: DataRef<'_>,
) -> Result<RoaringBitmap, WarehouseError> {
    match try_presence(store, data).await {
        Ok(bitmap) => Ok(bitmap),
        Err(refused) => {
            recover(store, layout, data, refused).await?;
            try_presence(store, data)
                .await
                .map_err(|refused| hopeless(data, refused))
        }
    }
}

async fn try_presence(
    store: &Arc<dyn ObjectStore>,
    data: DataRef<'_>,
) -> Result<RoaringBitmap, Refusal> {
    Index::open(store, data).await?.presence().await
}

/// The records of a data file that were looked for.
pub(crate) struct Matches {
    /// Pairs of (position among the wanted keys, entry of the index).
    pub found: Vec<(usize, usize)>,
    /// What is known of the entries.
    pub records: Records,
}

/// The records of a data file among `wanted` (key hashes, sorted, distinct). Costs the keys alone when none is there.
pub(crate) async fn matches(
    store: &Arc<dyn ObjectStore>,
    layout: &Arc<Layout>,
    data: DataRef<'_>,
    wanted: &[u128],
) -> Result<Option<Matches>, WarehouseError> {
    match try_matches(store, data, wanted).await {
        Ok(matches) => Ok(matches),
        Err(refused) => {
            recover(store, layout, data, refused).await?;
            try_matches(store, data, wanted)
                .await
                .map_err(|refused| hopeless(data, refused))
        }
    }
}

async fn try_matches(
    store: &Arc<dyn ObjectStore>,
    data: DataRef<'_>,
    wanted: &[u128],
) -> Result<Option<Matches>, Refusal> {
    let index = Index::open(store, data).await?;
    let keys = index.keys().await?;
    let mut found = Vec::new();
    keys.intersect(wanted, |position, entry| found.push((position, entry)));
    if found.is_empty() {
        Ok(None)
    } else {
        Ok(Some(Matches {
            found,
            records: index.records().await?,
        }))
    }
}

async fn rebuild(
    store: &Arc<dyn ObjectStore>,
    layout: &Arc<Layout>,
    data: DataRef<'_>,
) -> Result<(), WarehouseError> {
    let bytes = crate::datafile::fetch(store, data.path).await?;
    if bytes.len() as u64 != data.size {
        return Err(WarehouseError::corrupt(
            data.path,
            "its size is not the one in the log",
        ));
    }
    let (layout, name) = (Arc::clone(layout), data.path.to_owned());
    let sidecar = tokio::task::spawn_blocking(move || {
        let size = bytes.len() as u64;
        let mut builder = SidecarBuilder::default();
        for batch in read_batches(&layout, &name, bytes)? {
            let batch = batch?;
            builder.push(&Fingerprints::of(&layout, &batch)?, &numbers(&batch));
        }
        Ok::<_, WarehouseError>(builder.finish(size))
    })
    .await
    .map_err(|_| WarehouseError::Interrupted)??;
    let path = Path::from(sidecar_of(data.path));
    store
        .put(&path, sidecar.into())
        .await
        .map_err(|source| WarehouseError::storage("writing", &path, source))?;
    Ok(())
}
