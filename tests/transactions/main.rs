//! Transactions on clusters of real processes, while these are killed and their ranges change.

mod anomalies;
mod bank;
mod chaos;
mod levels;
mod refusals;
mod waiting;
