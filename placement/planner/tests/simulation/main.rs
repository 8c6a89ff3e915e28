//! The planner against a simulated cluster, seeded: a failure names its seed, `RANGEDB_SIM_SEED`
//! replays it, `RANGEDB_SIM_SEEDS` says how many there are, `RANGEDB_SIM_TRACE` prints every plan.

mod carry_out;
mod invariants;
mod large;
mod sabotage;
mod scale;
mod storms;
mod weather;
mod world;

const SEEDS: u64 = 20;

/// Runs a simulation for every seed.
fn for_seeds(run: impl Fn(u64)) {
    let number = |name: &str| {
        std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number is expected"))
    };
    if let Some(seed) = number("RANGEDB_SIM_SEED") {
        return run(seed);
    }
    for seed in 0..number("RANGEDB_SIM_SEEDS").unwrap_or(SEEDS) {
        println!("RANGEDB_SIM_SEED={seed}");
        run(seed);
    }
}
