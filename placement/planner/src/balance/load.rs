//! Spreads hot leaderships, without making the numbers of leaderships uneven: where one more would,
//! a cold one comes back for it.

use super::leaders::{followers, led_ranges};
use super::{Even, TRANSFERS_PER_NODE_MAX};
use crate::planning::Planning;
use rangedb_types::Replica;
use std::cmp::Reverse;

/// Below this many requests a second a node a spread is not worth a transfer.
const REQUESTS_MIN: u64 = 200;
/// A node is hot when it has this much of the mean load.
const HOT_PERCENT: u64 = 125;
/// A transfer must bring the hotter of the two nodes down by this much of the mean, or it is not
/// worth its pause: measured loads are never still.
const GAIN_PERCENT: u64 = 10;
/// Most ranges of a node that are looked at for one to come back.
const COLD_MAX: usize = 64;

struct Spreading<'a, 'p> {
    planning: &'p mut Planning<'a>,
    counts: Even,
    mean: u64,
    hot: u64,
    gain: u64,
    /// Ranges by the index of the node that leads them, the hottest first.
    led: Vec<Vec<usize>>,
}

/// A hot range's new leader, and the cold range that comes back for it, if one must.
struct Exchange {
    to: Replica,
    back: Option<(usize, Replica)>,
}

pub(super) fn balance(planning: &mut Planning<'_>) {
    let leaders = || planning.cluster.nodes.iter().filter(|node| node.may_lead());
    let counts = Even::of(leaders().map(|node| node.leaders as u64));
    let load = Even::of(leaders().map(|node| node.requests));
    let mean = load.total / load.nodes.max(1);
    let base = mean.max(REQUESTS_MIN);
    let hot = base.saturating_mul(HOT_PERCENT) / 100;
    if !leaders().any(|node| node.requests > hot) {
        return;
    }
    let gain = base.saturating_mul(GAIN_PERCENT) / 100;
    let mut led = led_ranges(planning);
    for ranges in &mut led {
        ranges.sort_by_cached_key(|index| (Reverse(planning.range(*index).requests()), *index));
    }
    Spreading { planning, counts, mean, hot, gain, led }.spread();
}

impl Spreading<'_, '_> {
    fn spread(&mut self) {
        let nodes = &self.planning.cluster.nodes;
        let mut sources: Vec<_> =
            (0..nodes.len()).filter(|node| nodes[*node].requests > self.hot).collect();
        sources.sort_unstable_by_key(|node| (Reverse(nodes[*node].requests), nodes[*node].mixed));
        for from in sources {
            let mut moved = 0;
            for position in 0..self.led[from].len() {
                let requests = self.planning.cluster.nodes[from].requests;
                if moved >= TRANSFERS_PER_NODE_MAX || requests <= self.hot {
                    break;
                }
                let index = self.led[from][position];
                let Some(exchange) = self.exchange(index, from) else { continue };
                let mean = self.mean;
                let why =
                    format!("its node serves {requests} requests a second, the mean is {mean}");
                self.planning.ask_transfer(index, exchange.to, why);
                if let Some((cold, to)) = exchange.back {
                    let why = "a hot range goes the other way".to_owned();
                    self.planning.ask_transfer(cold, to, why);
                }
                moved += 1;
            }
        }
    }

    /// The coolest node that can take the lead of a range with a gain.
    fn exchange(&self, index: usize, from: usize) -> Option<Exchange> {
        let nodes = &self.planning.cluster.nodes;
        let mut targets = followers(self.planning, index);
        targets.sort_unstable_by_key(|(_, node)| (nodes[*node].requests, nodes[*node].mixed));
        targets.into_iter().find_map(|(to, node)| {
            if !self.gains(index, None, from, node) {
                return None;
            }
            let stays_even = !self.counts.is_under(nodes[from].leaders.saturating_sub(1))
                && !self.counts.is_over(nodes[node].leaders + 1);
            if stays_even {
                return Some(Exchange { to, back: None });
            }
            let back = self.cold(index, from, node)?;
            Some(Exchange { to, back: Some(back) })
        })
    }

    fn gains(&self, hot: usize, cold: Option<usize>, from: usize, to: usize) -> bool {
        let requests = |index: usize| self.planning.range(index).requests();
        let (goes, comes) = (requests(hot), cold.map_or(0, requests));
        let nodes = &self.planning.cluster.nodes;
        let (from, to) = (nodes[from].requests, nodes[to].requests);
        let hotter = (from.saturating_sub(goes) + comes).max(to.saturating_sub(comes) + goes);
        hotter.saturating_add(self.gain) <= from
    }

    /// A range that the cooler node leads and the hotter one could, so that the exchange gains.
    fn cold(&self, hot: usize, from: usize, to: usize) -> Option<(usize, Replica)> {
        self.led[to].iter().rev().take(COLD_MAX).find_map(|index| {
            if *index == hot || !self.gains(hot, Some(*index), from, to) {
                return None;
            }
            let follower =
                followers(self.planning, *index).into_iter().find(|(_, node)| *node == from)?;
            Some((*index, follower.0))
        })
    }
}
