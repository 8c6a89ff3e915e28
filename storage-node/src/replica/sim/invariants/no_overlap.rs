//! Live ranges do not overlap: not on one node, and not over nodes among those of one version. For any
//! key, the range with the larger version is the newer one.

use rangedb_types::{RangeDescriptor, RangeId, Span};
use std::collections::BTreeMap;

/// Every span that a range ever had, by version.
#[derive(Default)]
pub struct NoOverlap {
    spans: BTreeMap<u64, BTreeMap<RangeId, Span>>,
}

impl NoOverlap {
    /// Looks at all ranges that have state on one node.
    pub fn check(&mut self, ranges: &[RangeDescriptor]) -> Result<(), String> {
        for (at, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..at].iter().find(|other| other.span.overlaps(&range.span))
            {
                return Err(format!("on one node: {range:?} and {other:?}"));
            }
            self.compare(range)?;
        }
        Ok(())
    }

    fn compare(&mut self, range: &RangeDescriptor) -> Result<(), String> {
        let version = self.spans.entry(range.epoch.version).or_default();
        match version.get(&range.range_id) {
            Some(span) if *span == range.span => return Ok(()),
            Some(span) => return Err(format!("{range:?} also had the span {span:?}")),
            None => {}
        }
        let overlap = version.iter().find(|(_, span)| span.overlaps(&range.span));
        if let Some((other, span)) = overlap {
            return Err(format!("{range:?} and, of the same version, range {other} {span:?}"));
        }
        version.insert(range.range_id, range.span.clone());
        Ok(())
    }
}
