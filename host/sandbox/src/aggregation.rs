//! From a window rule's aggregation to the engine's, checked against the fields that exist.

use pelton_engine::event::{Field, Kind};
use pelton_engine::guest::{Aggregate, AggregateShape, Aggregation, Bound, Condition, Function};

use crate::bindings::exports::pelton::guest::window_rules as wit;
use crate::describe::{count, fields, identifier, is_text, unique};
use crate::limits::{DECLARATIONS_MAX, NAME_BYTES};
use crate::log::printable;

/// The checked aggregation, or what is wrong with it.
pub(crate) fn aggregation(said: wit::Aggregation, declared: &[Field]) -> Result<Aggregation, String> {
    count("aggregates", said.aggregates.len(), DECLARATIONS_MAX)?;
    count("derived fields", said.derived.len(), DECLARATIONS_MAX)?;
    count("thresholds", said.thresholds.len(), DECLARATIONS_MAX)?;
    count("conditions of thresholds", said.thresholds.iter().map(Vec::len).sum(), DECLARATIONS_MAX)?;
    let derived = fields(said.derived)?;
    unique("field", declared.iter().chain(&derived).map(|field| field.name.as_str()))?;
    unique("aggregate", said.aggregates.iter().map(|aggregate| aggregate.name.as_str()))?;
    let mut shapes = Vec::with_capacity(said.aggregates.len());
    let mut aggregates = Vec::with_capacity(said.aggregates.len());
    for aggregate in said.aggregates {
        let kind = aggregate.field.as_ref().map(|name| kind_of(name, declared, &derived)).transpose()?;
        let function = function(&aggregate)?;
        let aggregate = Aggregate { name: aggregate.name, function, field: aggregate.field, limit: aggregate.limit };
        shapes.push(aggregate.shape(kind)?);
        aggregates.push(aggregate);
    }
    let list = |all_of: Vec<wit::Condition>| all_of.into_iter().map(|said| condition(&said, &shapes)).collect();
    let thresholds = said.thresholds.into_iter().map(list).collect::<Result<_, String>>()?;
    Ok(Aggregation { aggregates, derived, thresholds, filters: said.filters })
}

fn condition(said: &wit::Condition, shapes: &[AggregateShape]) -> Result<Condition, String> {
    let (aggregate, of) = (said.aggregate, shapes.len());
    let bound = match said.bound {
        wit::Bound::AtLeastInteger(least) => Bound::AtLeastInteger(least),
        wit::Bound::AtLeastNumber(least) => Bound::AtLeastNumber(least),
        wit::Bound::AtMostInteger(most) => Bound::AtMostInteger(most),
        wit::Bound::AtMostNumber(most) => Bound::AtMostNumber(most),
    };
    let wanted = if bound.is_number() { "numbers" } else { "integers" };
    match shapes.get(aggregate as usize) {
        Some(shape) if shape.takes(bound) => Ok(Condition { aggregate, bound }),
        Some(_) => Err(format!("threshold of {wanted} on aggregate {aggregate}, whose values are not {wanted}")),
        None => Err(format!("threshold on aggregate {aggregate} of {of}")),
    }
}

fn kind_of(name: &str, declared: &[Field], derived: &[Field]) -> Result<Kind, String> {
    let field = declared.iter().chain(derived).find(|field| field.name == name);
    field.map(|field| field.kind).ok_or_else(|| format!("aggregate over field `{name}`, which is not declared"))
}

/// The function of an aggregate that asks for nothing this host does not know.
fn function(aggregate: &wit::Aggregate) -> Result<Function, String> {
    let name = &aggregate.name;
    identifier("aggregate", name, is_text)?;
    if let Some((option, _)) = aggregate.options.first() {
        let option = printable(option, NAME_BYTES);
        return Err(format!("aggregate `{name}` has the option `{option}`, which this host does not know"));
    }
    Function::of_name(&aggregate.function).ok_or_else(|| {
        let function = printable(&aggregate.function, NAME_BYTES);
        let known = Function::ALL.map(Function::name).join("`, `");
        format!("aggregate `{name}` is a `{function}`, which this host does not know; it knows `{known}`")
    })
}
