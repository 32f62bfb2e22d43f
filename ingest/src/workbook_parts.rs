//! The parts of a workbook, written anew before a library reads them.
//!
//! The library that reads cells believes what a workbook says of itself: how many texts there are, which part is which,
//! how large a sheet is. So it never sees the workbook. It reads a copy that is written here: the parts that the
//! workbook's relationships lead to, each of them one thing, and of each only what cells are made of
//! ([`crate::workbook_tags`]). Hidden sheets are not in the copy.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{
    archive::{Archive, Entry},
    error::{IngestError, Result},
    spool,
    workbook::DateSystem,
    workbook_tags::{Found, PartKind, PartReader, Relation, SheetEntry},
};

/// The most sheets that are read.
const MAX_SHEETS: usize = 256;
/// The most bytes of the shared texts, and of every other part but sheets.
const MAX_STRINGS_BYTES: u64 = 128 << 20;
const MAX_PART_BYTES: u64 = 16 << 20;

/// A workbook of which nothing is left but cells.
pub(crate) struct Copy {
    pub file: File,
    /// The names of its sheets, in order; in the copy they are called 1, 2, 3 …
    pub sheets: Vec<String>,
    pub dates: DateSystem,
}

/// Copies the sheets of `archive` that are shown; of them those named `wanted`, or all when none is.
pub(crate) fn copy(
    archive: &mut Archive,
    name: &str,
    wanted: &BTreeSet<String>,
    state_dir: &Path,
) -> Result<Copy> {
    let mut parts = Parts::new(archive, name)?;
    let root = parts.relations("", "_rels/.rels")?;
    let main = parts.one(&root, "officeDocument")?;
    let main = main.ok_or_else(|| parts.refused("its parts do not say which is the workbook"))?;
    let main = parts.take(&main)?;
    let workbook = parts.read(&main, PartKind::Workbook, None)?;
    let (folder, file) = main.rsplit_once('/').unwrap_or(("", &main));
    let folder = if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    };
    let relations = parts.relations(&folder, &format!("{folder}_rels/{file}.rels"))?;
    let shown = parts.shown(workbook.sheets, &relations, wanted)?;
    let strings = parts.one(&relations, "sharedStrings")?;
    let styles = parts.one(&relations, "styles")?;
    let mut writer = CopyWriter::new(name, state_dir)?;
    writer.frame(shown.len())?;
    for (part, to, kind) in [
        (strings, "xl/sharedStrings.xml", PartKind::Strings),
        (styles, "xl/styles.xml", PartKind::Styles),
    ] {
        if let Some(part) = part {
            let part = parts.take(&part)?;
            writer.begin(to)?;
            parts.read(&part, kind, Some(&mut writer))?;
        }
    }
    let mut sheets = Vec::with_capacity(shown.len());
    for (number, (sheet, part)) in (1..).zip(shown) {
        writer.begin(&format!("xl/worksheets/sheet{number}.xml"))?;
        parts.read(&part, PartKind::Sheet, Some(&mut writer))?;
        sheets.push(sheet);
    }
    let dates = match workbook.from_1904 {
        true => DateSystem::From1904,
        false => DateSystem::From1900,
    };
    Ok(Copy {
        file: writer.finish()?,
        sheets,
        dates,
    })
}

/// Writes the copy, none of it packed.
struct CopyWriter<'a> {
    name: &'a str,
    zip: ZipWriter<BufWriter<File>>,
}

impl<'a> CopyWriter<'a> {
    fn new(name: &'a str, state_dir: &Path) -> Result<Self> {
        let zip = ZipWriter::new(BufWriter::new(spool::nameless(state_dir)?));
        Ok(Self { name, zip })
    }

    fn begin(&mut self, part: &str) -> Result<()> {
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let begun = self.zip.start_file(part, stored);
        begun.map_err(|error| self.failed(error.into()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.zip.write_all(bytes);
        written.map_err(|error| self.failed(error))
    }

    /// The parts that say where sheets are, for `sheets` of them.
    fn frame(&mut self, sheets: usize) -> Result<()> {
        const TYPES: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
        self.begin("_rels/.rels")?;
        let root = format!(
            "<Relationships><Relationship Id=\"w\" Type=\"{TYPES}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>"
        );
        self.write(root.as_bytes())?;
        self.begin("xl/_rels/workbook.xml.rels")?;
        self.write(b"<Relationships>")?;
        for number in 1..=sheets {
            let relation = format!(
                "<Relationship Id=\"s{number}\" Type=\"{TYPES}/worksheet\" Target=\"worksheets/sheet{number}.xml\"/>"
            );
            self.write(relation.as_bytes())?;
        }
        self.write(b"</Relationships>")?;
        self.begin("xl/workbook.xml")?;
        self.write(b"<workbook><sheets>")?;
        for number in 1..=sheets {
            let sheet = format!("<sheet name=\"{number}\" r:id=\"s{number}\"/>");
            self.write(sheet.as_bytes())?;
        }
        self.write(b"</sheets></workbook>")
    }

    fn finish(self) -> Result<File> {
        let failed =
            |error: io::Error| IngestError::io(format!("unpacking `{}`", self.name), error);
        let file = self.zip.finish().map_err(|error| failed(error.into()))?;
        file.into_inner()
            .map_err(|error| failed(error.into_error()))
    }

    fn failed(&self, error: io::Error) -> IngestError {
        IngestError::io(format!("unpacking `{}`", self.name), error)
    }
}

/// The parts of a workbook by where they are.
struct Parts<'a> {
    archive: &'a mut Archive,
    name: &'a str,
    entries: HashMap<String, Entry>,
    /// Those that were used: no part is two things.
    taken: HashSet<String>,
}

impl<'a> Parts<'a> {
    fn new(archive: &'a mut Archive, name: &'a str) -> Result<Self> {
        let mut entries = HashMap::with_capacity(archive.entries.len());
        for entry in &archive.entries {
            if entries.insert(key(&entry.name), entry.clone()).is_some() {
                let fault = format!("two of its parts have the name `{}`", entry.name);
                return Err(IngestError::workbook(name, fault));
            }
        }
        Ok(Self {
            archive,
            name,
            entries,
            taken: HashSet::new(),
        })
    }

    fn refused(&self, fault: impl Into<String>) -> IngestError {
        IngestError::workbook(self.name, fault.into())
    }

    /// Says that `part` is needed; refuses one that has another use.
    fn take(&mut self, part: &str) -> Result<String> {
        if self.taken.insert(key(part)) {
            return Ok(part.to_owned());
        }
        Err(self.refused(format!("it uses its part `{part}` twice")))
    }

    /// The relationships of a part, by id, with their targets from the root on.
    fn relations(&mut self, folder: &str, part: &str) -> Result<HashMap<String, Relation>> {
        let part = self.take(part)?;
        let found = self.read(&part, PartKind::Relations, None)?;
        let mut relations = HashMap::with_capacity(found.relations.len());
        for (id, mut relation) in found.relations {
            relation.target = resolve(folder, &relation.target);
            if relations.insert(id, relation).is_some() {
                return Err(self.refused(format!("its part `{part}` says a thing twice")));
            }
        }
        Ok(relations)
    }

    /// Where the one part of this role is, if there is one.
    fn one(&self, relations: &HashMap<String, Relation>, role: &str) -> Result<Option<String>> {
        let mut found = relations.values().filter(|relation| relation.is(role));
        let first = found.next().map(|relation| relation.target.clone());
        if found.next().is_some() {
            return Err(self.refused(format!("it has more than one part `{role}`")));
        }
        Ok(first)
    }

    /// The sheets that are shown and wanted, by name, with where they are.
    fn shown(
        &mut self,
        sheets: Vec<SheetEntry>,
        relations: &HashMap<String, Relation>,
        wanted: &BTreeSet<String>,
    ) -> Result<Vec<(String, String)>> {
        let (mut names, mut shown) = (HashSet::new(), Vec::new());
        for sheet in sheets {
            if !names.insert(sheet.name.trim().to_lowercase()) {
                return Err(self.refused(format!("two sheets have the name `{}`", sheet.name)));
            }
            let relation = relations.get(&sheet.relation);
            let relation = relation.ok_or_else(|| self.refused("its parts do not fit together"))?;
            if !relation.is("worksheet") {
                continue;
            }
            let part = self.take(&relation.target)?;
            let is_wanted =
                wanted.is_empty() || wanted.iter().any(|name| name == sheet.name.trim());
            if sheet.shown && is_wanted {
                shown.push((sheet.name, part));
            }
        }
        if let Some(name) = wanted
            .iter()
            .find(|name| !shown.iter().any(|(sheet, _)| sheet.trim() == *name))
        {
            let fault = format!("it shows no sheet `{name}`, which the feed reads");
            return Err(self.refused(fault));
        }
        if shown.len() > MAX_SHEETS {
            let fault = format!("it shows {} sheets, the limit is {MAX_SHEETS}", shown.len());
            return Err(self.refused(fault));
        }
        Ok(shown)
    }

    /// Reads a part; what is kept of it goes to `copy`.
    fn read(
        &mut self,
        part: &str,
        kind: PartKind,
        mut copy: Option<&mut CopyWriter<'_>>,
    ) -> Result<Found> {
        let missing = || {
            self.refused(format!(
                "its parts do not fit together: `{part}` is missing"
            ))
        };
        let entry = self.entries.get(&key(part)).cloned().ok_or_else(missing)?;
        let name = self.name;
        let refused =
            |fault: &str| IngestError::workbook(name, format!("its part `{part}` {fault}"));
        let most = match kind {
            PartKind::Sheet => u64::MAX,
            PartKind::Strings => MAX_STRINGS_BYTES,
            _ => MAX_PART_BYTES,
        };
        if entry.bytes > most {
            return Err(refused(&format!("is longer than {most} bytes")));
        }
        let mut reader = PartReader::new(kind);
        let mut read = |block: &[u8], ended| {
            reader.read(block, ended).map_err(refused)?;
            if let Some(copy) = &mut copy {
                copy.write(&reader.kept)?;
            }
            reader.kept.clear();
            Ok(())
        };
        self.archive.unpack(&entry, |block| read(block, false))?;
        read(&[], true)?;
        Ok(reader.found)
    }
}

/// A name of a part as it is looked for: spreadsheets look at neither case nor the kind of slash.
fn key(part: &str) -> String {
    part.replace('\\', "/").to_ascii_lowercase()
}

/// The part that `target` names when it is named in `folder`.
fn resolve(folder: &str, target: &str) -> String {
    let target = target.replace('\\', "/");
    let whole = match target.strip_prefix('/') {
        Some(whole) => whole.to_owned(),
        None => format!("{folder}{target}"),
    };
    let mut steps: Vec<&str> = Vec::new();
    for step in whole.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    steps.join("/")
}
