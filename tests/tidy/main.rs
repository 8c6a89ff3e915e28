//! House rules that neither the compiler nor the linter knows, checked over every file of the
//! repository.
//!
//! Owns: the rules and where they apply. Must not know: what the code does. Invariants: a rule
//! names file and line of everything it finds, says what to do, and has a test that shows it bites.
//! It uses the standard library only, reads the repository and writes nothing.

mod lexer;
mod regions;
mod repository;
mod rules;
mod source;

use repository::Repository;
use rules::Finding;

/// Fails with one line for each finding.
fn report(findings: Vec<Finding>) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} findings\n{}", lines.len(), lines.join("\n"));
}

fn every_source(check: impl Fn(&source::Source) -> Vec<Finding>) {
    let repository = Repository::open();
    assert!(repository.sources().len() > 20, "the sources were not found");
    report(repository.sources().iter().flat_map(check).collect());
}

#[test]
fn files_and_functions_are_short() {
    every_source(rules::size::check);
}

#[test]
fn modules_open_with_what_they_own() {
    every_source(rules::docs::check_module);
}

#[test]
fn nothing_is_left_unfinished_or_unchecked() {
    every_source(rules::words::check_code);
}

#[test]
fn tests_do_not_sleep() {
    every_source(rules::sleeps::check);
}

#[test]
fn metric_names_tell_component_thing_and_unit() {
    every_source(rules::metrics::check);
}

#[test]
fn modules_keep_to_their_side_of_the_borders() {
    every_source(rules::borders::check_source);
}

#[test]
fn crates_keep_to_their_side_of_the_borders() {
    let repository = Repository::open();
    let manifests = repository.texts_named("Cargo.toml");
    assert!(manifests.len() > 5, "the manifests were not found");
    report(manifests.iter().flat_map(rules::borders::check_manifest).collect());
}

#[test]
fn no_file_speaks_of_what_is_not_the_project() {
    let repository = Repository::open();
    report(repository.texts().iter().flat_map(rules::words::check_text).collect());
}

#[test]
fn every_dependency_is_justified() {
    let repository = Repository::open();
    let manifest = repository.text("Cargo.toml");
    let page = repository.text(rules::dependencies::PAGE);
    let mut findings = rules::dependencies::check_page(&manifest, &page);
    for member in repository.texts_named("Cargo.toml") {
        findings.extend(rules::dependencies::check_member(&member));
    }
    report(findings);
}
