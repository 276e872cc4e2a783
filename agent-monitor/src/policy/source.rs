//! Profile files as text, and places in them.
//!
//! Used by everything that reports something about a profile. A [`Span`] is a
//! byte range of one file's text; whoever makes one keeps it inside the text
//! and on character boundaries (`SourceFile::span` sees to it), because the
//! snippet renderer slices by it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::resolved::Source;

/// Larger profile files are refused. A profile of 10 000 rules is under 1 MiB.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

/// A byte range in one file's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

/// One profile file's text with its lines found.
#[derive(Debug)]
pub struct SourceFile {
    pub path: Arc<Path>,
    pub text: String,
    /// The file's last change; of text that is in no file, when it came.
    pub written: SystemTime,
    /// Byte offset of the first character of every line.
    line_starts: Vec<usize>,
}

/// Why a file's text could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("can't read this file: {0}")]
    Io(#[from] io::Error),
    #[error("this file is larger than {} MiB", MAX_FILE_BYTES / (1024 * 1024))]
    TooLarge,
    /// `valid` is the text before the first bad byte.
    #[error("this file is not UTF-8 text")]
    NotUtf8 { valid: String },
}

impl SourceFile {
    #[must_use]
    pub fn new(path: Arc<Path>, text: String) -> Self {
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Self { path, text, written: SystemTime::now(), line_starts }
    }

    /// Reads at most [`MAX_FILE_BYTES`].
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let mut bytes = Vec::new();
        // One byte more than allowed tells "exactly the limit" from "over it".
        let file = File::open(path)?;
        let written = file.metadata()?.modified()?;
        file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ReadError::TooLarge);
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            ReadError::NotUtf8 { valid: String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned() }
        })?;
        Ok(Self { written, ..Self::new(path.into(), text) })
    }

    /// A span moved inside the text and onto character boundaries.
    #[must_use]
    pub fn span(&self, start: usize, end: usize) -> Span {
        let start = self.text.floor_char_boundary(start);
        let end = self.text.ceil_char_boundary(end.max(start));
        Span { start, end }
    }

    /// The index, from 0, of the line that holds the byte at `offset`.
    #[must_use]
    pub fn line_index(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset).saturating_sub(1)
    }

    /// The byte offset where the line of this index begins; the end of the text
    /// past the last line.
    #[must_use]
    pub fn line_start(&self, index: usize) -> usize {
        self.line_starts.get(index).copied().unwrap_or(self.text.len())
    }

    /// Line and column, both from 1, the column in characters.
    #[must_use]
    pub fn line_column(&self, offset: usize) -> (u32, u32) {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.line_index(offset);
        let column = self.text[self.line_start(line)..offset].chars().count();
        let from_one = |index: usize| u32::try_from(index + 1).unwrap_or(u32::MAX);
        (from_one(line), from_one(column))
    }

    /// The byte offset of a line and column, both from 1; the nearest character
    /// if there is none at that place.
    #[must_use]
    pub fn offset(&self, line: u64, column: u64) -> usize {
        let line = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
        let (start, end) = (self.line_start(line), self.line_start(line.saturating_add(1)));
        let column = usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1);
        self.text[start..end].char_indices().nth(column).map_or(end, |(offset, _)| start + offset)
    }

    #[must_use]
    pub fn place(&self, span: Span) -> Source {
        let (line, column) = self.line_column(span.start);
        Source { file: Arc::clone(&self.path), line, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile::new(Path::new("p.yaml").into(), text.to_owned())
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let file = file("a\nnäme: x\n");
        let x = file.text.find('x').unwrap();
        assert_eq!(file.line_column(x), (2, 7));
        assert_eq!(file.line_column(0), (1, 1));
        assert_eq!(file.line_column(usize::MAX), (3, 1));
        assert_eq!(file.offset(2, 7), x);
        assert_eq!(file.offset(9, 9), file.text.len());
    }

    #[test]
    fn spans_are_clamped_to_characters_of_the_text() {
        let file = file("näme");
        assert_eq!(file.span(2, 2), Span { start: 1, end: 3 });
        assert_eq!(file.span(90, 95), Span { start: 5, end: 5 });
    }

    #[test]
    fn an_oversized_file_is_refused_and_the_limit_itself_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.yaml");
        std::fs::write(&path, vec![b'#'; MAX_FILE_BYTES]).unwrap();
        assert!(SourceFile::read(&path).is_ok());
        std::fs::write(&path, vec![b'#'; MAX_FILE_BYTES + 1]).unwrap();
        assert!(matches!(SourceFile::read(&path), Err(ReadError::TooLarge)));
    }
}
