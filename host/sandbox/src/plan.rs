//! From a window rule's aggregation to the engine's, checked against the fields that exist.

use pelton_engine::event::{Field, Kind};
use pelton_engine::guest::{Aggregate, Aggregation, Bound, Condition, Function};

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
    let mut types = Vec::with_capacity(said.aggregates.len());
    let mut aggregates = Vec::with_capacity(said.aggregates.len());
    for aggregate in said.aggregates {
        let kind = aggregate.field.as_ref().map(|name| kind_of(name, declared, &derived)).transpose()?;
        let function = function(&aggregate)?;
        types.push(type_of(&aggregate, function, kind)?);
        aggregates.push(Aggregate { name: aggregate.name, function, field: aggregate.field, limit: aggregate.limit });
    }
    let list = |all_of: Vec<wit::Condition>| all_of.into_iter().map(|said| condition(&said, &types)).collect();
    let thresholds = said.thresholds.into_iter().map(list).collect::<Result<_, String>>()?;
    Ok(Aggregation { aggregates, derived, thresholds, filters: said.filters })
}

/// What the values of an aggregate are.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Integers,
    Numbers,
    Others,
}

fn condition(said: &wit::Condition, types: &[Type]) -> Result<Condition, String> {
    let (aggregate, of) = (said.aggregate, types.len());
    let bound = match said.bound {
        wit::Bound::AtLeastInteger(least) => Bound::AtLeastInteger(least),
        wit::Bound::AtLeastNumber(least) => Bound::AtLeastNumber(least),
        wit::Bound::AtMostInteger(most) => Bound::AtMostInteger(most),
        wit::Bound::AtMostNumber(most) => Bound::AtMostNumber(most),
    };
    let wanted = if bound.is_number() { Type::Numbers } else { Type::Integers };
    match types.get(aggregate as usize) {
        Some(found) if *found == wanted => Ok(Condition { aggregate, bound }),
        Some(_) if wanted == Type::Integers => {
            Err(format!("threshold of integers on aggregate {aggregate}, whose values are not integers"))
        }
        Some(_) => Err(format!("threshold of numbers on aggregate {aggregate}, whose values are not numbers")),
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

/// The type of an aggregate's values; an error when it cannot be computed.
fn type_of(aggregate: &wit::Aggregate, function: Function, kind: Option<Kind>) -> Result<Type, String> {
    use Function as F;
    let name = &aggregate.name;
    if function.has_limit() && aggregate.limit == 0 {
        return Err(format!("aggregate `{name}` needs a limit above 0"));
    }
    match (function, kind) {
        (F::Distinct | F::TopK, Some(kind @ (Kind::Decimal | Kind::Json | Kind::Bytes))) => {
            let reason = "which writes one value in several ways; derive a string from it";
            Err(format!("aggregate `{name}` cannot tell values apart of a field that is {}, {reason}", kind.name()))
        }
        (F::Count, _) | (F::Distinct, Some(_)) => Ok(Type::Integers),
        (F::TopK, Some(Kind::Number)) => {
            Err(format!("aggregate `{name}` cannot rank numbers; use strings or integers"))
        }
        (F::TopK, Some(_)) => Ok(Type::Others),
        (F::Sum | F::Min | F::Max, Some(Kind::Integer)) => Ok(Type::Integers),
        (F::Sum | F::Min | F::Max, Some(Kind::Number)) => Ok(Type::Numbers),
        (_, None) => Err(format!("aggregate `{name}` needs a field")),
        (_, Some(kind)) => Err(format!("aggregate `{name}` needs an integer or number field, not {}", kind.name())),
    }
}
