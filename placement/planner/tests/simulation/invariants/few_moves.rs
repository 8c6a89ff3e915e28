//! A scale-out makes at most 1.3 times the copies that an even spread needs.

use super::Verdict;
use crate::world::World;

pub fn check(world: &World, copies: usize, needed: usize) -> Verdict {
    if copies * 10 <= needed * 13 {
        return Ok(());
    }
    Err(format!("{copies} copies where {needed} are needed, {} ranges", world.ranges.len()))
}
