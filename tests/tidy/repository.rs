//! The files under version control, and those about to be. Owns: finding and reading them. Must
//! not know: the rules.

use crate::regions;
use crate::source::Source;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A text file of any kind.
pub struct Text {
    /// Relative to the root, with `/`.
    pub path: String,
    pub content: String,
}

pub struct Repository {
    root: PathBuf,
    paths: Vec<String>,
}

impl Repository {
    pub fn open() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the tests' crate lies in the root folder")
            .to_owned();
        // The owner of the files may be another user, as in a container.
        let listing = Command::new("git")
            .args(["-c", "safe.directory=*", "ls-files", "-z"])
            .args(["--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .expect("git is installed");
        let complaint = String::from_utf8_lossy(&listing.stderr).into_owned();
        assert!(listing.status.success(), "git ls-files: {complaint}");
        let listing = String::from_utf8(listing.stdout).expect("paths are UTF-8");
        let paths: BTreeSet<String> = listing
            .split('\0')
            .filter(|path| !path.is_empty() && root.join(path).is_file())
            .map(str::to_owned)
            .collect();
        Self { root, paths: paths.into_iter().collect() }
    }

    /// Every Rust file, with those that belong to tests marked as such.
    pub fn sources(&self) -> Vec<Source> {
        let mut sources: Vec<Source> = self
            .texts()
            .iter()
            .filter(|text| text.path.ends_with(".rs"))
            .map(|text| Source::new(&text.path, &text.content))
            .collect();
        let paths: Vec<String> = sources.iter().map(|source| source.path.clone()).collect();
        let mut test_folders: Vec<String> = Vec::new();
        for source in &sources {
            test_folders.extend(regions::test_modules(source));
        }
        for (source, path) in sources.iter_mut().zip(paths) {
            let inside = |module: &String| {
                path == format!("{module}.rs") || path.starts_with(&format!("{module}/"))
            };
            if test_folders.iter().any(inside) {
                source.mark_all_as_test();
            }
        }
        sources
    }

    /// Every file that is text.
    pub fn texts(&self) -> Vec<Text> {
        let read = |path: &String| {
            let bytes = std::fs::read(self.root.join(path)).ok()?;
            Some(Text { path: path.clone(), content: String::from_utf8(bytes).ok()? })
        };
        self.paths.iter().filter_map(read).collect()
    }

    pub fn texts_named(&self, name: &str) -> Vec<Text> {
        let named = |text: &Text| text.path.rsplit('/').next() == Some(name);
        self.texts().into_iter().filter(named).collect()
    }

    /// One file's content; empty if it is not there.
    pub fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_itself_and_knows_itself_for_a_test() {
        let sources = Repository::open().sources();
        let this = sources.iter().find(|source| source.path == "tests/tidy/repository.rs");
        assert!(this.expect("listed").is_test(1));
    }
}
