//! Words for people. Owns: turning any error text into one line. Must not know: what went wrong.

/// The text on one line: line breaks and runs of blanks become one blank.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error and everything beneath it, on one line, a cause whose text is already there left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = one_line(&error.to_string());
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = one_line(&cause.to_string());
        if !line.contains(&cause_text) {
            line.push_str(": ");
            line.push_str(&cause_text);
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer\n  text")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn many_lines_become_one() {
        assert_eq!(one_line("a\n  b\t c\n"), "a b c");
    }

    #[test]
    fn causes_follow_on_the_same_line() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer text: inner");
    }
}
