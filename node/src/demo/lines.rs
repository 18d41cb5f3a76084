//! Real lines without end: those of a file, or of the Rust sources on this machine, over and over.

use crate::cli::Failure;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Lines, each with its newline, in an order that is the same every time.
pub(super) struct Lines {
    files: Vec<PathBuf>,
    next: usize,
    open: Option<BufReader<File>>,
}

impl Lines {
    /// The lines of `file`, or of every Rust source below cargo's registry.
    pub(super) fn open(file: Option<&Path>) -> Result<Self, Failure> {
        let mut files = Vec::new();
        match file {
            Some(file) => files.push(file.to_owned()),
            None => {
                let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
                let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
                let registry = home.ok_or("neither CARGO_HOME nor HOME is set; name a file with --file")?;
                collect(&registry.join("registry/src"), &mut files)?;
                files.sort();
            }
        }
        let bytes: u64 =
            files.iter().map(|file| std::fs::metadata(file).map_or(0, |about| about.len())).sum();
        if bytes == 0 {
            return Err("there is nothing to stream; name a file that is not empty with --file".into());
        }
        Ok(Self { files, next: 0, open: None })
    }

    /// How many files there are.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    /// The next line.
    pub(super) fn next(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(open) = &mut self.open {
                let mut line = Vec::new();
                // No line of a demo is longer than a mebibyte: a longer one comes in pieces.
                if std::io::Read::take(open, 1 << 20).read_until(b'\n', &mut line)? > 0 {
                    // The end of a file, or a piece: on the input of a process the next would join it.
                    if line.last() != Some(&b'\n') {
                        line.push(b'\n');
                    }
                    return Ok(line);
                }
            }
            let path = &self.files[self.next % self.files.len()];
            self.next += 1;
            let file =
                File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
            self.open = Some(BufReader::new(file));
        }
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let entries = std::fs::read_dir(dir)
        .map_err(|error| format!("cannot list {}: {error}; name a file with --file", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() && entry.path().extension().is_some_and(|extension| extension == "rs") {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_newline_at_the_end_of_a_file_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lines");
        std::fs::write(&file, "one\ntwo").unwrap();
        let mut lines = Lines::open(Some(&file)).unwrap();
        let three: Vec<_> = (0..3).map(|_| lines.next().unwrap()).collect();
        assert_eq!(three, [b"one\n", b"two\n", b"one\n"]);
    }
}
