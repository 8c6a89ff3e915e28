//! What must hold at every step of a simulation of many ranges, one rule a file.
//!
//! A rule sees nodes only as others could: by what lies on their disks, what their replicas say they
//! are, and what they answer.

pub mod log_matching;
pub mod no_gap;
pub mod no_overlap;
pub mod no_return;
pub mod one_leader;
pub mod one_lease;
pub mod registers;
pub mod same_state;

/// A rule that was broken, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: &'static str,
    pub text: String,
}

impl Violation {
    /// For `map_err`.
    pub fn of(rule: &'static str) -> impl Fn(String) -> Self {
        move |text| Self { rule, text }
    }
}
