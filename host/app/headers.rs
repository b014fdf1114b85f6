//! Headers of a record as a JSON object.

use serde_json::{Map, Value};

/// Names and values; a name that comes more than once has the list of its values.
pub(crate) fn object<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in headers {
        match object.get_mut(name) {
            None => drop(object.insert(name.to_owned(), value.into())),
            Some(Value::Array(values)) => values.push(value.into()),
            Some(first) => *first = Value::Array(vec![first.take(), value.into()]),
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_value_is_left_out() {
        let headers = [("A", "1"), ("B", ""), ("A", "2"), ("a", "3"), ("A", "1")];
        assert_eq!(Value::Object(object(headers.into_iter())), json!({"A": ["1", "2", "1"], "B": "", "a": "3"}));
    }
}
