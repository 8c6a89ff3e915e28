//! Every dependency has a reason in writing. Owns: comparing the manifests with the page. Must not
//! know: whether the reason is good.

use super::Finding;
use crate::repository::Text;

pub const PAGE: &str = "docs/dependencies.md";

/// Root manifest against the page: a table row for each dependency, and no row for what is gone.
pub fn check_page(manifest: &str, page: &str) -> Vec<Finding> {
    let rows = rows(page);
    let mut findings = Vec::new();
    let declared = workspace_dependencies(manifest);
    for (line, name) in &declared {
        if !rows.iter().any(|(_, row, _)| row == name) {
            let what = format!("{name} has no row in {PAGE}: say why it is needed");
            findings.push(Finding::new("Cargo.toml", *line, what));
        }
    }
    for (line, row, reason) in &rows {
        if !declared.iter().any(|(_, name)| name == row) {
            let what = format!("{row} is no dependency of the workspace: remove its row");
            findings.push(Finding::new(PAGE, *line, what));
        } else if reason.split_whitespace().count() < 3 {
            let what = format!("{row} has no reason: say in a few words why it is needed");
            findings.push(Finding::new(PAGE, *line, what));
        }
    }
    findings
}

/// A member takes every dependency from the workspace, so that none escapes the page.
pub fn check_member(manifest: &Text) -> Vec<Finding> {
    if manifest.path == "Cargo.toml" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut inside = false;
    for (index, line) in manifest.content.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
            continue;
        }
        let entry = inside && line.contains('=') && !line.starts_with('#');
        let shared = line.replace(' ', "").contains("workspace=true");
        if entry && !shared {
            let what =
                "a dependency of its own: declare it in the workspace, then workspace = true";
            findings.push(Finding::new(&manifest.path, index + 1, what));
        }
    }
    findings
}

/// Line and name of each dependency that is not ours.
fn workspace_dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == "[workspace.dependencies]";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside) {
            let ours = value.replace(' ', "").contains("path=");
            if !ours && !line.starts_with('#') && !line.starts_with(char::is_whitespace) {
                found.push((index + 1, name.trim().to_owned()));
            }
        }
    }
    found
}

/// Table rows: line, name, reason (the rest of the row).
fn rows(page: &str) -> Vec<(usize, String, String)> {
    let row = |(index, line): (usize, &str)| {
        let (name, reason) = line.strip_prefix("| `")?.split_once("` |")?;
        Some((index + 1, name.to_owned(), reason.replace('|', " ")))
    };
    page.lines().enumerate().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[workspace.dependencies]\nours = { path = \"x\" }\n# Theirs\nserde = \"1\"\nraft = { version = \"1\" }\n[profile.dev]\ndebug = 1\n";

    #[test]
    fn a_dependency_without_row_is_found() {
        let page = "| crate | why |\n| `serde` | settings and JSON output |\n";
        let found = check_page(MANIFEST, page);
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().starts_with("Cargo.toml:5: raft"), "{}", found[0]);
    }

    #[test]
    fn a_row_without_dependency_or_reason_is_found() {
        let page =
            "| `serde` | |\n| `raft` | consensus of each range |\n| `gone` | it was of use |\n";
        let found: Vec<String> =
            check_page(MANIFEST, page).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("no reason") && found[1].contains("gone"), "{found:?}");
    }

    #[test]
    fn a_members_own_dependency_is_found() {
        let content = "[package]\nname = \"a\"\n[dependencies]\nserde.workspace = true\nx = { workspace = true }\ny = \"1\"\n[dev-dependencies]\nz = \"2\"\n";
        let text = Text { path: "a/Cargo.toml".to_owned(), content: content.to_owned() };
        let lines: Vec<usize> = check_member(&text).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [6, 8]);
    }
}
