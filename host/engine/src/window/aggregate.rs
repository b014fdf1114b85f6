//! Accumulators as they are stored, and aggregates as a guest gets them. What they compute is in `pelton-aggregates`.

use std::sync::Arc;

use pelton_aggregates::{Accumulators, Counter, Distinct, Finished, IntegerSum, Merged, NumberSum, Shape, Top};

use crate::codec::{Damaged, Reader, put_bytes, put_f64, put_i64, put_u64};
use crate::event::Strings;
use crate::guest::{AggregateColumn, AggregateData};

/// First byte of a value that may be missing; a sum that needs more than 64 bits is `WIDE`.
const MISSING: u8 = 0;
const SEEN: u8 = 1;
const WIDE: u8 = 2;

/// First byte of a distinct count or a top-k: all of it, or what has changed.
const WHOLE: u8 = 0;
const CHANGES: u8 = 1;

/// Most bytes of a stored value, besides its variable part.
pub(super) fn stored_bytes_max(accumulators: &Accumulators) -> usize {
    match accumulators {
        Accumulators::Counts(_) | Accumulators::Integers(_) | Accumulators::Numbers(_) => 11,
        Accumulators::IntegerSums(_) | Accumulators::NumberSums(_) => 17,
        Accumulators::Distinct(_) => 11,
        Accumulators::Tops(_) => 31,
    }
}

/// Appends row `row`: of a large one, what has changed since it was stored, unless `all` of it is asked for.
pub(super) fn encode(accumulators: &Accumulators, row: usize, all: bool, out: &mut Vec<u8>) {
    match accumulators {
        Accumulators::Counts(rows) => put_i64(out, rows[row]),
        Accumulators::IntegerSums(rows) => match (rows[row].total(), rows[row].clipped()) {
            (Some(_), Some((total, false))) => put_option(out, Some(total), put_i64),
            (Some(total), _) => {
                out.push(WIDE);
                out.extend_from_slice(&total.to_le_bytes());
            }
            (None, _) => out.push(MISSING),
        },
        Accumulators::NumberSums(rows) => put_option(out, rows[row].parts(), |out, (sum, lost)| {
            put_f64(out, sum);
            put_f64(out, lost);
        }),
        Accumulators::Integers(rows) => put_option(out, rows[row], put_i64),
        Accumulators::Numbers(rows) => put_option(out, rows[row], put_f64),
        Accumulators::Distinct(rows) => match rows[row].changes().filter(|_| !all) {
            None => put_fingerprints(out, WHOLE, rows[row].len(), rows[row].iter()),
            Some(fresh) => put_fingerprints(out, CHANGES, fresh.len(), fresh.iter().copied()),
        },
        Accumulators::Tops(rows) => match rows[row].changes().filter(|_| !all) {
            None => {
                out.push(WHOLE);
                put_i64(out, rows[row].floor());
                put_items(out, rows[row].len(), rows[row].iter());
            }
            Some(changes) => {
                out.push(CHANGES);
                put_i64(out, changes.floor);
                put_u64(out, changes.gone().len() as u64);
                changes.gone().for_each(|item| put_bytes(out, item));
                put_items(out, changes.counted().len(), changes.counted());
            }
        },
    }
}

fn put_fingerprints(out: &mut Vec<u8>, kind: u8, count: usize, fingerprints: impl Iterator<Item = u64>) {
    out.push(kind);
    put_u64(out, count as u64);
    fingerprints.for_each(|fingerprint| out.extend_from_slice(&fingerprint.to_le_bytes()));
}

fn put_items<'a>(out: &mut Vec<u8>, count: usize, items: impl Iterator<Item = (&'a [u8], Counter)>) {
    put_u64(out, count as u64);
    for (item, counter) in items {
        put_bytes(out, item);
        put_i64(out, counter.count);
        put_i64(out, counter.error);
    }
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        None => out.push(MISSING),
        Some(value) => {
            out.push(SEEN);
            put(out, value);
        }
    }
}

/// Reads row `row`, which exists.
pub(super) fn decode(accumulators: &mut Accumulators, row: usize, reader: &mut Reader<'_>) -> Result<(), Damaged> {
    match accumulators {
        Accumulators::Counts(rows) => rows[row] = reader.i64()?,
        Accumulators::IntegerSums(rows) => rows[row] = IntegerSum::from_total(total(reader)?),
        Accumulators::NumberSums(rows) => {
            rows[row] = NumberSum::from_parts(option(reader, |reader| Ok((reader.f64()?, reader.f64()?)))?);
        }
        Accumulators::Integers(rows) => rows[row] = option(reader, |reader| reader.i64())?,
        Accumulators::Numbers(rows) => rows[row] = option(reader, |reader| reader.f64())?,
        Accumulators::Distinct(rows) => {
            let is_whole = is_whole(reader)?;
            let count = reader.count()?;
            let all = (0..count).map(|_| Ok(reader.f64()?.to_bits())).collect::<Result<Vec<u64>, Damaged>>()?;
            if is_whole {
                rows[row] =
                    Distinct::from_ascending(all).ok_or_else(|| Damaged("fingerprints do not ascend".into()))?;
            } else {
                rows[row].apply(&all).ok_or_else(|| Damaged("fingerprints are no changes of those before".into()))?;
            }
        }
        Accumulators::Tops(rows) => {
            let is_whole = is_whole(reader)?;
            let floor = reader.i64()?;
            let gone = match is_whole {
                true => Vec::new(),
                false => (0..reader.count()?).map(|_| reader.bytes()).collect::<Result<Vec<&[u8]>, Damaged>>()?,
            };
            let item = |reader: &mut Reader<'_>| {
                let item = Arc::from(reader.bytes()?);
                Ok((item, Counter { count: reader.i64()?, error: reader.i64()? }))
            };
            let count = reader.count()?;
            let items = (0..count).map(|_| item(reader)).collect::<Result<_, Damaged>>()?;
            if is_whole {
                rows[row] = Top::from_ascending(items, floor)
                    .ok_or_else(|| Damaged("items of a top-k do not ascend, or their counts cannot be".into()))?;
            } else {
                rows[row]
                    .apply(floor, &gone, items)
                    .ok_or_else(|| Damaged("changes of a top-k do not follow what was before".into()))?;
            }
        }
    }
    Ok(())
}

fn is_whole(reader: &mut Reader<'_>) -> Result<bool, Damaged> {
    match reader.byte()? {
        WHOLE => Ok(true),
        CHANGES => Ok(false),
        other => Err(Damaged(format!("an aggregate begins with {other}, expected {WHOLE} or {CHANGES}"))),
    }
}

fn option<T>(
    reader: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Damaged>,
) -> Result<Option<T>, Damaged> {
    match reader.byte()? {
        MISSING => Ok(None),
        SEEN => read(reader).map(Some),
        other => Err(Damaged(format!("a value begins with {other}, expected {MISSING} or {SEEN}"))),
    }
}

fn total(reader: &mut Reader<'_>) -> Result<Option<i128>, Damaged> {
    match reader.byte()? {
        MISSING => Ok(None),
        SEEN => Ok(Some(i128::from(reader.i64()?))),
        WIDE => Ok(Some(i128::from_le_bytes(reader.array()?))),
        other => Err(Damaged(format!("a sum begins with {other}, expected {MISSING}, {SEEN} or {WIDE}"))),
    }
}

/// A column without panes for an aggregate of this shape.
pub(crate) fn column(shape: Shape) -> AggregateColumn {
    AggregateColumn::new(match Accumulators::new(shape) {
        Accumulators::Counts(_)
        | Accumulators::IntegerSums(_)
        | Accumulators::Integers(_)
        | Accumulators::Distinct(_) => AggregateData::Integers(Vec::new()),
        Accumulators::NumberSums(_) | Accumulators::Numbers(_) => AggregateData::Numbers(Vec::new()),
        Accumulators::Tops(_) => AggregateData::Tops {
            items: Strings::default(),
            counts: Vec::new(),
            errors: Vec::new(),
            pane_ends: Vec::new(),
        },
    })
}

/// A column with one pane, in which nothing was seen.
pub(crate) fn column_of_nothing(shape: Shape) -> AggregateColumn {
    let mut column = column(shape);
    push(&mut column, Merged::new(shape).finish(shape));
    column
}

/// Appends the value of a pane to the column that the guest gets.
pub(super) fn push(column: &mut AggregateColumn, finished: Finished<'_>) {
    let pane = column.len() as u32;
    let is_missing = match (&mut column.data, finished) {
        (AggregateData::Integers(rows), Finished::Integer { value, clipped }) => {
            rows.push(value.unwrap_or(0));
            if clipped {
                column.clipped.push(pane);
            }
            value.is_none()
        }
        (AggregateData::Numbers(rows), Finished::Number(value)) => {
            rows.push(value.unwrap_or(0.0));
            value.is_none()
        }
        (AggregateData::Tops { items, counts, errors, pane_ends }, Finished::Top(top)) => {
            for item in &top {
                items.push(item.item);
                counts.push(item.count);
                errors.push(item.error);
            }
            pane_ends.push(counts.len() as u32);
            top.is_empty()
        }
        _ => unreachable!("both come of one shape"),
    };
    if is_missing {
        column.missing.push(pane);
    }
}
