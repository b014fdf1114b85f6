//! The world `window-rule`: rules over aggregates that the host keeps natively per key and window.

use std::marker::PhantomData;

use crate::counters::Counters;
use crate::error::Error;
use crate::event::Event;
use crate::field::{Columns, Field, Fields, Kind, column_len, empty_columns, truncate_column};
use crate::module::{Adapter, Configured, Identity, Module, with};
use crate::output::Output;
use crate::pane::Pane;
use crate::raw;
use crate::raw::window_rule::{
    Aggregate, AggregateValues, Aggregation as RawAggregation, Bound, Condition, Guest, Samples as RawSamples,
};

/// A rule over windows.
pub trait WindowRule: Module {
    /// What the host keeps per key and window. Depends on the configuration alone.
    fn aggregates(&self) -> Aggregation;

    /// Evaluates one pane.
    ///
    /// # Errors
    /// [`Error::reject`] makes the pane a dead letter.
    fn evaluate(&self, pane: &Pane<'_>, output: &mut Output<'_>) -> Result<(), Error>;
}

/// A window rule that sees every event first, to filter it or to compute values from it.
/// Export it with `export!(window_rule + extract: Rule)`.
pub trait Extract: WindowRule {
    /// The computed fields; `()` for a filter.
    type Derived: Fields;

    /// Pushes one sample per time that the event counts: none drops it from the windows.
    ///
    /// # Errors
    /// [`Error::reject`] makes the event a dead letter.
    fn extract(&self, event: &Event<'_, Self::Fields>, samples: &mut Samples<'_, Self::Derived>) -> Result<(), Error>;
}

/// The aggregates of a rule, and which panes it is asked about.
///
/// An event without the field changes no aggregate of it; NaN, which only [`Extract`] can give, counts as missing, and
/// −0 as 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Aggregation {
    aggregates: Vec<Named>,
    /// Lists of conditions on aggregates, by their names.
    thresholds: Vec<Vec<(&'static str, Bound)>>,
}

/// One aggregate of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Named {
    name: &'static str,
    function: &'static str,
    field: Option<Field>,
    limit: u32,
}

impl Aggregation {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Aggregation {
        Aggregation::default()
    }

    /// Number of events; 0 when nothing was seen. Read it with [`Pane::count`].
    #[must_use]
    pub fn count(self, name: &'static str) -> Aggregation {
        self.with(name, "count", None, 0)
    }

    /// Sum of an integer or number field; missing when nothing was seen. Read it with [`Pane::integer`] or
    /// [`Pane::number`].
    ///
    /// Integers are summed exactly in 128 bits; a sum that leaves 64 bits is clipped to their end, once, at the end
    /// ([`Pane::is_clipped`]). Numbers are summed with compensation: the sum of n values is off by at most 2^-53 of itself
    /// and (n · 2^-53)² of the sum of the absolute values; it is infinite when it leaves the range of a number on the way.
    #[must_use]
    pub fn sum(self, name: &'static str, field: Field) -> Aggregation {
        self.with(name, "sum", Some(field), 0)
    }

    /// Smallest value of an integer or number field; missing when nothing was seen.
    #[must_use]
    pub fn min(self, name: &'static str, field: Field) -> Aggregation {
        self.with(name, "min", Some(field), 0)
    }

    /// Largest value of an integer or number field; missing when nothing was seen.
    #[must_use]
    pub fn max(self, name: &'static str, field: Field) -> Aggregation {
        self.with(name, "max", Some(field), 0)
    }

    /// Number of different values, exactly up to `limit`, where counting stops; 0 when nothing was seen. Read it with
    /// [`Pane::count`]. Values are told apart by a fingerprint of 64 bits.
    #[must_use]
    pub fn distinct(self, name: &'static str, field: Field, limit: u32) -> Aggregation {
        self.with(name, "distinct", Some(field), limit)
    }

    /// The `limit` most frequent values of a field of text, integers or booleans; missing when nothing was seen. Read them
    /// with [`Pane::top`]: highest count first, of equal counts in byte order. Of values that tie for the last place, the
    /// first in byte order are given.
    ///
    /// The counts are exact as long as no slice has more than max(1024, 8 · `limit`) different values of a key; a sliding
    /// window has a slice per slide, any other window is one. Beyond, a count is never too low and too high by at most its
    /// `error`, and of n events no error, and no count of a value that is left out for want of room, is above
    /// n / max(1024, 8 · `limit`).
    #[must_use]
    pub fn top(self, name: &'static str, field: Field, limit: u32) -> Aggregation {
        self.with(name, "top-k", Some(field), limit)
    }

    /// Panes are evaluated in which this aggregate, whose values are integers, is `least` or more. Several conditions must
    /// all hold, unless [`or`](Aggregation::or) stands between them; a value that is missing fulfils none.
    #[must_use]
    pub fn at_least(self, name: &'static str, least: i64) -> Aggregation {
        self.when(name, Bound::AtLeastInteger(least))
    }

    /// The same for an aggregate whose values are numbers.
    #[must_use]
    pub fn at_least_number(self, name: &'static str, least: f64) -> Aggregation {
        self.when(name, Bound::AtLeastNumber(least))
    }

    /// Panes are evaluated in which this aggregate, whose values are integers, is `most` or less.
    #[must_use]
    pub fn at_most(self, name: &'static str, most: i64) -> Aggregation {
        self.when(name, Bound::AtMostInteger(most))
    }

    /// The same for an aggregate whose values are numbers.
    #[must_use]
    pub fn at_most_number(self, name: &'static str, most: f64) -> Aggregation {
        self.when(name, Bound::AtMostNumber(most))
    }

    /// The conditions that follow are an alternative to those before.
    #[must_use]
    pub fn or(mut self) -> Aggregation {
        self.thresholds.push(Vec::new());
        self
    }

    fn when(mut self, name: &'static str, bound: Bound) -> Aggregation {
        match self.thresholds.last_mut() {
            Some(list) => list.push((name, bound)),
            None => self.thresholds.push(vec![(name, bound)]),
        }
        self
    }

    fn with(mut self, name: &'static str, function: &'static str, field: Option<Field>, limit: u32) -> Aggregation {
        self.aggregates.push(Named { name, function, field, limit });
        self
    }

    fn named(&self) -> Vec<(&'static str, &'static str)> {
        self.aggregates.iter().map(|aggregate| (aggregate.name, aggregate.function)).collect()
    }

    /// In the shape of the contract.
    ///
    /// # Panics
    /// When a condition names no aggregate, an alternative has no condition, or a sum reads a string.
    fn to_raw(&self, derived: &[Field], filters: bool) -> RawAggregation {
        let aggregate = |&Named { name, function, field, limit }: &Named| {
            let is_numeric = matches!(function, "sum" | "min" | "max");
            let is_number = |field: &Field| matches!(field.kind, Kind::Integer | Kind::Number);
            if let Some(field) = field.filter(|field| is_numeric && !is_number(field)) {
                panic!("aggregate `{name}` needs a numeric field, `{}` is none", field.name);
            }
            let field = field.map(|field| field.name.to_owned());
            Aggregate { name: name.to_owned(), function: function.to_owned(), field, limit, options: Vec::new() }
        };
        let condition = |(name, bound): &(&'static str, Bound)| {
            let index = self.aggregates.iter().position(|known| known.name == *name);
            let Some(aggregate) = index else { panic!("threshold on `{name}`, which is not an aggregate of the rule") };
            Condition { aggregate: aggregate as u32, bound: *bound }
        };
        let list = |list: &Vec<(&'static str, Bound)>| {
            assert!(!list.is_empty(), "`or` stands between conditions");
            list.iter().map(condition).collect()
        };
        RawAggregation {
            aggregates: self.aggregates.iter().map(aggregate).collect(),
            derived: derived.iter().map(|field| field.to_raw()).collect(),
            filters,
            thresholds: self.thresholds.iter().map(list).collect(),
        }
    }
}

/// Collects the samples of one call.
pub struct Samples<'a, D: Fields> {
    row: u32,
    raw: RawSamples,
    counters: Counters<'a>,
    derived: PhantomData<D>,
}

impl<'a, D: Fields> Samples<'a, D> {
    fn new(counters: &'a [String]) -> Samples<'a, D> {
        let columns = empty_columns(D::FIELDS.iter().map(|field| field.kind));
        let raw = RawSamples { rows: Vec::new(), columns, rejects: Vec::new(), additions: Vec::new() };
        Samples { row: 0, raw, counters: Counters::new(counters), derived: PhantomData }
    }

    /// Adds to a counter of the module.
    ///
    /// # Panics
    /// When the module declares no such counter.
    pub fn add(&mut self, counter: &str, add: i64) {
        self.counters.add(counter, add);
    }

    /// The event counts, with these computed fields.
    pub fn push(&mut self, derived: D::Row<'_>) {
        self.raw.rows.push(self.row);
        D::write(&derived, &mut self.raw.columns);
    }

    fn settle(&mut self, kept: usize, result: Result<(), Error>) -> Result<(), raw::Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(Error::Failure(failure)) => Err(failure.into()),
            Err(Error::Reject { code, detail, place }) => {
                self.counters.drop_row();
                self.raw.rows.truncate(kept);
                self.raw.columns.iter_mut().for_each(|column| truncate_column(column, kept));
                self.raw.rejects.push(raw::Reject { row: self.row, code: code.to_owned(), detail, place });
                Ok(())
            }
        }
    }
}

impl Samples<'_, ()> {
    /// The event counts. For filters, which compute nothing.
    pub fn keep(&mut self) {
        self.push(());
    }
}

/// The aggregation of a rule that does not extract.
pub(crate) fn aggregates<M: WindowRule>(module: &Configured<M>) -> RawAggregation {
    module.rule.aggregates().to_raw(&[], false)
}

/// The aggregation of a rule that extracts.
pub(crate) fn extract_aggregates<M: Extract>(module: &Configured<M>) -> RawAggregation {
    module.rule.aggregates().to_raw(M::Derived::FIELDS, true)
}

/// Filters one batch.
pub(crate) fn extract<M: Extract>(module: &Configured<M>, events: &raw::Events) -> Result<RawSamples, raw::Failure> {
    let columns = Columns::new(&events.columns);
    let mut samples = Samples::<M::Derived>::new(&module.shape.counters);
    for row in 0..events.timestamps.len() {
        samples.row = row as u32;
        samples.counters.begin(row as u32);
        let kept = samples.raw.rows.len();
        let result = module.rule.extract(&Event::new(events, &columns, row), &mut samples);
        samples.settle(kept, result)?;
    }
    debug_assert!(samples.raw.columns.iter().all(|column| column_len(column) == samples.raw.rows.len()));
    Ok(RawSamples { additions: samples.counters.finish(), ..samples.raw })
}

/// Evaluates panes. The time of a pane's record is its last instant.
pub(crate) fn evaluate<M: WindowRule>(
    module: &Configured<M>,
    panes: &raw::Panes,
    values: &[AggregateValues],
) -> Result<raw::Output, raw::Failure> {
    let aggregates = module.rule.aggregates().named();
    let mut output = Output::new(&panes.keys.data, &module.shape);
    for row in 0..panes.starts.len() {
        output.begin(row as u32, panes.ends[row].saturating_sub(1));
        let result = module.rule.evaluate(&Pane::new(panes, row, &aggregates, values), &mut output);
        output.settle(result)?;
    }
    Ok(output.finish())
}

impl<M: WindowRule> Guest for Adapter<M> {
    fn aggregates() -> RawAggregation {
        with::<M, _>(aggregates)
    }

    fn extract(_input: raw::Events) -> Result<RawSamples, raw::Failure> {
        panic!("extract was called although the aggregation neither derives nor filters")
    }

    fn evaluate(input: raw::Panes, values: Vec<AggregateValues>) -> Result<raw::Output, raw::Failure> {
        with::<M, _>(|module| evaluate(module, &input, &values))
    }
}

/// [`Adapter`] of a rule that extracts.
pub struct ExtractAdapter<M>(PhantomData<M>);

impl<M: Extract + Identity> raw::meta::Guest for ExtractAdapter<M> {
    fn describe() -> raw::Identity {
        <Adapter<M> as raw::meta::Guest>::describe()
    }

    fn configure(config: String) -> Result<raw::Shape, String> {
        <Adapter<M> as raw::meta::Guest>::configure(config)
    }
}

impl<M: Extract> Guest for ExtractAdapter<M> {
    fn aggregates() -> RawAggregation {
        with::<M, _>(extract_aggregates)
    }

    fn extract(input: raw::Events) -> Result<RawSamples, raw::Failure> {
        with::<M, _>(|module| extract(module, &input))
    }

    fn evaluate(input: raw::Panes, values: Vec<AggregateValues>) -> Result<raw::Output, raw::Failure> {
        with::<M, _>(|module| evaluate(module, &input, &values))
    }
}
