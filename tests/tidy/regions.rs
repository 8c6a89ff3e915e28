//! Which part of a file is what. Owns: finding functions, and code that exists only in tests. Must
//! not know: the rules.

use crate::lexer::is_word;
use crate::source::Source;

/// A function's name and its lines (from 1), first and last included.
pub struct Function {
    pub name: String,
    pub first: usize,
    pub last: usize,
}

/// Files that only tests use, by where they lie.
pub fn is_test_path(path: &str) -> bool {
    let mut parts: Vec<&str> = path.split('/').collect();
    let file = parts.pop().unwrap_or_default();
    file == "tests.rs" || parts.iter().any(|part| matches!(*part, "tests" | "benches"))
}

/// Lines (index 0 is line 1) inside items marked `#[cfg(test)]` or `#[test]`.
pub fn test_lines(source: &Source) -> Vec<bool> {
    let mut lines = vec![false; source.line_count()];
    for (start, after) in test_attributes(&source.code) {
        let end = item_end(&source.code, after);
        let (first, last) = (source.line_of(start), source.line_of(end));
        lines[first - 1..last.min(source.line_count())].fill(true);
    }
    lines
}

/// The modules that a file declares for tests only, as paths without `.rs`.
pub fn test_modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let own_folder = match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        file => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    let declared = test_attributes(&source.code).into_iter().filter_map(|(_, after)| {
        let item = &source.code[after..=item_end(&source.code, after)];
        let name = item.trim().strip_suffix(';')?.rsplit_once("mod ")?.1.trim();
        Some(format!("{own_folder}/{name}"))
    });
    declared.collect()
}

/// Start and end of each attribute that makes an item a test's.
fn test_attributes(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("#[") {
        let Some(end) = matching(code, start + 1, '[', ']') else { continue };
        let inside: String = code[start + 2..end].split_whitespace().collect();
        let condition = inside.starts_with("cfg(") && !inside.contains("not(test");
        let words: Vec<&str> = inside.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let is_test = inside == "test" || inside.starts_with("tokio::test");
        if is_test || (condition && words.contains(&"test")) {
            found.push((start, end + 1));
        }
    }
    found
}

/// The end of the item that begins at `from`: its closing brace, or the `;` before any brace.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, character) in code[from..].char_indices() {
        match character {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return from + at,
            '{' if depth == 0 => {
                return matching(code, from + at, '{', '}').unwrap_or(code.len() - 1);
            }
            _ => {}
        }
    }
    code.len().saturating_sub(1)
}

/// Where the bracket opened at `from` is closed.
fn matching(code: &str, from: usize, open: char, close: char) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, character) in code[from..].char_indices() {
        if character == open {
            depth += 1;
        } else if character == close {
            depth -= 1;
            if depth == 0 {
                return Some(from + at);
            }
        }
    }
    None
}

/// Every function that has a body.
pub fn functions(source: &Source) -> Vec<Function> {
    let code = &source.code;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && is_word(code.as_bytes()[at - 1]) {
            continue;
        }
        let name: String = code[at + 3..]
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let end = item_end(code, at);
        if name.is_empty() || code.as_bytes().get(end) != Some(&b'}') {
            continue;
        }
        found.push(Function { name, first: source.line_of(at), last: source.line_of(end) });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str =
        "fn real() {\n}\n#[cfg(test)]\nmod tests {\n    fn helper() {}\n}\nfn more() {\n}\n";

    #[test]
    fn test_modules_are_told_from_the_rest() {
        let source = Source::new("a/src/b.rs", MIXED);
        let lines: Vec<bool> = (1..=8).map(|line| source.is_test(line)).collect();
        assert_eq!(lines, [false, false, true, true, true, true, false, false]);
    }

    #[test]
    fn the_rest_of_a_negated_condition_is_no_test() {
        let source = Source::new("a/src/b.rs", "#[cfg(not(test))]\nfn f() {\n}\n");
        assert!(!source.is_test(2));
        let source = Source::new("a/src/b.rs", "#[cfg(any(test, feature = \"x\"))]\nfn f() {\n}\n");
        assert!(source.is_test(3));
        let source =
            Source::new("a/src/b.rs", "#[tokio::test(flavor = \"x\")]\nasync fn f() {\n}\n");
        assert!(source.is_test(3));
    }

    #[test]
    fn a_module_in_its_own_file_is_a_test_if_declared_so() {
        let text = "#[cfg(test)]\nmod faults;\n#[cfg(test)]\npub(crate) mod model;\nmod real;\n";
        let source = Source::new("a/src/core.rs", text);
        assert_eq!(test_modules(&source), ["a/src/core/faults", "a/src/core/model"]);
        let source = Source::new("a/src/core/mod.rs", text);
        assert_eq!(test_modules(&source), ["a/src/core/faults", "a/src/core/model"]);
    }

    #[test]
    fn functions_are_measured_from_name_to_brace() {
        let text = "trait T {\n fn none(&self);\n}\npub async fn one<F: Fn() -> u8>(\n a: [u8; 2],\n) {\n if a { x }\n}\ntype F = fn (u8);\n";
        let source = Source::new("x.rs", text);
        let found = functions(&source);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].first, found[0].last), ("one", 4, 8));
    }
}
