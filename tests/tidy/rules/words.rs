//! Words that must not be in the project: unfinished work, unchecked results, and names of places
//! outside it. Owns: the lists. Must not know: what surrounds the words.

use super::{Finding, has_word};
use crate::repository::Text;
use crate::source::Source;

/// Macros that stand for work not done, or for debugging.
const MACROS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];
/// Marks of work not done. Written in two halves, so that this file may be checked too.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Hosts of package registries and folders of one person's machine: a clone must not depend on
/// them. In two halves for the same reason.
const PLACES: [&str; 10] = [
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("proxy.", "golang.org"),
    concat!("registry.", "npmjs.org"),
    concat!("pypi", ".org"),
    concat!("deb.", "debian.org"),
    concat!("archive.", "ubuntu.com"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];
/// Written by tools, not by people.
const GENERATED: [&str; 1] = ["Cargo.lock"];

/// Rust code: unfinished work, ignored tests, and results unwrapped without a reason.
pub fn check_code(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |line: usize, what: String| {
        findings.push(Finding::new(&source.path, line, what));
    };
    for (line, code) in source.code_lines() {
        for name in MACROS {
            let macro_name = name.trim_end_matches('!');
            if code.contains(name) && has_word(code, macro_name) {
                found(line, format!("{name} in the code: finish the work"));
            }
        }
        if code.contains("#[ignore") {
            found(line, "an ignored test: mend it or remove it".to_owned());
        }
        if code.contains(".unwrap()") && !source.is_test(line) {
            found(
                line,
                "unwrap() outside tests: handle it, or expect(\"why this holds\")".to_owned(),
            );
        }
        if code.contains("allow(dead_code)") {
            found(line, "allow(dead_code): remove what is not used".to_owned());
        }
    }
    findings
}

/// Any text: marks of unfinished work, and places outside the project.
pub fn check_text(text: &Text) -> Vec<Finding> {
    if GENERATED.contains(&text.path.as_str()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.content.lines().enumerate() {
        let mut found = |what: String| {
            findings.push(Finding::new(&text.path, index + 1, what));
        };
        for mark in MARKS.iter().filter(|mark| has_word(line, mark)) {
            found(format!("{mark}: finish the work, or open an issue"));
        }
        for place in PLACES.iter().filter(|place| line.contains(*place)) {
            found(format!("{place} is a place outside the project: do not name it"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_code(path: &str, text: &str) -> usize {
        check_code(&Source::new(path, text)).len()
    }

    #[test]
    fn unfinished_code_is_found() {
        for text in ["todo!()", "unimplemented!(\"x\")", "let y = dbg!(x);", "#[allow(dead_code)]"]
        {
            assert_eq!(in_code("a/src/b.rs", text), 1, "{text}");
        }
        assert_eq!(in_code("a/src/b.rs", "my_todo!(); \"todo!()\" // dbg!(x)"), 0);
    }

    #[test]
    fn an_ignored_test_is_found() {
        assert_eq!(in_code("tests/b.rs", "#[test]\n#[ignore]\nfn f() {}"), 1);
        assert_eq!(in_code("tests/b.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}"), 1);
    }

    #[test]
    fn an_unwrap_is_found_outside_tests_only() {
        let text = "fn f() { x.unwrap(); }\n#[cfg(test)]\nmod tests { fn g() { x.unwrap(); } }\n";
        assert_eq!(in_code("a/src/b.rs", text), 1);
        assert_eq!(in_code("tests/b.rs", text), 0);
        assert_eq!(in_code("a/src/b.rs", "x.unwrap_or(1); // x.unwrap()"), 0);
    }

    fn in_text(content: String) -> usize {
        check_text(&Text { path: "docs/a.md".to_owned(), content }).len()
    }

    #[test]
    fn marks_and_places_are_found_in_any_text() {
        for mark in MARKS {
            assert_eq!(in_text(format!("# {mark}: later")), 1, "{mark}");
            assert_eq!(in_text(format!("{mark}{mark}")), 0, "{mark}");
        }
        for place in PLACES {
            assert_eq!(in_text(format!("see {place}x")), 1, "{place}");
        }
    }
}
