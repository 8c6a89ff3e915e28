//! Tests wait on conditions, not on time. Owns: finding sleeps in tests. Must not know: what is
//! waited for.

use super::Finding;
use crate::source::Source;

/// In a comment on the same line or just above, with the reason.
const EXCUSE: &str = "tidy: ";
const EXCUSE_LINES_ABOVE: usize = 3;
const SLEEPS: [&str; 3] = ["thread::sleep", "time::sleep", "sleep_until("];

pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, code) in source.code_lines() {
        let sleeps = SLEEPS.iter().any(|sleep| code.contains(sleep)) || calls_bare_sleep(code);
        let import = code.trim_start().starts_with("use ");
        if sleeps
            && !import
            && source.is_test(line)
            && !source.excused(line, EXCUSE_LINES_ABOVE, EXCUSE)
        {
            let what =
                "a sleep in a test: wait on a condition with a limit, or say why: // tidy: …";
            findings.push(Finding::new(&source.path, line, what));
        }
    }
    findings
}

/// `sleep(…)` as imported by `use tokio::time::sleep`.
fn calls_bare_sleep(code: &str) -> bool {
    let called = |(at, _): (usize, &str)| {
        let before = &code[..at];
        !before.ends_with("fn ") && !before.bytes().last().is_some_and(crate::lexer::is_word)
    };
    code.match_indices("sleep(").any(called)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_in_a_test_is_found() {
        for call in ["std::thread::sleep(x);", "tokio::time::sleep(x).await;", "sleep(x).await;"] {
            let text = format!("fn f() {{\n    {call}\n}}\n");
            assert_eq!(check(&Source::new("tests/cluster/a.rs", &text)).len(), 1, "{call}");
            assert!(check(&Source::new("gateway/src/a.rs", &text)).is_empty(), "{call}");
            let unit = format!("#[cfg(test)]\nmod tests {{\n    {call}\n}}\n");
            assert_eq!(check(&Source::new("gateway/src/a.rs", &unit)).len(), 1, "{call}");
        }
    }

    #[test]
    fn a_reason_excuses_a_sleep() {
        let text = "// tidy: the pause between two looks at a condition\nsleep(x);\n";
        assert!(check(&Source::new("tests/a.rs", text)).is_empty());
    }

    #[test]
    fn other_words_are_no_sleep() {
        let text = "use tokio::time::sleep;\nfn sleep(x: u8) {}\nasleep(x);\n";
        assert!(check(&Source::new("tests/a.rs", text)).is_empty());
    }
}
