//! Puts the pages about error codes into the program: every problem that the service answers points to one.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("docs/errors");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut pages = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| *name != "README") {
            pages.push((name.to_owned(), path.clone()));
        }
    }
    pages.sort();
    let mut source = String::from("&[\n");
    for (name, path) in &pages {
        writeln!(
            source,
            "    ({name:?}, include_str!({:?})),",
            path.display().to_string()
        )?;
    }
    source.push(']');
    let out = Path::new(&env::var("OUT_DIR")?).join("error_pages.rs");
    fs::write(out, source)?;
    Ok(())
}
