use super::*;
use std::time::Duration;

fn key(key: &str) -> Scope {
    Scope::Key(Bytes::copy_from_slice(key.as_bytes()))
}

fn span(start: &str, end: &str) -> Scope {
    Scope::Span(Span { start: start.into(), end: end.into() })
}

fn exclusive(latches: &Latches, scope: Scope) -> Result<Latch, LatchError> {
    latches.enqueue(scope, Mode::Exclusive)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test]
async fn a_key_is_had_by_one_at_a_time_in_order() {
    let latches = Latches::default();
    let first = exclusive(&latches, key("a")).unwrap();
    let mut second = exclusive(&latches, key("a")).unwrap();
    let mut third = exclusive(&latches, key("a")).unwrap();
    assert!(first.is_held() && !second.is_held() && !third.is_held());
    assert!(exclusive(&latches, key("b")).unwrap().is_held());
    drop(first);
    second.wait(soon()).await.unwrap();
    assert_eq!(third.wait(Instant::now()).await, Err(LatchError::Deadline));
    drop(second);
    third.wait(soon()).await.unwrap();
    drop(third);
    assert!(latches.is_empty());
}

#[tokio::test]
async fn a_span_waits_for_its_keys_and_later_keys_wait_for_it() {
    let latches = Latches::default();
    let inside = exclusive(&latches, key("c")).unwrap();
    let mut wide = exclusive(&latches, span("b", "d")).unwrap();
    let mut later = exclusive(&latches, key("b")).unwrap();
    let outside = exclusive(&latches, key("d")).unwrap();
    assert!(!wide.is_held() && !later.is_held() && outside.is_held());
    drop(inside);
    wide.wait(soon()).await.unwrap();
    assert!(!later.is_held());
    drop(wide);
    later.wait(soon()).await.unwrap();
}

#[tokio::test]
async fn a_waiter_that_gives_up_frees_those_behind_it() {
    let latches = Latches::default();
    let held = exclusive(&latches, key("x")).unwrap();
    let wide = exclusive(&latches, span("a", "")).unwrap();
    let mut other = exclusive(&latches, key("b")).unwrap();
    assert!(!wide.is_held() && !other.is_held());
    drop(wide);
    other.wait(soon()).await.unwrap();
    drop((held, other));
    assert!(latches.is_empty());
}

#[tokio::test]
async fn shared_ones_are_held_side_by_side_but_not_past_an_exclusive_one() {
    let latches = Latches::default();
    let shared = || latches.enqueue(key("a"), Mode::Shared).unwrap();
    let (first, second) = (shared(), shared());
    let mut alone = exclusive(&latches, key("a")).unwrap();
    let mut late = shared();
    assert!(first.is_held() && second.is_held() && !alone.is_held() && !late.is_held());
    drop(first);
    assert_eq!(late.wait(Instant::now()).await, Err(LatchError::Deadline));
    drop(second);
    alone.wait(soon()).await.unwrap();
    drop(alone);
    late.wait(soon()).await.unwrap();
    drop(late);
    assert!(latches.is_empty());
}

#[test]
fn the_queue_is_bounded() {
    let latches = Latches::default();
    let _held = exclusive(&latches, key("a")).unwrap();
    let waiting: Vec<_> =
        (0..WAITING_MAX).map(|_| exclusive(&latches, key("a")).unwrap()).collect();
    assert_eq!(exclusive(&latches, key("a")).err(), Some(LatchError::TooManyWaiting));
    assert!(exclusive(&latches, key("b")).is_ok(), "a free key needs no place in the queue");
    // Dropped from the back, so that no release has many behind it.
    waiting.into_iter().rev().for_each(drop);
    assert_eq!(latches.len(), 1);
}

/// Random latches against the definition: held exactly when no earlier live one overlaps that is not shared with it.
#[test]
fn held_means_no_earlier_one_keeps_it_out() {
    use rangedb_types::{Random, SeededRandom};
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = SeededRandom::new(seed);
        let latches = Latches::default();
        let mut live: Vec<Latch> = Vec::new();
        for _ in 0..300 {
            if random.below(3) == 0 && !live.is_empty() {
                let at = usize::try_from(random.below(live.len() as u64)).unwrap();
                drop(live.remove(at));
            } else {
                let (a, b) = (random.below(6) as u8, random.below(6) as u8);
                let key = |byte: u8| Bytes::copy_from_slice(&[byte]);
                let scope = match random.below(4) {
                    0 => Scope::Span(Span { start: vec![a.min(b)], end: vec![a.max(b) + 1] }),
                    1 => Scope::keys(vec![key(a), key(b), key(5)]),
                    _ => Scope::Key(key(a)),
                };
                let mode = if random.below(2) == 0 { Mode::Shared } else { Mode::Exclusive };
                live.push(latches.enqueue(scope, mode).unwrap());
            }
            let all: Vec<_> = live.iter().map(|latch| (latch.scope.clone(), latch.mode)).collect();
            for (at, latch) in live.iter_mut().enumerate() {
                let granted = match latch.granted.as_mut() {
                    None => true,
                    Some(granted) => granted.try_recv().is_ok(),
                };
                if granted {
                    latch.granted = None;
                }
                let (scope, mode) = &all[at];
                let excludes = |other: &(Scope, Mode)| {
                    overlaps(&other.0, scope) && (other.1, *mode) != (Mode::Shared, Mode::Shared)
                };
                let free = !all[..at].iter().any(excludes);
                assert_eq!(granted, free);
            }
        }
    }
}

fn overlaps(a: &Scope, b: &Scope) -> bool {
    match (a, b) {
        (Scope::Key(a), Scope::Key(b)) => a == b,
        (Scope::Span(span), Scope::Key(key)) | (Scope::Key(key), Scope::Span(span)) => {
            span.contains(key)
        }
        (Scope::Span(a), Scope::Span(b)) => a.overlaps(b),
        (Scope::Keys(keys), other) | (other, Scope::Keys(keys)) => {
            keys.iter().any(|key| overlaps(&Scope::Key(key.clone()), other))
        }
    }
}
