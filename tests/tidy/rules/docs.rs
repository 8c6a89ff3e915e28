//! A file opens with what it owns, but for unit tests in their own file, which belong to the module
//! above them. Owns: the check that there is a module comment. Must not know: whether it is true.

use super::Finding;
use crate::source::Source;

pub fn check_module(source: &Source) -> Vec<Finding> {
    let unit_tests = source.path.ends_with("/tests.rs");
    if unit_tests || source.first_line.trim_start().starts_with("//!") {
        return Vec::new();
    }
    let what = "no module comment: begin the file with //! what it owns and what it must not know";
    vec![Finding::new(&source.path, 1, what)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_module_comment_is_found() {
        assert!(check_module(&Source::new("a.rs", "\n//! Owns x.\nuse y;\n")).is_empty());
        assert_eq!(check_module(&Source::new("a.rs", "use y;\n//! late\n")).len(), 1);
        assert_eq!(check_module(&Source::new("a.rs", "// no doc\n")).len(), 1);
        assert_eq!(check_module(&Source::new("a.rs", "")).len(), 1);
        assert!(check_module(&Source::new("a/tests.rs", "use super::*;\n")).is_empty());
    }
}
