//! From a window rule's plan to the engine's, checked against the fields that exist.

use pelton_engine::event::{Field, Kind};
use pelton_engine::guest::{Aggregate, Operator, RulePlan};

use crate::bindings::exports::pelton::guest::window_rules as wit;
use crate::describe::{count, fields, identifier, is_text, unique};

/// The checked plan, or what is wrong with it.
pub(crate) fn plan(said: wit::RulePlan, declared: &[Field]) -> Result<RulePlan, String> {
    count("aggregates", said.aggregates.len())?;
    count("derived fields", said.derived.len())?;
    count("thresholds", said.at_least.len())?;
    let derived = fields(said.derived)?;
    unique("field", declared.iter().chain(&derived).map(|field| field.name.as_str()))?;
    unique("aggregate", said.aggregates.iter().map(|aggregate| aggregate.name.as_str()))?;
    let mut integers = Vec::with_capacity(said.aggregates.len());
    let mut aggregates = Vec::with_capacity(said.aggregates.len());
    for aggregate in said.aggregates {
        let kind = aggregate.field.as_ref().map(|name| kind_of(name, declared, &derived)).transpose()?;
        integers.push(gives_integers(&aggregate, kind)?);
        aggregates.push(Aggregate {
            name: aggregate.name,
            operator: operator(aggregate.operator),
            field: aggregate.field,
            limit: aggregate.limit,
        });
    }
    let mut at_least = Vec::with_capacity(said.at_least.len());
    for threshold in said.at_least {
        match integers.get(threshold.aggregate as usize) {
            Some(true) => at_least.push((threshold.aggregate, threshold.value)),
            Some(false) => {
                return Err(format!("threshold on aggregate {} that is not an integer", threshold.aggregate));
            }
            None => return Err(format!("threshold on aggregate {} of {}", threshold.aggregate, integers.len())),
        }
    }
    Ok(RulePlan { aggregates, derived, at_least, filters: said.filters })
}

fn kind_of(name: &str, declared: &[Field], derived: &[Field]) -> Result<Kind, String> {
    let field = declared.iter().chain(derived).find(|field| field.name == name);
    field.map(|field| field.kind).ok_or_else(|| format!("aggregate over field `{name}`, which is not declared"))
}

/// Whether the aggregate's values are integers; an error when it cannot be computed.
fn gives_integers(aggregate: &wit::Aggregate, kind: Option<Kind>) -> Result<bool, String> {
    use wit::Operator as O;
    let name = &aggregate.name;
    identifier("aggregate", name, is_text)?;
    if matches!(aggregate.operator, O::Distinct | O::TopK) && aggregate.limit == 0 {
        return Err(format!("aggregate `{name}` needs a limit above 0"));
    }
    match (aggregate.operator, kind) {
        (O::Count, _) | (O::Distinct, Some(_)) => Ok(true),
        (O::TopK, Some(Kind::Number)) => Err(format!("aggregate `{name}` cannot rank numbers; use text or integers")),
        (O::TopK, Some(_)) => Ok(false),
        (O::Sum | O::Min | O::Max, Some(Kind::Integer)) => Ok(true),
        (O::Sum | O::Min | O::Max, Some(Kind::Number)) => Ok(false),
        (_, None) => Err(format!("aggregate `{name}` needs a field")),
        (_, Some(kind)) => Err(format!("aggregate `{name}` needs an integer or number field, not {}", kind.name())),
    }
}

fn operator(operator: wit::Operator) -> Operator {
    match operator {
        wit::Operator::Count => Operator::Count,
        wit::Operator::Sum => Operator::Sum,
        wit::Operator::Min => Operator::Min,
        wit::Operator::Max => Operator::Max,
        wit::Operator::Distinct => Operator::Distinct,
        wit::Operator::TopK => Operator::TopK,
    }
}
