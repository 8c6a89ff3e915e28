//! The commands of transactions.

use super::{History, Words, show, text};
use bytes::Bytes;
use rangedb_mvcc::record::LockRecord;
use rangedb_mvcc::txn::{
    ActionError, KeyState, Plan, Settled, Status, StatusQuery, Transaction, Want, acquire,
    check_reads, commit, finish, firm_up, intents_below, plan, renew, resolve, resolve_keys,
    roll_back, states, status,
};
use rangedb_types::{Span, Timestamp};

/// `k:v` puts, `k!` deletes, `k?` checks; `k` alone is a check, too.
fn wanted(word: &str) -> (Bytes, Want) {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    if let Some((key, value)) = word.split_once(':') {
        let value = match value.split_once('*') {
            Some((byte, count)) => byte.repeat(count.parse().expect("a length")),
            None => value.to_owned(),
        };
        return (bytes(key), Want::Put(Bytes::from(value)));
    }
    match word.strip_suffix('!') {
        Some(key) => (bytes(key), Want::Delete),
        None => (bytes(word.trim_end_matches('?')), Want::Check),
    }
}

fn transaction(words: &Words<'_>) -> Transaction {
    let id = Timestamp(words.bare[1].parse().expect("an id"));
    let first = wanted(words.bare[2]).0;
    let primary = words.named.get("primary").map(|key| key.as_bytes().to_vec());
    Transaction {
        id,
        snapshot_ts: Timestamp(words.number("snapshot").unwrap_or(id.0)),
        primary: primary.unwrap_or_else(|| first.to_vec()),
        lifetime_ms: words.number("lifetime").unwrap_or(3_000),
        sequence: u32::try_from(words.number("sequence").unwrap_or(1)).expect("small"),
    }
}

fn at(words: &Words<'_>, name: &str) -> Option<Timestamp> {
    words.number(name).map(Timestamp)
}

fn span(words: &Words<'_>) -> Span {
    let end = if words.bare[3] == "-" { Vec::new() } else { words.key(3).to_vec() };
    Span { start: words.key(2).to_vec(), end }
}

pub(super) fn run(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    match words.bare[0] {
        "prewrite" => prewrite(history, words),
        "once" => once(history, words),
        "acquire" => acquired(history, words),
        "firm" => firm(history, words),
        "resolve" => resolved(history, words),
        "intents" => {
            let (snapshot, _) = history.snapshot();
            let end = if words.bare[2] == "-" { Vec::new() } else { words.key(2).to_vec() };
            let span = Span { start: words.key(1).to_vec(), end };
            Ok(settled(&intents_below(&*snapshot, &span, words.ts(), usize::MAX)?))
        }
        "status" => asked(history, words),
        "states" => asked_of_keys(history, words),
        "check" => checked(history, words),
        _ => written(history, words),
    }
}

/// Commands that write, and say nothing else.
fn written(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let (snapshot, _) = history.snapshot();
    let snapshot = &*snapshot;
    let (txn, keys) = (transaction(words), &words.bare[2..]);
    let mutations = match words.bare[0] {
        "commit" => {
            let (at, open) = (at(words, "at").expect("at="), words.has("open"));
            let each = keys.iter().map(|key| commit(snapshot, txn.id, key.as_bytes(), at, open));
            each.collect::<Result<Vec<_>, _>>()?.concat()
        }
        "abort" => {
            let each = keys.iter().map(|key| roll_back(snapshot, txn.id, key.as_bytes()));
            each.collect::<Result<Vec<_>, _>>()?.concat()
        }
        "finish" => finish(snapshot, txn.id, words.key(2), at(words, "at").expect("at="))?,
        "settle" => resolve_keys(snapshot, txn.id, keys, at(words, "at"))?,
        "renew" => renew(snapshot, txn.id, &txn.primary, txn.lifetime_ms)?,
        other => panic!("no such command: {other}"),
    };
    Ok(history.write(&mutations))
}

fn resolved(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let (snapshot, _) = history.snapshot();
    let limit = words.number("limit").map_or(usize::MAX, |n| usize::try_from(n).expect("small"));
    let id = transaction(words).id;
    let page = resolve(&*snapshot, id, &span(words), at(words, "at"), limit)?;
    history.write(&page.mutations);
    Ok(settled(&page))
}

fn asked_of_keys(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let (snapshot, _) = history.snapshot();
    let id = transaction(words).id;
    let keys = &words.bare[2..];
    let (found, mutations) = states(&*snapshot, id, keys, words.has("roll_back_absent"))?;
    history.write(&mutations);
    let lines = keys.iter().zip(found).map(|(key, state)| format!("{key}: {}", of(state)));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn checked(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let (snapshot, tombstones) = history.snapshot();
    let txn = transaction(words);
    let bound =
        |name| words.named.get(name).map_or(Vec::new(), |key: &&str| key.as_bytes().to_vec());
    let spans: Vec<_> = words
        .has("from")
        .then(|| Span { start: bound("from"), end: bound("to") })
        .into_iter()
        .collect();
    let keys: Vec<_> = words.bare[2..].iter().filter(|key| **key != "-").collect();
    let times = (txn.snapshot_ts, at(words, "at").expect("at="));
    let limit = words.number("limit").map_or(usize::MAX, |n| usize::try_from(n).expect("small"));
    let resume = check_reads(&*snapshot, &tombstones, txn.id, times, &keys, &spans, limit)?;
    Ok(resume.map_or("unchanged".to_owned(), |key| format!("unchanged, resume {}", text(&key))))
}

fn plans(
    history: &History,
    words: &Words<'_>,
    txn: &Transaction,
) -> Result<Vec<Plan>, ActionError> {
    let (snapshot, tombstones) = history.snapshot();
    words.bare[2..]
        .iter()
        .map(|word| {
            let (key, want) = wanted(word);
            plan(&*snapshot, &tombstones, txn, key, want)
        })
        .collect()
}

fn prewrite(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let txn = transaction(words);
    let plans = plans(history, words, &txn)?;
    let least = at(words, "least").unwrap_or(txn.id);
    let others = |own: &[u8]| {
        let keys = words.bare[2..].iter().map(|word| wanted(word).0.to_vec());
        keys.filter(|key| key != own).collect::<Vec<_>>()
    };
    let mut mutations = Vec::new();
    for (word, plan) in words.bare[2..].iter().zip(plans) {
        let key = wanted(word).0;
        let primary = words.has("async") && key == txn.primary;
        mutations.extend(plan.intent(&txn, least, primary.then(|| others(&key))));
    }
    Ok(history.write(&mutations))
}

fn once(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let txn = transaction(words);
    let at = at(words, "at").expect("at=");
    let plans = plans(history, words, &txn)?;
    let mutations: Vec<_> = plans.into_iter().flat_map(|plan| plan.version(&txn, at)).collect();
    Ok(history.write(&mutations))
}

fn acquired(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let txn = transaction(words);
    let least = at(words, "least").unwrap_or(txn.id);
    let mut lines = Vec::new();
    for word in &words.bare[2..] {
        let (snapshot, tombstones) = history.snapshot();
        let (key, want) = wanted(word);
        let hold = acquire(&*snapshot, &tombstones, &txn, key.clone(), want)?;
        let value = show(hold.value.as_ref());
        let mutations = hold.intent(&txn, least);
        history.write(&mutations);
        let changed = if mutations.is_empty() { ", no change" } else { "" };
        lines.push(format!("{}: {value}{changed}", text(&key)));
    }
    Ok(lines.join("\n"))
}

fn firm(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let (snapshot, _) = history.snapshot();
    let txn = transaction(words);
    let least = at(words, "least").unwrap_or(txn.id);
    let found = intents_below(&*snapshot, &span(words), Timestamp::MAX, usize::MAX)?;
    let own = found.intents.into_iter().filter(|(_, lock)| lock.start_ts == txn.id);
    let plans = own.map(|(key, lock)| firm_up(Bytes::from(key), lock));
    let mutations: Vec<_> = plans.flat_map(|plan| plan.intent(&txn, least, None)).collect();
    Ok(history.write(&mutations))
}

fn asked(history: &History, words: &Words<'_>) -> Result<String, ActionError> {
    let (snapshot, _) = history.snapshot();
    let txn = transaction(words);
    let query = StatusQuery {
        id: txn.id,
        primary: words.key(2).to_vec(),
        now: at(words, "now").unwrap_or_default(),
        push_above: at(words, "push"),
        roll_back_absent: words.has("roll_back_absent"),
    };
    let (status, mutations) = status(&*snapshot, &query)?;
    history.write(&mutations);
    Ok(match status {
        Status::Committed(version) => format!("committed @{version}"),
        Status::RolledBack => "rolled back".to_owned(),
        Status::Alive(lock) => format!("alive, {}", of_lock(&lock)),
        Status::Absent => "absent".to_owned(),
    })
}

fn of(state: KeyState) -> String {
    match state {
        KeyState::Firm { least } => format!("firm, not below {least}"),
        KeyState::Tentative => "tentative".to_owned(),
        KeyState::Committed(version) => format!("committed @{version}"),
        KeyState::RolledBack => "rolled back".to_owned(),
        KeyState::Absent => "absent".to_owned(),
    }
}

fn of_lock(lock: &LockRecord) -> String {
    let tentative = if lock.tentative { "tentative " } else { "" };
    let others = lock.secondaries.as_ref().map_or(String::new(), |keys| {
        format!(", with {}", keys.iter().map(|key| text(key)).collect::<Vec<_>>().join(" "))
    });
    format!("{tentative}{:?}, not below {}{others}", lock.kind, lock.min_commit_ts)
}

fn settled(page: &Settled) -> String {
    let mut lines: Vec<_> = page
        .intents
        .iter()
        .map(|(key, lock)| format!("{} of {}", text(key), lock.start_ts))
        .collect();
    lines
        .push(page.resume.as_ref().map_or("end".to_owned(), |key| format!("resume {}", text(key))));
    lines.join("\n")
}
