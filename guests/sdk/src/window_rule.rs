//! The world `window-rule`: rules over aggregates that the host keeps natively per key and window.

use std::marker::PhantomData;

use crate::error::Error;
use crate::event::Event;
use crate::field::{Columns, Field, Fields, Kind, column_len, empty_columns, truncate_column};
use crate::module::{Adapter, Identity, Module, with};
use crate::output::Output;
use crate::pane::Pane;
use crate::raw;
use crate::raw::window_rule::{
    Aggregate, AggregateValues, Guest, Operator, RulePlan, Samples as RawSamples, Threshold,
};

/// A rule over windows.
pub trait WindowRule: Module {
    /// What the host keeps per key and window. Depends on the configuration alone.
    fn plan(&self) -> Plan;

    /// Judges one pane.
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
    fn extract(&self, event: &Event<'_, Self::Fields>, samples: &mut Samples<Self::Derived>) -> Result<(), Error>;
}

/// The aggregates of a rule.
///
/// An event without the field changes no aggregate of it; NaN, which only [`Extract`] can give, counts as missing, and
/// −0 as 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    aggregates: Vec<(&'static str, Operator, Option<Field>, u32)>,
    at_least: Vec<(&'static str, i64)>,
}

impl Plan {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Plan {
        Plan::default()
    }

    /// Number of events; 0 when nothing was seen. Read it with [`Pane::count`].
    #[must_use]
    pub fn count(self, name: &'static str) -> Plan {
        self.with(name, Operator::Count, None, 0)
    }

    /// Sum of an integer or number field; missing when nothing was seen. Read it with [`Pane::integer`] or
    /// [`Pane::number`].
    ///
    /// Integers are summed exactly in 128 bits; a sum that leaves 64 bits is clipped to their end, once, at the end
    /// ([`Pane::is_clipped`]). Numbers are summed with compensation: the sum of n values is off by at most 2^-53 of itself
    /// and (n · 2^-53)² of the sum of the absolute values; it is infinite when it leaves the range of a number on the way.
    #[must_use]
    pub fn sum(self, name: &'static str, field: Field) -> Plan {
        self.with(name, Operator::Sum, Some(field), 0)
    }

    /// Smallest value of an integer or number field; missing when nothing was seen.
    #[must_use]
    pub fn min(self, name: &'static str, field: Field) -> Plan {
        self.with(name, Operator::Min, Some(field), 0)
    }

    /// Largest value of an integer or number field; missing when nothing was seen.
    #[must_use]
    pub fn max(self, name: &'static str, field: Field) -> Plan {
        self.with(name, Operator::Max, Some(field), 0)
    }

    /// Number of different values, exactly up to `limit`, where counting stops; 0 when nothing was seen. Read it with
    /// [`Pane::count`]. Values are told apart by a fingerprint of 64 bits.
    #[must_use]
    pub fn distinct(self, name: &'static str, field: Field, limit: u32) -> Plan {
        self.with(name, Operator::Distinct, Some(field), limit)
    }

    /// The `limit` most frequent values of a field of text, integers or booleans; missing when nothing was seen. Read them
    /// with [`Pane::top`]: highest count first, of equal counts in byte order. Of values that tie for the last place, the
    /// first in byte order are given.
    ///
    /// The counts are exact as long as no slice has more than max(1024, 8 · `limit`) different values of a key; a sliding
    /// window has a slice per `slide`, any other window is one. Beyond, a count is never too low and too high by at most its
    /// `error`, and of n events no error, and no count of a value that is left out for want of room, is above
    /// n / max(1024, 8 · `limit`).
    #[must_use]
    pub fn top(self, name: &'static str, field: Field, limit: u32) -> Plan {
        self.with(name, Operator::TopK, Some(field), limit)
    }

    /// Panes in which this aggregate, which has integers, is below `value` or missing are not evaluated. Several
    /// thresholds must all be reached.
    #[must_use]
    pub fn at_least(mut self, name: &'static str, value: i64) -> Plan {
        self.at_least.push((name, value));
        self
    }

    fn with(mut self, name: &'static str, operator: Operator, field: Option<Field>, limit: u32) -> Plan {
        self.aggregates.push((name, operator, field, limit));
        self
    }

    fn named(&self) -> Vec<(&'static str, Operator)> {
        self.aggregates.iter().map(|(name, operator, ..)| (*name, *operator)).collect()
    }

    /// The plan in the shape of the contract.
    ///
    /// # Panics
    /// When a threshold names no aggregate, or a sum reads a text.
    fn to_raw(&self, derived: &[Field], filters: bool) -> RulePlan {
        let aggregate = |(name, operator, field, limit): &(&'static str, Operator, Option<Field>, u32)| {
            let numeric = matches!(operator, Operator::Sum | Operator::Min | Operator::Max);
            if let Some(field) = field.filter(|field| numeric && matches!(field.kind, Kind::Text | Kind::Boolean)) {
                panic!("aggregate `{name}` needs a numeric field, `{}` is none", field.name);
            }
            let field = field.map(|field| field.name.to_owned());
            Aggregate { name: (*name).to_owned(), operator: *operator, field, limit: *limit }
        };
        let threshold = |(name, value): &(&'static str, i64)| {
            let index = self.aggregates.iter().position(|(known, ..)| known == name);
            let Some(aggregate) = index else { panic!("threshold on `{name}`, which is no aggregate of the plan") };
            Threshold { aggregate: aggregate as u32, value: *value }
        };
        RulePlan {
            aggregates: self.aggregates.iter().map(aggregate).collect(),
            derived: derived.iter().map(|field| field.to_raw()).collect(),
            filters,
            at_least: self.at_least.iter().map(threshold).collect(),
        }
    }
}

/// Collects the samples of one call.
pub struct Samples<D: Fields> {
    source: u32,
    raw: RawSamples,
    derived: PhantomData<D>,
}

impl<D: Fields> Samples<D> {
    fn new() -> Samples<D> {
        let raw = RawSamples { sources: Vec::new(), columns: empty_columns(D::FIELDS), rejects: Vec::new() };
        Samples { source: 0, raw, derived: PhantomData }
    }

    /// The event counts, with these computed fields.
    pub fn push(&mut self, derived: D::Row<'_>) {
        self.raw.sources.push(self.source);
        D::write(&derived, &mut self.raw.columns);
    }

    fn settle(&mut self, kept: usize, result: Result<(), Error>) -> Result<(), raw::Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(Error::Failure(failure)) => Err(failure.into()),
            Err(Error::Reject { code, detail }) => {
                self.raw.sources.truncate(kept);
                self.raw.columns.iter_mut().for_each(|column| truncate_column(column, kept));
                self.raw.rejects.push(raw::Reject { source: self.source, code: code.to_owned(), detail });
                Ok(())
            }
        }
    }
}

impl Samples<()> {
    /// The event counts. For filters, which compute nothing.
    pub fn keep(&mut self) {
        self.push(());
    }
}

/// The plan of a rule that does not extract.
pub(crate) fn plan<M: WindowRule>(module: &M) -> RulePlan {
    module.plan().to_raw(&[], false)
}

/// The plan of a rule that extracts.
pub(crate) fn extract_plan<M: Extract>(module: &M) -> RulePlan {
    module.plan().to_raw(M::Derived::FIELDS, true)
}

/// Filters one batch.
pub(crate) fn extract<M: Extract>(module: &M, events: &raw::Events) -> Result<RawSamples, raw::Failure> {
    let columns = Columns::new(&events.columns);
    let mut samples = Samples::<M::Derived>::new();
    for row in 0..events.timestamps.len() {
        samples.source = row as u32;
        let kept = samples.raw.sources.len();
        let result = module.extract(&Event::new(events, &columns, row), &mut samples);
        samples.settle(kept, result)?;
    }
    debug_assert!(samples.raw.columns.iter().all(|column| column_len(column) == samples.raw.sources.len()));
    Ok(samples.raw)
}

/// Judges panes. The time of a pane's record is its last instant.
pub(crate) fn evaluate<M: WindowRule>(
    module: &M,
    panes: &raw::Panes,
    values: &[AggregateValues],
) -> Result<raw::Output, raw::Failure> {
    let aggregates = module.plan().named();
    let mut output = Output::new(&panes.keys.data, M::PORTS);
    for row in 0..panes.starts.len() {
        output.begin(row as u32, panes.ends[row].saturating_sub(1));
        let result = module.evaluate(&Pane::new(panes, row, &aggregates, values), &mut output);
        output.settle(result)?;
    }
    Ok(output.finish())
}

impl<M: WindowRule> Guest for Adapter<M> {
    fn plan() -> RulePlan {
        with::<M, _>(|module| plan(module))
    }

    fn extract(_input: raw::Events) -> Result<RawSamples, raw::Failure> {
        panic!("extract was called although the plan neither derives nor filters")
    }

    fn evaluate(input: raw::Panes, values: Vec<AggregateValues>) -> Result<raw::Output, raw::Failure> {
        with::<M, _>(|module| evaluate(module, &input, &values))
    }
}

/// [`Adapter`] of a rule that extracts.
pub struct ExtractAdapter<M>(PhantomData<M>);

impl<M: Extract + Identity> raw::meta::Guest for ExtractAdapter<M> {
    fn describe() -> raw::Descriptor {
        <Adapter<M> as raw::meta::Guest>::describe()
    }

    fn configure(config: String) -> Result<(), String> {
        <Adapter<M> as raw::meta::Guest>::configure(config)
    }
}

impl<M: Extract> Guest for ExtractAdapter<M> {
    fn plan() -> RulePlan {
        with::<M, _>(|module| extract_plan(module))
    }

    fn extract(input: raw::Events) -> Result<RawSamples, raw::Failure> {
        with::<M, _>(|module| extract(module, &input))
    }

    fn evaluate(input: raw::Panes, values: Vec<AggregateValues>) -> Result<raw::Output, raw::Failure> {
        with::<M, _>(|module| evaluate(module, &input, &values))
    }
}
