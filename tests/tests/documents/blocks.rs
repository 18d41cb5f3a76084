//! The code blocks of a document.

use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// What stands behind the fence: `sh`, `toml`, `rust`…
    pub(crate) language: String,
    /// What is in it.
    pub(crate) text: String,
}

impl Block {
    /// Its commands: one a line, a line that ends in a backslash goes on in the next; without comments.
    pub(crate) fn commands(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let bare = joined.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
        bare.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    }
}

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

/// A document, by its path from the top.
pub(crate) fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The blocks of a document, in order.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => {
                open = Some(Block { language: language.trim().to_owned(), text: String::new() });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed: {open:?}");
    blocks
}

#[test]
fn blocks_are_found_and_cut_into_commands() {
    let text = "a\n```sh\nb c  # d\n# e\nf \\\n  g\n```\nh\n```toml\nx = 1\n```\n";
    let blocks = blocks(text);
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[0].commands(), ["b c", "f    g"]);
    assert_eq!((blocks[1].language.as_str(), blocks[1].text.as_str()), ("toml", "x = 1\n"));
}
