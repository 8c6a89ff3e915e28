//! The rules bite: a safeguard is taken out, and a run must notice.
