//! Files of at most 600 lines, functions of at most 70. Owns: the limits and the written excuse.
//! Must not know: what is long.

use super::Finding;
use crate::regions;
use crate::source::Source;

pub const FILE_LINES_MAX: usize = 600;
pub const FUNCTION_LINES_MAX: usize = 70;
/// In a comment inside a function or just above it, with the reason.
pub const EXCUSE: &str = "tidy: long because ";
/// How far above a function its excuse may stand: above its doc comment, too.
const EXCUSE_LINES_ABOVE: usize = 6;

pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.line_count() > FILE_LINES_MAX {
        let what =
            format!("{} lines, more than {FILE_LINES_MAX}: split the file", source.line_count());
        findings.push(Finding::new(&source.path, 1, what));
    }
    for function in regions::functions(source) {
        let lines = function.last - function.first + 1;
        let above = EXCUSE_LINES_ABOVE + lines - 1;
        if lines > FUNCTION_LINES_MAX && !source.excused(function.last, above, EXCUSE) {
            let what = format!(
                "fn {} has {lines} lines, more than {FUNCTION_LINES_MAX}: split it, or say why: // {EXCUSE}…",
                function.name
            );
            findings.push(Finding::new(&source.path, function.first, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    x();\n".repeat(lines - 2))
    }

    #[test]
    fn a_long_file_is_found() {
        let file = |lines| Source::new("a.rs", &"//! x\n".repeat(lines));
        assert!(check(&file(FILE_LINES_MAX)).is_empty());
        assert_eq!(check(&file(FILE_LINES_MAX + 1)).len(), 1);
    }

    #[test]
    fn a_long_function_is_found() {
        assert!(check(&Source::new("a.rs", &function_of(FUNCTION_LINES_MAX))).is_empty());
        let found = check(&Source::new("a.rs", &function_of(FUNCTION_LINES_MAX + 1)));
        assert!(found[0].what.contains("fn long has 71 lines"), "{}", found[0]);
    }

    #[test]
    fn a_reason_excuses_a_long_function() {
        let excuse = format!("// {EXCUSE}it is one table\n");
        let text = excuse.clone() + &function_of(FUNCTION_LINES_MAX + 1);
        assert!(check(&Source::new("a.rs", &text)).is_empty());
        // One far above belongs to something else.
        let text = excuse + &"\n".repeat(20) + &function_of(FUNCTION_LINES_MAX + 1);
        assert_eq!(check(&Source::new("a.rs", &text)).len(), 1);
    }
}
