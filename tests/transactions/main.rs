//! Transactions on clusters of real processes, while these are killed and their ranges change.

mod abandoned;
mod anomalies;
mod bank;
mod chaos;
mod conditional;
mod detector;
mod figures;
mod holds;
mod levels;
mod locked;
mod pessimistic;
mod program;
mod refusals;
mod spread;
mod waiting;
