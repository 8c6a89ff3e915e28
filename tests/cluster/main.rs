//! Whole clusters without faults: they form, serve, grow, restart, and refuse what is wrong.

mod forms;
mod growth;
mod input;
mod once;
mod refusals;
mod settings;
