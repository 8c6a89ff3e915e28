//! Tells code, comments and literals of Rust apart. Owns: just enough of the language's lexical
//! structure (The Rust Reference, "Lexical structure") for the rules. Must not know: the rules.

use crate::source::Literal;

pub struct Lexed {
    pub code: String,
    pub comments: Vec<String>,
    pub literals: Vec<Literal>,
}

pub fn lex(content: &str) -> Lexed {
    let mut lexer = Lexer {
        bytes: content.as_bytes(),
        content,
        at: 0,
        line: 1,
        code: Vec::with_capacity(content.len()),
        comments: vec![String::new(); content.lines().count()],
        literals: Vec::new(),
    };
    while lexer.at < lexer.bytes.len() {
        lexer.step();
    }
    Lexed {
        code: String::from_utf8(lexer.code).expect("whole characters are kept or blanked"),
        comments: lexer.comments,
        literals: lexer.literals,
    }
}

struct Lexer<'a> {
    bytes: &'a [u8],
    content: &'a str,
    at: usize,
    line: usize,
    /// Invariant: as long as what was read.
    code: Vec<u8>,
    comments: Vec<String>,
    literals: Vec<Literal>,
}

impl Lexer<'_> {
    fn step(&mut self) {
        let rest = &self.bytes[self.at..];
        let word_before = self.at > 0 && is_word(self.bytes[self.at - 1]);
        if rest.starts_with(b"//") {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            self.comment(end);
        } else if rest.starts_with(b"/*") {
            self.comment(block_comment_length(rest));
        } else if let Some((prefix, hashes)) = raw_string_start(rest).filter(|_| !word_before) {
            let body = prefix + hashes + 1;
            let close = format!("\"{}", "#".repeat(hashes));
            let length = find(&rest[body..], close.as_bytes()).unwrap_or(rest.len() - body);
            self.literal(body, length, close.len());
        } else if rest[0] == b'"' {
            let length = string_length(&rest[1..]);
            self.literal(1, length, 1);
        } else if rest[0] == b'\'' {
            let length = character_length(rest);
            self.keep(1);
            self.blank(length);
        } else {
            self.keep(1);
        }
    }

    fn keep(&mut self, count: usize) {
        for _ in 0..count.min(self.bytes.len() - self.at) {
            let byte = self.bytes[self.at];
            self.line += usize::from(byte == b'\n');
            self.code.push(byte);
            self.at += 1;
        }
    }

    /// Blanks bytes, whole characters at a time, but keeps line breaks.
    fn blank(&mut self, count: usize) {
        for _ in 0..count.min(self.bytes.len() - self.at) {
            let byte = self.bytes[self.at];
            self.line += usize::from(byte == b'\n');
            self.code.push(if byte == b'\n' { b'\n' } else { b' ' });
            self.at += 1;
        }
    }

    fn comment(&mut self, length: usize) {
        let text = &self.content[self.at..self.at + length];
        for (index, line) in text.lines().enumerate() {
            let slot = &mut self.comments[self.line - 1 + index];
            slot.push_str(line);
        }
        self.blank(length);
    }

    fn literal(&mut self, before: usize, length: usize, after: usize) {
        self.literals.push(Literal {
            line: self.line,
            offset: self.at,
            text: self.content[self.at + before..self.at + before + length].to_owned(),
        });
        self.keep(before);
        self.blank(length);
        self.keep(after);
    }
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// For `r"`, `br##"`, `cr"` …: bytes before the hashes, and the number of hashes.
fn raw_string_start(rest: &[u8]) -> Option<(usize, usize)> {
    let prefix = if rest.starts_with(b"r") {
        1
    } else if rest.starts_with(b"br") || rest.starts_with(b"cr") {
        2
    } else {
        return None;
    };
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    (rest.get(prefix + hashes) == Some(&b'"')).then_some((prefix, hashes))
}

/// Bytes up to the closing quotation mark.
fn string_length(body: &[u8]) -> usize {
    let mut at = 0;
    while at < body.len() && body[at] != b'"' {
        at += if body[at] == b'\\' { 2 } else { 1 };
    }
    at.min(body.len())
}

/// Bytes of a character literal after its first mark; 0 for a lifetime or label.
fn character_length(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|byte| *byte == b'\'');
        return close.map_or(0, |at| at + 3);
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(6)]);
    let valid = match text {
        Ok(text) => text,
        // Cut in the middle of the next character: what is whole before it is enough.
        Err(error) => std::str::from_utf8(&rest[1..=error.valid_up_to()]).unwrap_or_default(),
    };
    let length = valid.chars().next().map_or(0, char::len_utf8);
    if length > 0 && rest.get(1 + length) == Some(&b'\'') { length + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_leave_the_code() {
        let lexed = lex("a(); // one\n/* two\n/* three */ */ b();\n");
        assert_eq!(lexed.code.split_whitespace().collect::<Vec<_>>(), ["a();", "b();"]);
        assert_eq!(lexed.comments, ["// one", "/* two", "/* three */ */"]);
        assert_eq!(lexed.code.lines().count(), 3);
    }

    #[test]
    fn literals_leave_the_code_and_are_kept() {
        let lexed =
            lex(r####"f("x // \" y", r#"raw " one"#, b"bytes", '"', '\'', 'é', br"z");"####);
        let texts: Vec<_> = lexed.literals.iter().map(|literal| literal.text.as_str()).collect();
        assert_eq!(texts, [r#"x // \" y"#, r#"raw " one"#, "bytes", "z"]);
        assert!(lexed.comments[0].is_empty());
        assert!(!lexed.code.contains("raw") && lexed.code.ends_with(");"));
    }

    #[test]
    fn lifetimes_are_not_characters() {
        let lexed = lex("fn f<'a>(x: &'a str) -> &'static str { \"t\" }");
        assert!(lexed.code.contains("fn f<'a>(x: &'a str) -> &'static str {"));
        assert_eq!(lexed.literals.len(), 1);
    }

    #[test]
    fn names_that_end_in_r_do_not_open_raw_strings() {
        let lexed = lex("attr\"x\" ; for\"y\"");
        assert_eq!(lexed.literals.len(), 2);
    }
}
