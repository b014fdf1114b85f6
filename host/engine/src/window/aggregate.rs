//! Built-in aggregates: one column of accumulators per aggregate, one row per key of a slice.

use crate::codec::{Damaged, Reader, put_bytes, put_f64, put_i64, put_u64};
use crate::event::{Kind, TextColumn};
use crate::guest::{AggregateColumn, Operator};

/// One value of an event, as an aggregate sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// The field is missing: the aggregate does not change.
    Missing,
    Integer(i64),
    Number(f64),
    /// Text, or any value as bytes; for distinct and top-k.
    Bytes(&'a [u8]),
}

/// What is kept of one aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) operator: Operator,
    /// Kind of the field read; `Integer` for a plain count.
    pub(crate) kind: Kind,
    pub(crate) limit: u32,
}

/// Top-k keeps this many times `limit` items exactly; beyond it the counts are Space-Saving estimates
/// (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements", 2005).
const TOP_SLACK: usize = 8;

/// Accumulators of one aggregate, one per row of a slice.
#[derive(Debug)]
pub(crate) enum Accumulators {
    /// Count, sum, min or max over integers; an untouched min or max is `None`'s stand-in, see [`empty_integer`].
    Integers(Vec<i64>),
    Numbers(Vec<f64>),
    /// Fingerprints of the distinct values, ascending.
    Distinct(Vec<Vec<u64>>),
    /// Items with counts, ascending by item.
    Tops(Vec<Vec<(Box<[u8]>, i64)>>),
    /// The guest's own accumulator (window-fold).
    Bytes(Vec<Vec<u8>>),
}

impl Accumulators {
    pub(crate) fn new(shape: Shape) -> Accumulators {
        match (shape.operator, shape.kind) {
            (Operator::Distinct, _) => Accumulators::Distinct(Vec::new()),
            (Operator::TopK, _) => Accumulators::Tops(Vec::new()),
            (Operator::Count, _) => Accumulators::Integers(Vec::new()),
            (_, Kind::Number) => Accumulators::Numbers(Vec::new()),
            _ => Accumulators::Integers(Vec::new()),
        }
    }

    /// Appends an empty accumulator.
    pub(crate) fn push_empty(&mut self, shape: Shape) {
        match self {
            Accumulators::Integers(rows) => rows.push(empty_integer(shape.operator)),
            Accumulators::Numbers(rows) => rows.push(empty_number(shape.operator)),
            Accumulators::Distinct(rows) => rows.push(Vec::new()),
            Accumulators::Tops(rows) => rows.push(Vec::new()),
            Accumulators::Bytes(rows) => rows.push(Vec::new()),
        }
    }

    /// Folds one value into row `row`; returns by how many bytes the row grew.
    #[inline]
    pub(crate) fn add(&mut self, row: usize, shape: Shape, value: Value<'_>) -> usize {
        match (self, value) {
            (_, Value::Missing) => 0,
            (Accumulators::Integers(rows), value) => {
                let acc = &mut rows[row];
                *acc = match (shape.operator, value) {
                    (Operator::Count, _) => acc.saturating_add(1),
                    (operator, Value::Integer(value)) => join_integers(operator, *acc, value),
                    _ => *acc,
                };
                0
            }
            (Accumulators::Numbers(rows), Value::Number(value)) => {
                rows[row] = join_numbers(shape.operator, rows[row], value);
                0
            }
            (Accumulators::Distinct(rows), value) => add_distinct(&mut rows[row], shape.limit, value_hash(value)),
            (Accumulators::Tops(rows), Value::Bytes(item)) => add_top(&mut rows[row], shape.limit, item, 1),
            (Accumulators::Tops(rows), Value::Integer(value)) => {
                add_top(&mut rows[row], shape.limit, value.to_string().as_bytes(), 1)
            }
            (Accumulators::Tops(_) | Accumulators::Numbers(_) | Accumulators::Bytes(_), _) => 0,
        }
    }

    pub(crate) fn encode(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Accumulators::Integers(rows) => put_i64(out, rows[row]),
            Accumulators::Numbers(rows) => put_f64(out, rows[row]),
            Accumulators::Distinct(rows) => {
                put_u64(out, rows[row].len() as u64);
                rows[row].iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
            }
            Accumulators::Tops(rows) => {
                put_u64(out, rows[row].len() as u64);
                for (item, count) in &rows[row] {
                    put_bytes(out, item);
                    put_i64(out, *count);
                }
            }
            Accumulators::Bytes(rows) => put_bytes(out, &rows[row]),
        }
    }

    /// Reads one accumulator into row `row`, which exists; returns its variable size in bytes.
    pub(crate) fn decode(&mut self, row: usize, reader: &mut Reader<'_>) -> Result<usize, Damaged> {
        match self {
            Accumulators::Integers(rows) => rows[row] = reader.i64()?,
            Accumulators::Numbers(rows) => rows[row] = reader.f64()?,
            Accumulators::Distinct(rows) => {
                let count = reader.count()?;
                rows[row] = (0..count).map(|_| Ok(reader.f64()?.to_bits())).collect::<Result<_, Damaged>>()?;
            }
            Accumulators::Tops(rows) => {
                let count = reader.count()?;
                rows[row] =
                    (0..count).map(|_| Ok((reader.bytes()?.into(), reader.i64()?))).collect::<Result<_, Damaged>>()?;
            }
            Accumulators::Bytes(rows) => rows[row] = reader.bytes()?.to_vec(),
        }
        Ok(self.size(row))
    }

    /// Variable bytes of row `row`.
    pub(crate) fn size(&self, row: usize) -> usize {
        match self {
            Accumulators::Integers(_) | Accumulators::Numbers(_) => 0,
            Accumulators::Distinct(rows) => rows[row].len() * 8,
            Accumulators::Tops(rows) => rows[row].iter().map(|(item, _)| item.len() + 24).sum(),
            Accumulators::Bytes(rows) => rows[row].len(),
        }
    }
}

/// An accumulator taken out of its slice, merged over the slices of a window.
#[derive(Clone, Debug)]
pub(crate) enum Merged {
    Integer(i64),
    Number(f64),
    /// Fingerprints of all slices, one slice's after the other; counted at the end.
    Distinct(Vec<u64>),
    Tops(Vec<(Box<[u8]>, i64)>),
}

impl Merged {
    pub(crate) fn empty(shape: Shape) -> Merged {
        match Accumulators::new(shape) {
            Accumulators::Numbers(_) => Merged::Number(empty_number(shape.operator)),
            Accumulators::Distinct(_) => Merged::Distinct(Vec::new()),
            Accumulators::Tops(_) => Merged::Tops(Vec::new()),
            Accumulators::Integers(_) | Accumulators::Bytes(_) => Merged::Integer(empty_integer(shape.operator)),
        }
    }

    /// Adds row `row` of a later slice.
    pub(crate) fn merge(&mut self, shape: Shape, from: &Accumulators, row: usize) {
        match (self, from) {
            (Merged::Integer(acc), Accumulators::Integers(rows)) => {
                *acc = if shape.operator == Operator::Count {
                    acc.saturating_add(rows[row])
                } else {
                    join_integers(shape.operator, *acc, rows[row])
                };
            }
            (Merged::Number(acc), Accumulators::Numbers(rows)) => *acc = join_numbers(shape.operator, *acc, rows[row]),
            (Merged::Distinct(acc), Accumulators::Distinct(rows)) => {
                acc.extend_from_slice(&rows[row]);
            }
            (Merged::Tops(acc), Accumulators::Tops(rows)) => {
                for (item, count) in &rows[row] {
                    add_top(acc, shape.limit, item, *count);
                }
            }
            _ => {}
        }
    }

    /// Appends the result to the column that the guest sees.
    pub(crate) fn push_to(self, shape: Shape, column: &mut AggregateColumn) {
        match (self, column) {
            (Merged::Integer(acc), AggregateColumn::Integers(rows)) => {
                rows.push(if acc == empty_integer(shape.operator) { 0 } else { acc });
            }
            (Merged::Number(acc), AggregateColumn::Numbers(rows)) => {
                rows.push(if acc.is_infinite() && acc == empty_number(shape.operator) { 0.0 } else { acc });
            }
            (Merged::Distinct(mut acc), AggregateColumn::Integers(rows)) => {
                // Stable, since that sort makes use of the runs it finds: one per slice.
                acc.sort();
                acc.dedup();
                rows.push(acc.len().min(shape.limit as usize) as i64);
            }
            (Merged::Tops(mut acc), AggregateColumn::Tops { items, counts, pane_ends }) => {
                acc.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
                for (item, count) in acc.iter().take(shape.limit as usize) {
                    items.push(item);
                    counts.push(*count);
                }
                pane_ends.push(counts.len() as u32);
            }
            _ => {}
        }
    }
}

/// An empty guest-side column for an aggregate of this shape.
pub(crate) fn column(shape: Shape) -> AggregateColumn {
    match Merged::empty(shape) {
        Merged::Integer(_) | Merged::Distinct(_) => AggregateColumn::Integers(Vec::new()),
        Merged::Number(_) => AggregateColumn::Numbers(Vec::new()),
        Merged::Tops(_) => {
            AggregateColumn::Tops { items: TextColumn::default(), counts: Vec::new(), pane_ends: Vec::new() }
        }
    }
}

/// The neutral value: smaller or larger than any other for max and min, 0 for sums.
fn empty_integer(operator: Operator) -> i64 {
    match operator {
        Operator::Min => i64::MAX,
        Operator::Max => i64::MIN,
        _ => 0,
    }
}

fn empty_number(operator: Operator) -> f64 {
    match operator {
        Operator::Min => f64::INFINITY,
        Operator::Max => f64::NEG_INFINITY,
        _ => 0.0,
    }
}

/// Sums saturate at the ends of 64 bits: a wrong sign would be worse than a clipped amount.
fn join_integers(operator: Operator, left: i64, right: i64) -> i64 {
    match operator {
        Operator::Min => left.min(right),
        Operator::Max => left.max(right),
        _ => left.saturating_add(right),
    }
}

fn join_numbers(operator: Operator, left: f64, right: f64) -> f64 {
    match operator {
        Operator::Min => left.min(right),
        Operator::Max => left.max(right),
        _ => left + right,
    }
}

fn add_distinct(hashes: &mut Vec<u64>, limit: u32, hash: u64) -> usize {
    match hashes.binary_search(&hash) {
        Err(at) if hashes.len() < limit as usize => {
            hashes.insert(at, hash);
            8
        }
        _ => 0,
    }
}

fn add_top(items: &mut Vec<(Box<[u8]>, i64)>, limit: u32, item: &[u8], count: i64) -> usize {
    match items.binary_search_by(|(known, _)| known.as_ref().cmp(item)) {
        Ok(at) => {
            items[at].1 = items[at].1.saturating_add(count);
            0
        }
        Err(at) if items.len() < limit as usize * TOP_SLACK => {
            items.insert(at, (item.into(), count));
            item.len() + 24
        }
        Err(_) => {
            // Space-Saving: the newcomer takes the place and the count of the smallest.
            let Some(smallest) = items.iter().enumerate().min_by_key(|(_, (_, count))| *count).map(|(idx, _)| idx)
            else {
                return 0;
            };
            let (_, least) = items.remove(smallest);
            let at = items.partition_point(|(known, _)| known.as_ref() < item);
            items.insert(at, (item.into(), least.saturating_add(count)));
            0
        }
    }
}

/// Distinct counts by a 64-bit fingerprint: two of a million values of one key collide with probability 3e-8.
fn value_hash(value: Value<'_>) -> u64 {
    match value {
        Value::Missing => 0,
        Value::Integer(value) => mix(value as u64 ^ 0x9e37_79b9_7f4a_7c15),
        // Adding 0 makes one zero of the two.
        Value::Number(value) => mix((value + 0.0).to_bits() ^ 0xc2b2_ae3d_27d4_eb4f),
        Value::Bytes(bytes) => {
            let mut acc = mix(bytes.len() as u64 ^ 0x1656_67b1_9e37_79f9);
            for chunk in bytes.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                acc = mix(acc ^ u64::from_le_bytes(word));
            }
            acc
        }
    }
}

/// Finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection, so integers never collide.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
