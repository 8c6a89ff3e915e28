//! What must hold, each in its own file. All return what is wrong, so that a test can see that they
//! notice.

pub mod disks;
pub mod even;
pub mod few_moves;
pub mod last_good_replica;
pub mod majority_kept;
pub mod one_per_node;
pub mod sound_plans;
pub mod still;
pub mod zones;

use crate::world::World;

pub type Verdict = Result<(), String>;

/// What must hold at any time.
pub fn always(world: &World) -> Verdict {
    if let Some(unsound) = &world.unsound {
        return Err(format!("unsound plan: {unsound}"));
    }
    one_per_node::check(world)?;
    last_good_replica::check(world)?;
    majority_kept::check(world)
}
