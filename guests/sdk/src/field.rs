//! The fields that a rule reads: their declaration, and reading and writing them as columns.
//!
//! The host parses every event once and hands over one column per declared field,
//! so a rule knows neither the wire format nor what a missing field looks like.

use crate::raw;

pub use crate::raw::Kind;

/// The declaration of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Name in the event, unless the pipeline file maps it to another place.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// An event without a required field is a dead letter before the rule sees it.
    pub required: bool,
}

impl Field {
    /// The same declaration in the shape of the contract.
    #[must_use]
    pub fn to_raw(self) -> raw::Field {
        raw::Field { name: self.name.to_owned(), kind: self.kind, required: self.required }
    }
}

/// A struct whose fields are read from events, or computed by a rule. Use `#[derive(Fields)]`.
pub trait Fields: 'static {
    /// The struct with the lifetime of the batch it borrows from.
    type Row<'a>;
    /// One per field, in order of declaration.
    const FIELDS: &'static [Field];
    /// One row.
    fn read<'a>(columns: &Columns<'a>, row: usize) -> Self::Row<'a>;
    /// Appends a row to `columns`, which has one column per field.
    fn write(row: &Self::Row<'_>, columns: &mut [raw::Column]);
}

/// No fields at all.
impl Fields for () {
    type Row<'a> = ();
    const FIELDS: &'static [Field] = &[];
    fn read<'a>(_columns: &Columns<'a>, _row: usize) {}
    fn write(_row: &(), _columns: &mut [raw::Column]) {}
}

/// A type that a field may have: `&str`, `i64`, `f64`, `bool`, or an `Option` of one of them; `String` for derived ones.
pub trait Value<'a>: Sized {
    /// What the field is in the contract.
    const KIND: Kind;
    /// False for `Option`.
    const REQUIRED: bool;
    /// The value in row `row`.
    fn read(column: &Column<'a>, row: usize) -> Self;
    /// Appends this value.
    fn write(&self, column: &mut raw::Column);
}

/// The columns of one batch.
pub struct Columns<'a> {
    columns: Vec<Column<'a>>,
}

/// One column of a batch.
pub struct Column<'a> {
    missing: &'a [u32],
    values: Values<'a>,
}

enum Values<'a> {
    Text(&'a str, &'a [u32]),
    Integers(&'a [i64]),
    Numbers(&'a [f64]),
    Booleans(&'a [bool]),
}

impl<'a> Columns<'a> {
    /// Borrows the columns of a batch. Text is checked to be UTF-8 once here, not per value.
    #[must_use]
    pub fn new(columns: &'a [raw::Column]) -> Columns<'a> {
        let view = |column: &'a raw::Column| Column {
            missing: &column.missing,
            values: match &column.values {
                raw::Values::Text(texts) => Values::Text(text(&texts.data), &texts.ends),
                raw::Values::Integers(values) => Values::Integers(values),
                raw::Values::Numbers(values) => Values::Numbers(values),
                raw::Values::Booleans(values) => Values::Booleans(values),
            },
        };
        Columns { columns: columns.iter().map(view).collect() }
    }

    /// The column of the field declared at `index`.
    #[must_use]
    pub fn column(&self, index: usize) -> &Column<'a> {
        &self.columns[index]
    }
}

impl Column<'_> {
    fn is_missing(&self, row: usize) -> bool {
        !self.missing.is_empty() && self.missing.binary_search(&(row as u32)).is_ok()
    }
}

impl<'a> Value<'a> for &'a str {
    const KIND: Kind = Kind::Text;
    const REQUIRED: bool = true;

    fn read(column: &Column<'a>, row: usize) -> &'a str {
        let Values::Text(text, ends) = &column.values else { wrong_kind("text") };
        let start = if row == 0 { 0 } else { ends[row - 1] as usize };
        &text[start..ends[row] as usize]
    }

    fn write(&self, column: &mut raw::Column) {
        let raw::Values::Text(texts) = &mut column.values else { wrong_kind("text") };
        texts.data.extend_from_slice(self.as_bytes());
        texts.ends.push(texts.data.len() as u32);
    }
}

impl<'a> Value<'a> for String {
    const KIND: Kind = Kind::Text;
    const REQUIRED: bool = true;

    fn read(column: &Column<'a>, row: usize) -> String {
        <&str>::read(column, row).to_owned()
    }

    fn write(&self, column: &mut raw::Column) {
        self.as_str().write(column);
    }
}

macro_rules! plain_value {
    ($type:ty, $kind:ident, $values:ident, $name:literal) => {
        impl<'a> Value<'a> for $type {
            const KIND: Kind = Kind::$kind;
            const REQUIRED: bool = true;

            fn read(column: &Column<'a>, row: usize) -> $type {
                let Values::$values(values) = &column.values else { wrong_kind($name) };
                values[row]
            }

            fn write(&self, column: &mut raw::Column) {
                let raw::Values::$values(values) = &mut column.values else { wrong_kind($name) };
                values.push(*self);
            }
        }
    };
}

plain_value!(i64, Integer, Integers, "integers");
plain_value!(f64, Number, Numbers, "numbers");
plain_value!(bool, Boolean, Booleans, "booleans");

impl<'a, T: Value<'a> + Default> Value<'a> for Option<T> {
    const KIND: Kind = T::KIND;
    const REQUIRED: bool = false;

    fn read(column: &Column<'a>, row: usize) -> Option<T> {
        if column.is_missing(row) { None } else { Some(T::read(column, row)) }
    }

    fn write(&self, column: &mut raw::Column) {
        match self {
            Some(value) => value.write(column),
            None => {
                column.missing.push(column_len(column) as u32);
                T::default().write(column);
            }
        }
    }
}

/// Empty columns for `fields`.
pub(crate) fn empty_columns(fields: &[Field]) -> Vec<raw::Column> {
    let values = |kind| match kind {
        Kind::Text => raw::Values::Text(raw::Texts { data: Vec::new(), ends: Vec::new() }),
        Kind::Integer => raw::Values::Integers(Vec::new()),
        Kind::Number => raw::Values::Numbers(Vec::new()),
        Kind::Boolean => raw::Values::Booleans(Vec::new()),
    };
    fields.iter().map(|field| raw::Column { missing: Vec::new(), values: values(field.kind) }).collect()
}

/// Number of rows of a column.
pub(crate) fn column_len(column: &raw::Column) -> usize {
    match &column.values {
        raw::Values::Text(texts) => texts.ends.len(),
        raw::Values::Integers(values) => values.len(),
        raw::Values::Numbers(values) => values.len(),
        raw::Values::Booleans(values) => values.len(),
    }
}

/// Drops all rows from `len` on.
pub(crate) fn truncate_column(column: &mut raw::Column, len: usize) {
    match &mut column.values {
        raw::Values::Text(texts) => {
            texts.ends.truncate(len);
            texts.data.truncate(texts.ends.last().map_or(0, |end| *end as usize));
        }
        raw::Values::Integers(values) => values.truncate(len),
        raw::Values::Numbers(values) => values.truncate(len),
        raw::Values::Booleans(values) => values.truncate(len),
    }
    while column.missing.last().is_some_and(|row| len <= *row as usize) {
        column.missing.pop();
    }
}

/// The host's promise that texts are UTF-8, checked.
pub(crate) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("the host hands over UTF-8")
}

fn wrong_kind(wanted: &str) -> ! {
    panic!("the host sent a column of another type, wanted {wanted}")
}
