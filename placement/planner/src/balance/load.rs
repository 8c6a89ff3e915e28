//! Spreads hot leaderships, without making the numbers of leaderships uneven.

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

pub(super) fn balance(planning: &mut Planning<'_>) {
    let leaders = || planning.cluster.nodes.iter().filter(|node| node.may_lead());
    let counts = Even::of(leaders().map(|node| node.leaders as u64));
    let load = Even::of(leaders().map(|node| node.requests));
    let mean = load.total / load.nodes.max(1);
    let hot = mean.max(REQUESTS_MIN).saturating_mul(HOT_PERCENT) / 100;
    if !leaders().any(|node| node.requests > hot) {
        return;
    }
    let mut led = led_ranges(planning);
    let nodes = &planning.cluster.nodes;
    let mut sources: Vec<_> = (0..led.len()).filter(|node| nodes[*node].requests > hot).collect();
    sources.sort_unstable_by_key(|node| (Reverse(nodes[*node].requests), nodes[*node].mixed));
    for from in sources {
        let mut ranges = std::mem::take(&mut led[from]);
        ranges.sort_unstable_by_key(|index| (Reverse(planning.range(*index).requests()), *index));
        let mut moved = 0;
        for index in ranges {
            let requests = planning.cluster.nodes[from].requests;
            if moved >= TRANSFERS_PER_NODE_MAX || requests <= hot {
                break;
            }
            let gain = mean.max(REQUESTS_MIN).saturating_mul(GAIN_PERCENT) / 100;
            if let Some(to) = target(planning, index, from, counts, gain) {
                let why =
                    format!("its node serves {requests} requests a second, the mean is {mean}");
                planning.ask_transfer(index, to, why);
                moved += 1;
            }
        }
    }
}

fn target(
    planning: &Planning<'_>,
    index: usize,
    from: usize,
    counts: Even,
    gain: u64,
) -> Option<Replica> {
    let requests = planning.range(index).requests();
    let source = &planning.cluster.nodes[from];
    if counts.is_under(source.leaders.saturating_sub(1)) {
        return None;
    }
    followers(planning, index)
        .into_iter()
        .map(|(voter, node)| (voter, &planning.cluster.nodes[node]))
        .filter(|(_, node)| {
            let hotter = (source.requests.saturating_sub(requests)).max(node.requests + requests);
            hotter + gain <= source.requests && !counts.is_over(node.leaders + 1)
        })
        .min_by_key(|(_, node)| (node.requests, node.leaders, node.mixed))
        .map(|(voter, _)| voter)
}
