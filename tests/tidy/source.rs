//! One Rust file, taken apart. Owns: which line is code, comment or test. Must not know: rules.

use crate::{lexer, regions};

/// A text literal and the line (from 1) on which it begins.
pub struct Literal {
    pub line: usize,
    pub text: String,
    /// Where it begins in `Source::code`.
    pub offset: usize,
}

pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    /// The file with comments and the insides of literals blanked; offsets and lines stay.
    pub code: String,
    /// Comment text by line, "" where there is none; index 0 is line 1.
    pub comments: Vec<String>,
    pub literals: Vec<Literal>,
    /// The first line that is not blank, and its text.
    pub first_line: String,
    test_lines: Vec<bool>,
}

impl Source {
    pub fn new(path: &str, content: &str) -> Self {
        let lexed = lexer::lex(content);
        let first_line =
            content.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
        let mut source = Self {
            path: path.to_owned(),
            code: lexed.code,
            comments: lexed.comments,
            literals: lexed.literals,
            first_line,
            test_lines: Vec::new(),
        };
        source.test_lines = regions::test_lines(&source);
        if regions::is_test_path(path) {
            source.mark_all_as_test();
        }
        source
    }

    pub fn mark_all_as_test(&mut self) {
        self.test_lines.fill(true);
    }

    pub fn line_count(&self) -> usize {
        self.comments.len()
    }

    /// True for a line (from 1) that exists only in tests.
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line - 1).copied().unwrap_or(false)
    }

    /// The line (from 1) of an offset in `code`.
    pub fn line_of(&self, offset: usize) -> usize {
        self.code[..offset].bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    /// Code lines with their numbers (from 1).
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// True if a comment on this line, or on one of the `above` lines before it, contains `words`.
    pub fn excused(&self, line: usize, above: usize, words: &str) -> bool {
        let last = line.min(self.comments.len());
        let first = line.saturating_sub(above + 1);
        self.comments[first..last].iter().any(|comment| comment.contains(words))
    }
}
