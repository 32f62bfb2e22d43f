//! A local object store that survives a power cut.
//!
//! Promises: when a write returns, the bytes and the name of the file are on the disk; a file is complete under its
//! final name from the first moment it has that name; [`PutMode::Create`] is atomic (of two writers one wins), which
//! is what a commit of a Delta table rests on. `object_store`'s own local store never calls fsync: after a power cut
//! a commit could be an empty file, or a durable record elsewhere could speak of a commit that is gone.
//!
//! Order of every write: write a staging file → fsync it → link or rename it to its name → fsync the folder, and
//! every folder that had to be made. Staging files are named `<name>#<digits>`, which `object_store` never lists.

use std::{
    fmt, fs,
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path as FilePath, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream::BoxStream};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    RenameTargetMode, Result, UploadPart, local::LocalFileSystem, path::Path,
};

/// A step of a durable write, as seen by [`Observer`].
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A staging file is about to be written.
    Write(PathBuf),
    /// A file is about to be made durable.
    SyncFile(PathBuf),
    /// A complete file is about to get its final name.
    Publish(PathBuf),
    /// A folder is about to be made durable.
    SyncFolder(PathBuf),
    /// A file is about to be deleted.
    Delete(PathBuf),
}

/// Sees every step of every write before it happens and may make it fail: for tests of durability.
#[doc(hidden)]
pub trait Observer: fmt::Debug + Send + Sync {
    /// Called before `step`; an error takes its place.
    fn before(&self, step: &Step) -> io::Result<()>;
}

#[derive(Debug)]
struct Silent;

impl Observer for Silent {
    fn before(&self, _: &Step) -> io::Result<()> {
        Ok(())
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct DurableStore {
    inner: Arc<LocalFileSystem>,
    disk: Arc<Disk>,
}

#[derive(Debug)]
struct Disk {
    observer: Arc<dyn Observer>,
    staged: AtomicU64,
}

impl Default for DurableStore {
    fn default() -> Self {
        Self::new()
    }
}

impl DurableStore {
    /// A store whose paths start at the root of the file system.
    #[must_use]
    pub fn new() -> Self {
        Self::observed(Arc::new(Silent))
    }

    /// The same, with every step shown to `observer` first.
    #[doc(hidden)]
    #[must_use]
    pub fn observed(observer: Arc<dyn Observer>) -> Self {
        Self {
            inner: Arc::new(LocalFileSystem::new()),
            disk: Arc::new(Disk {
                observer,
                staged: AtomicU64::new(0),
            }),
        }
    }

    /// Makes `folder`, durably.
    pub(crate) fn make_folder(&self, folder: &FilePath) -> io::Result<()> {
        let folder = std::path::absolute(folder)?;
        self.disk.make_folder(&folder)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let disk = Arc::clone(&self.disk);
        tokio::task::spawn_blocking(move || work(&disk)).await?
    }
}

impl fmt::Display for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DurableStore")
    }
}

fn failed(source: io::Error) -> Error {
    Error::Generic {
        store: "DurableStore",
        source: source.into(),
    }
}

impl Disk {
    fn step<T>(&self, step: &Step, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.observer.before(step)?;
        work()
    }

    fn sync_folder(&self, folder: &FilePath) -> io::Result<()> {
        self.step(&Step::SyncFolder(folder.to_owned()), || {
            fs::File::open(folder)?.sync_all()
        })
    }

    fn sync_file(&self, path: &FilePath, file: &fs::File) -> io::Result<()> {
        self.step(&Step::SyncFile(path.to_owned()), || file.sync_all())
    }

    /// Makes `folder` and what is missing above it, and makes each new name durable in the folder that holds it.
    fn make_folder(&self, folder: &FilePath) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make_folder(parent)?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => self.sync_folder(parent)?,
            }
        }
        Ok(())
    }

    /// Opens a new staging file next to `target`, in a folder that exists durably.
    fn stage(&self, target: &FilePath) -> io::Result<(fs::File, PathBuf)> {
        if let Some(folder) = target.parent() {
            self.make_folder(folder)?;
        }
        loop {
            let mut name = target.as_os_str().to_owned();
            // The process id keeps two processes apart; `object_store` hides names that end in `#` and digits.
            let count = self.staged.fetch_add(1, Ordering::Relaxed);
            name.push(format!("#{:010}{count:010}", std::process::id()));
            let staged = PathBuf::from(name);
            let open = || {
                fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&staged)
            };
            match self.step(&Step::Write(target.to_owned()), open) {
                Ok(file) => return Ok((file, staged)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the durable staging file its name, durably. In mode `Create` an existing target is an error.
    fn publish(&self, staged: &FilePath, target: &FilePath, create: bool) -> Result<()> {
        let link = || {
            if create {
                fs::hard_link(staged, target)
            } else {
                fs::rename(staged, target)
            }
        };
        match self.step(&Step::Publish(target.to_owned()), link) {
            Ok(()) => {}
            Err(source) if create && source.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists {
                    path: target.display().to_string(),
                    source: source.into(),
                });
            }
            Err(source) => return Err(failed(source)),
        }
        if create {
            // The target stands whatever becomes of its staging name.
            let _ = fs::remove_file(staged);
        }
        self.sync_parent(target).map_err(failed)
    }

    fn sync_parent(&self, path: &FilePath) -> io::Result<()> {
        path.parent()
            .map_or(Ok(()), |folder| self.sync_folder(folder))
    }

    fn put(&self, target: &FilePath, payload: &PutPayload, create: bool) -> Result<()> {
        let (mut file, staged) = self.stage(target).map_err(failed)?;
        let written = payload
            .iter()
            .try_for_each(|part| file.write_all(part))
            .and_then(|()| self.sync_file(&staged, &file))
            .map_err(failed)
            .and_then(|()| self.publish(&staged, target, create));
        if written.is_err() {
            let _ = fs::remove_file(&staged);
        }
        written
    }
}

#[async_trait]
impl ObjectStore for DurableStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "`put_opts` with mode `PutMode::Update`".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let target = self.inner.path_to_filesystem(location)?;
        self.blocking(move |disk| disk.put(&target, &payload, create))
            .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.inner.path_to_filesystem(location)?;
        let stage = target.clone();
        let (file, staged) = self
            .blocking(move |disk| disk.stage(&stage).map_err(failed))
            .await?;
        Ok(Box::new(DurableUpload {
            store: self.clone(),
            target,
            staged: Some(staged),
            file: Arc::new(file),
            offset: 0,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (store, inner) = (self.clone(), Arc::clone(&self.inner));
        let observed = store.clone();
        let locations = locations.and_then(move |location| {
            let store = observed.clone();
            async move {
                let path = store.inner.path_to_filesystem(&location)?;
                store
                    .disk
                    .observer
                    .before(&Step::Delete(path))
                    .map_err(failed)?;
                Ok(location)
            }
        });
        inner
            .delete_stream(locations.boxed())
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    let path = store.inner.path_to_filesystem(&location)?;
                    store
                        .blocking(move |disk| disk.sync_parent(&path).map_err(failed))
                        .await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (from, target) = (
            self.inner.path_to_filesystem(from)?,
            self.inner.path_to_filesystem(to)?,
        );
        let create = matches!(options.mode, CopyMode::Create);
        self.blocking(move |disk| {
            let mut source = fs::File::open(&from).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NotFound {
                    path: from.display().to_string(),
                    source: error.into(),
                },
                _ => failed(error),
            })?;
            let (mut file, staged) = disk.stage(&target).map_err(failed)?;
            let copied = io::copy(&mut source, &mut file)
                .and_then(|_| disk.sync_file(&staged, &file))
                .map_err(failed)
                .and_then(|()| disk.publish(&staged, &target, create));
            if copied.is_err() {
                let _ = fs::remove_file(&staged);
            }
            copied
        })
        .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let mode = match options.target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(from, to, CopyOptions::new().with_mode(mode))
            .await?;
        let from = from.clone();
        self.delete_stream(futures::stream::once(async move { Ok(from) }).boxed())
            .try_collect::<Vec<_>>()
            .await?;
        Ok(())
    }
}

/// An upload in parts that becomes visible, complete and durable at once.
#[derive(Debug)]
struct DurableUpload {
    store: DurableStore,
    target: PathBuf,
    staged: Option<PathBuf>,
    file: Arc<fs::File>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut at = self.offset;
        self.offset += data.content_length() as u64;
        let (store, file) = (self.store.clone(), Arc::clone(&self.file));
        let part: BoxFuture<'static, Result<()>> = Box::pin(async move {
            store
                .blocking(move |_| {
                    for part in &data {
                        file.write_all_at(part, at).map_err(failed)?;
                        at += part.len() as u64;
                    }
                    Ok(())
                })
                .await
        });
        part
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(ended)?;
        let (target, file) = (self.target.clone(), Arc::clone(&self.file));
        self.store
            .blocking(move |disk| {
                let done = disk
                    .sync_file(&staged, &file)
                    .map_err(failed)
                    .and_then(|()| disk.publish(&staged, &target, false));
                if done.is_err() {
                    let _ = fs::remove_file(&staged);
                }
                done
            })
            .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take().ok_or_else(ended)?;
        self.store
            .blocking(move |_| fs::remove_file(&staged).map_err(failed))
            .await
    }
}

fn ended() -> Error {
    failed(io::Error::other("the upload has ended already"))
}

impl Drop for DurableUpload {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            let _ = fs::remove_file(staged);
        }
    }
}
