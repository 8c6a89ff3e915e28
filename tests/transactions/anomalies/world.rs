//! What the clients of one mode share. Owns: keys, values that nobody else writes, and the clock.
//! Must not know: what transactions do with them.

use rand::Rng as _;
use rand::rngs::StdRng;
use rangedb_client::Isolation;
use rangedb_tests::isolation::Key;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// How transactions are run.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub name: &'static str,
    pub isolation: Isolation,
    pub pessimistic: bool,
}

/// Keys that everybody wants, and keys that are seldom met twice.
const HOT: u32 = 3;
const COLD: u32 = 40;
const PLACES: u32 = HOT + COLD;
/// A list of so many elements is left alone, and a new one takes its place.
const ELEMENTS_MAX: usize = 40;
const PAIRS: u32 = 4;
/// A block of keys for span reads, and when it is full enough to go on to the next one.
const BLOCK: u32 = 8;
const BLOCK_FULL: usize = 6;

/// Where each kind of keys begins. Each kind has a range of its own at first, and pairs have two.
const REGISTERS: u32 = 10_000_000;
const FIRST_OF_PAIRS: u32 = 20_000_000;
const SECOND_OF_PAIRS: u32 = 30_000_000;
const BLOCKS: u32 = 40_000_000;

pub struct World {
    pub mode: Mode,
    start: Instant,
    stop: Arc<AtomicBool>,
    next_value: AtomicU64,
    /// How many lists were in each place before.
    lists: Vec<AtomicU32>,
    block: AtomicU32,
}

impl World {
    pub fn new(mode: Mode, start: Instant, stop: &Arc<AtomicBool>) -> Self {
        Self {
            mode,
            start,
            stop: Arc::clone(stop),
            next_value: AtomicU64::new(1),
            lists: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            block: AtomicU32::new(0),
        }
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Microseconds since the start, by a clock that all clients share.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    /// The key in the database.
    pub fn name(&self, key: Key) -> String {
        format!("{}/{:08}", self.mode.name, key.0)
    }

    /// The opposite of [`Self::name`].
    pub fn number(&self, name: &[u8]) -> Option<Key> {
        let name = std::str::from_utf8(name).ok()?;
        Some(Key(name.strip_prefix(self.mode.name)?.strip_prefix('/')?.parse().ok()?))
    }

    /// Where the ranges meet at first.
    pub fn borders(&self) -> Vec<String> {
        let starts = [0, REGISTERS, FIRST_OF_PAIRS, SECOND_OF_PAIRS, BLOCKS];
        starts.map(|start| self.name(Key(start))).to_vec()
    }

    /// Keys at which ranges may be cut.
    pub fn some_keys(&self) -> Vec<String> {
        let places = (0..PLACES).flat_map(|place| [Key(place), Key(REGISTERS + place)]);
        let pairs = (0..PAIRS).flat_map(|pair| [FIRST_OF_PAIRS + pair, SECOND_OF_PAIRS + pair]);
        let slots = (0..PLACES).map(|slot| BLOCKS + slot * 5);
        places.chain(pairs.chain(slots).map(Key)).map(|key| self.name(key)).collect()
    }

    fn place(random: &mut StdRng) -> u32 {
        if random.random_bool(0.5) {
            random.random_range(0..HOT)
        } else {
            random.random_range(HOT..PLACES)
        }
    }

    pub fn list(&self, random: &mut StdRng) -> Key {
        let place = Self::place(random);
        Key(place + PLACES * self.lists[place as usize].load(Ordering::Relaxed))
    }

    /// Puts a new list in the place of one that is full.
    pub fn saw_list(&self, key: Key, elements: usize) {
        if elements >= ELEMENTS_MAX {
            let place = &self.lists[(key.0 % PLACES) as usize];
            place.fetch_max(key.0 / PLACES + 1, Ordering::Relaxed);
        }
    }

    pub fn register(random: &mut StdRng) -> Key {
        Key(REGISTERS + Self::place(random))
    }

    /// Two registers that lie in different ranges.
    pub fn pair(random: &mut StdRng) -> [Key; 2] {
        let pair = random.random_range(0..PAIRS);
        [Key(FIRST_OF_PAIRS + pair), Key(SECOND_OF_PAIRS + pair)]
    }

    /// The block of keys that is being filled.
    pub fn block(&self) -> Range<u32> {
        let start = BLOCKS + self.block.load(Ordering::Relaxed) * BLOCK;
        start..start + BLOCK
    }

    pub fn saw_block(&self, block: &Range<u32>, entries: usize) {
        if entries >= BLOCK_FULL {
            self.block.fetch_max((block.start - BLOCKS) / BLOCK + 1, Ordering::Relaxed);
        }
    }

    /// Every list that there was.
    pub fn all_lists(&self) -> Vec<Key> {
        let lists = |place: u32| 0..=self.lists[place as usize].load(Ordering::Relaxed);
        (0..PLACES)
            .flat_map(|place| lists(place).map(move |turn| Key(place + PLACES * turn)))
            .collect()
    }

    /// Spans that hold every register that there was.
    pub fn all_registers(&self) -> Vec<Range<u32>> {
        vec![
            REGISTERS..REGISTERS + PLACES,
            FIRST_OF_PAIRS..FIRST_OF_PAIRS + PAIRS,
            SECOND_OF_PAIRS..SECOND_OF_PAIRS + PAIRS,
            BLOCKS..self.block().end,
        ]
    }
}
