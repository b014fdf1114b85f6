//! Columns of accumulators, one row per key of a slice, and their merging into panes.

use crate::distinct::{Distinct, HashKey};
use crate::sum::{IntegerSum, NumberSum};
use crate::top::{Top, TopItem, TopMerge};
use crate::value::{Kind, Value};

/// What an aggregate computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Events, or events that have the field.
    Count,
    Sum,
    Min,
    Max,
    Distinct,
    TopK,
}

impl Function {
    /// The word for it, which is stored with the state and never changes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Function::Count => "count",
            Function::Sum => "sum",
            Function::Min => "min",
            Function::Max => "max",
            Function::Distinct => "distinct",
            Function::TopK => "top-k",
        }
    }

    /// All of them.
    pub const ALL: [Function; 6] =
        [Function::Count, Function::Sum, Function::Min, Function::Max, Function::Distinct, Function::TopK];

    /// The function with this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Function> {
        Function::ALL.into_iter().find(|function| function.name() == name)
    }

    /// Whether [`Shape::limit`] means something.
    #[must_use]
    pub fn has_limit(self) -> bool {
        matches!(self, Function::Distinct | Function::TopK)
    }
}

/// What is kept of one aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub function: Function,
    /// Whether the field holds numbers; else sum, min and max are over integers.
    pub numbers: bool,
    /// Distinct: counting stops here. Top-k: how many items. Else unused.
    pub limit: u32,
}

impl Shape {
    /// The shape of an aggregate over a field of this kind; only a count does without a field.
    ///
    /// # Errors
    /// Why there is none, to follow the name of the aggregate.
    pub fn new(function: Function, kind: Option<Kind>, limit: u32) -> Result<Shape, String> {
        if function.has_limit() && limit == 0 {
            return Err("needs a limit above 0".to_owned());
        }
        match (function, kind) {
            (Function::Count, _) => {}
            (_, None) => return Err("needs a field".to_owned()),
            (Function::Sum | Function::Min | Function::Max, Some(Kind::Integer | Kind::Number)) => {}
            (Function::Sum | Function::Min | Function::Max, Some(kind)) => {
                return Err(format!("needs an integer or number field, not {}", kind.name()));
            }
            (Function::TopK, Some(Kind::Number)) => {
                return Err("cannot rank numbers; use strings or integers".to_owned());
            }
            (Function::Distinct | Function::TopK, Some(kind @ (Kind::Decimal | Kind::Json | Kind::Bytes))) => {
                return Err(format!("cannot tell values of a {} field apart; derive a string from it", kind.name()));
            }
            (Function::Distinct | Function::TopK, Some(_)) => {}
        }
        Ok(Shape { function, numbers: kind == Some(Kind::Number), limit })
    }

    /// Whether a bound is of the type of the values of panes.
    #[must_use]
    pub fn takes(self, bound: Bound) -> bool {
        self.function != Function::TopK && self.is_number() == bound.is_number()
    }

    /// Whether the values of panes are numbers.
    #[must_use]
    pub fn is_number(self) -> bool {
        self.numbers && matches!(self.function, Function::Sum | Function::Min | Function::Max)
    }
}

/// Accumulators of one aggregate, one per row of a slice.
#[derive(Clone, Debug)]
pub enum Accumulators {
    Counts(Vec<i64>),
    IntegerSums(Vec<IntegerSum>),
    NumberSums(Vec<NumberSum>),
    /// Min or max; `None` until something was seen.
    Integers(Vec<Option<i64>>),
    Numbers(Vec<Option<f64>>),
    Distinct(Vec<Distinct>),
    Tops(Vec<Top>),
}

impl Accumulators {
    /// No rows yet.
    #[must_use]
    pub fn new(shape: Shape) -> Accumulators {
        match (shape.function, shape.numbers) {
            (Function::Count, _) => Accumulators::Counts(Vec::new()),
            (Function::Sum, false) => Accumulators::IntegerSums(Vec::new()),
            (Function::Sum, true) => Accumulators::NumberSums(Vec::new()),
            (Function::Min | Function::Max, false) => Accumulators::Integers(Vec::new()),
            (Function::Min | Function::Max, true) => Accumulators::Numbers(Vec::new()),
            (Function::Distinct, _) => Accumulators::Distinct(Vec::new()),
            (Function::TopK, _) => Accumulators::Tops(Vec::new()),
        }
    }

    /// Makes room for `more` rows, and for no more than these.
    pub fn reserve_exact(&mut self, more: usize) {
        match self {
            Accumulators::Counts(rows) => rows.reserve_exact(more),
            Accumulators::IntegerSums(rows) => rows.reserve_exact(more),
            Accumulators::NumberSums(rows) => rows.reserve_exact(more),
            Accumulators::Integers(rows) => rows.reserve_exact(more),
            Accumulators::Numbers(rows) => rows.reserve_exact(more),
            Accumulators::Distinct(rows) => rows.reserve_exact(more),
            Accumulators::Tops(rows) => rows.reserve_exact(more),
        }
    }

    /// Appends a row that has seen nothing.
    pub fn push_empty(&mut self) {
        match self {
            Accumulators::Counts(rows) => rows.push(0),
            Accumulators::IntegerSums(rows) => rows.push(IntegerSum::default()),
            Accumulators::NumberSums(rows) => rows.push(NumberSum::default()),
            Accumulators::Integers(rows) => rows.push(None),
            Accumulators::Numbers(rows) => rows.push(None),
            Accumulators::Distinct(rows) => rows.push(Distinct::default()),
            Accumulators::Tops(rows) => rows.push(Top::default()),
        }
    }

    /// Adds one value to row `row`, texts of distinct counts by a hash with `key`.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline]
    pub fn add(&mut self, row: usize, shape: Shape, value: Value<'_>, key: HashKey) -> Growth {
        let value = value.counted();
        match (self, value) {
            (_, Value::Missing) => Growth::NONE,
            (Accumulators::Counts(rows), _) => {
                rows[row] = rows[row].saturating_add(1);
                Growth::NONE
            }
            (Accumulators::IntegerSums(rows), Value::Integer(value)) => {
                rows[row].add(value);
                Growth::NONE
            }
            (Accumulators::NumberSums(rows), Value::Number(value)) => {
                rows[row].add(value);
                Growth::NONE
            }
            (Accumulators::Integers(rows), Value::Integer(value)) => {
                rows[row] = Some(rows[row].map_or(value, |known| pick(shape.function, known, value)));
                Growth::NONE
            }
            (Accumulators::Numbers(rows), Value::Number(value)) => {
                rows[row] = Some(rows[row].map_or(value, |known| pick(shape.function, known, value)));
                Growth::NONE
            }
            (Accumulators::Distinct(rows), value) => {
                let row = &mut rows[row];
                let before = (row.bytes(), row.change_bytes());
                row.add(value, shape.limit, key);
                Growth::between(before, (row.bytes(), row.change_bytes()))
            }
            (Accumulators::Tops(rows), value) => {
                let row = &mut rows[row];
                let before = (row.bytes(), row.change_bytes());
                add_top(row, shape.limit, value);
                Growth::between(before, (row.bytes(), row.change_bytes()))
            }
            // A plan gives every aggregate a field of a kind that it takes.
            _ => Growth::NONE,
        }
    }

    /// Variable bytes of row `row`, roughly: what it needs besides its place in the column.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn variable_bytes(&self, row: usize) -> usize {
        match self {
            Accumulators::Distinct(rows) => rows[row].bytes(),
            Accumulators::Tops(rows) => rows[row].bytes(),
            _ => 0,
        }
    }

    /// Rough bytes of what has to be stored of the variable part of row `row`: what has changed, or all of it.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn change_bytes(&self, row: usize) -> usize {
        match self {
            Accumulators::Distinct(rows) => rows[row].change_bytes(),
            Accumulators::Tops(rows) => rows[row].change_bytes(),
            _ => 0,
        }
    }

    /// Row `row` is stored as it is.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn mark_stored(&mut self, row: usize) {
        match self {
            Accumulators::Distinct(rows) => rows[row].mark_stored(),
            Accumulators::Tops(rows) => rows[row].mark_stored(),
            _ => {}
        }
    }

    /// Bytes of each row's place in the column.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        match self {
            Accumulators::Counts(_) => size_of::<i64>(),
            Accumulators::IntegerSums(_) => size_of::<IntegerSum>(),
            Accumulators::NumberSums(_) => size_of::<NumberSum>(),
            Accumulators::Integers(_) => size_of::<Option<i64>>(),
            Accumulators::Numbers(_) => size_of::<Option<f64>>(),
            Accumulators::Distinct(_) => size_of::<Distinct>(),
            Accumulators::Tops(_) => size_of::<Top>(),
        }
    }
}

/// By how many bytes the variable part of a row has grown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// In memory.
    pub memory: isize,
    /// Of what has to be stored.
    pub change: isize,
}

impl Growth {
    const NONE: Growth = Growth { memory: 0, change: 0 };

    /// Memory and change, before and after.
    fn between(before: (usize, usize), after: (usize, usize)) -> Growth {
        let grown = |before: usize, after: usize| after as isize - before as isize;
        Growth { memory: grown(before.0, after.0), change: grown(before.1, after.1) }
    }
}

impl std::ops::AddAssign for Growth {
    fn add_assign(&mut self, other: Growth) {
        self.memory += other.memory;
        self.change += other.change;
    }
}

/// Integers and booleans are counted as JSON writes them. Numbers are not ranked.
fn add_top(top: &mut Top, limit: u32, value: Value<'_>) {
    match value {
        Value::String(item) => top.add(item, limit),
        Value::Integer(value) => top.add(value.to_string().as_bytes(), limit),
        Value::Boolean(value) => top.add(if value { b"true" } else { b"false" }, limit),
        Value::Missing | Value::Number(_) => {}
    }
}

fn pick<T: PartialOrd>(function: Function, known: T, value: T) -> T {
    let takes = if function == Function::Min { value < known } else { known < value };
    if takes { value } else { known }
}

/// The accumulators of one key over the slices of a window.
#[derive(Clone, Debug)]
pub enum Merged<'a> {
    Count(i64),
    IntegerSum(IntegerSum),
    NumberSum(NumberSum),
    Integer(Option<i64>),
    Number(Option<f64>),
    /// Fingerprints of all slices, one slice's after the other; counted at the end.
    Distinct(Vec<u64>),
    Tops(TopMerge<'a>),
}

/// One aggregate of a pane.
#[derive(Clone, Debug, PartialEq)]
pub enum Finished<'a> {
    /// `None`: nothing was seen.
    Integer {
        value: Option<i64>,
        /// The sum left 64 bits; `value` is their nearest end.
        clipped: bool,
    },
    /// `None`: nothing was seen.
    Number(Option<f64>),
    /// Highest count first, then in byte order; empty when nothing was seen.
    Top(Vec<TopItem<'a>>),
}

impl<'a> Merged<'a> {
    /// No slices yet.
    #[must_use]
    pub fn new(shape: Shape) -> Merged<'a> {
        match Accumulators::new(shape) {
            Accumulators::Counts(_) => Merged::Count(0),
            Accumulators::IntegerSums(_) => Merged::IntegerSum(IntegerSum::default()),
            Accumulators::NumberSums(_) => Merged::NumberSum(NumberSum::default()),
            Accumulators::Integers(_) => Merged::Integer(None),
            Accumulators::Numbers(_) => Merged::Number(None),
            Accumulators::Distinct(_) => Merged::Distinct(Vec::new()),
            Accumulators::Tops(_) => Merged::Tops(TopMerge::default()),
        }
    }

    /// Adds row `row` of a later slice.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn merge(&mut self, shape: Shape, from: &'a Accumulators, row: usize) {
        match (self, from) {
            (Merged::Count(acc), Accumulators::Counts(rows)) => *acc = acc.saturating_add(rows[row]),
            (Merged::IntegerSum(acc), Accumulators::IntegerSums(rows)) => acc.merge(&rows[row]),
            (Merged::NumberSum(acc), Accumulators::NumberSums(rows)) => acc.merge(&rows[row]),
            (Merged::Integer(acc), Accumulators::Integers(rows)) => *acc = join(shape.function, *acc, rows[row]),
            (Merged::Number(acc), Accumulators::Numbers(rows)) => *acc = join(shape.function, *acc, rows[row]),
            (Merged::Distinct(acc), Accumulators::Distinct(rows)) => rows[row].append_to(acc),
            (Merged::Tops(acc), Accumulators::Tops(rows)) => acc.merge(&rows[row]),
            _ => unreachable!("both come of one shape"),
        }
    }

    /// The value of the pane.
    #[must_use]
    pub fn finish(self, shape: Shape) -> Finished<'a> {
        let exact = |value| Finished::Integer { value, clipped: false };
        match self {
            Merged::Count(acc) => exact(Some(acc)),
            Merged::IntegerSum(acc) => match acc.clipped() {
                Some((value, clipped)) => Finished::Integer { value: Some(value), clipped },
                None => exact(None),
            },
            Merged::NumberSum(acc) => Finished::Number(acc.total()),
            Merged::Integer(acc) => exact(acc),
            Merged::Number(acc) => Finished::Number(acc),
            Merged::Distinct(mut acc) => {
                // Stable, since that sort makes use of the runs it finds: one per slice.
                acc.sort();
                acc.dedup();
                exact(Some(acc.len().min(shape.limit as usize) as i64))
            }
            Merged::Tops(acc) => Finished::Top(acc.finish(shape.limit)),
        }
    }
}

fn join<T: PartialOrd>(function: Function, left: Option<T>, right: Option<T>) -> Option<T> {
    match (left, right) {
        (Some(left), Some(right)) => Some(pick(function, left, right)),
        (left, right) => left.or(right),
    }
}

impl Finished<'_> {
    /// Whether there is a value of the bound's type within it.
    #[must_use]
    pub fn is_within(&self, bound: Bound) -> bool {
        match self {
            Finished::Integer { value: Some(value), .. } => bound.holds_integer(*value),
            Finished::Number(Some(value)) => bound.holds_number(*value),
            _ => false,
        }
    }
}

/// Within what a value has to be, and of which type it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtLeastInteger(i64),
    AtLeastNumber(f64),
    AtMostInteger(i64),
    AtMostNumber(f64),
}

impl Bound {
    /// Whether it is about numbers rather than integers.
    #[must_use]
    pub fn is_number(self) -> bool {
        matches!(self, Bound::AtLeastNumber(_) | Bound::AtMostNumber(_))
    }

    /// Whether an integer is within it; never within a bound of numbers.
    #[must_use]
    pub fn holds_integer(self, value: i64) -> bool {
        match self {
            Bound::AtLeastInteger(least) => least <= value,
            Bound::AtMostInteger(most) => value <= most,
            Bound::AtLeastNumber(_) | Bound::AtMostNumber(_) => false,
        }
    }

    /// Whether a number is within it; never within a bound of integers.
    #[must_use]
    pub fn holds_number(self, value: f64) -> bool {
        match self {
            Bound::AtLeastNumber(least) => least <= value,
            Bound::AtMostNumber(most) => value <= most,
            Bound::AtLeastInteger(_) | Bound::AtMostInteger(_) => false,
        }
    }
}
