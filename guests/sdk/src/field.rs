//! The fields that a rule reads: their declaration, and reading and writing them as columns.
//!
//! The host parses every event once and hands over one column per declared field,
//! so a rule knows neither the wire format nor what a missing field looks like.

use std::rc::Rc;

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

/// The fields that [`Module::shape`](crate::Module::shape) names, for a rule whose configuration decides them.
pub struct Configured;

/// One event's values of configured fields.
pub struct ConfiguredRow<'a> {
    columns: Columns<'a>,
    row: usize,
}

impl Fields for Configured {
    type Row<'a> = ConfiguredRow<'a>;
    const FIELDS: &'static [Field] = &[];
    fn read<'a>(columns: &Columns<'a>, row: usize) -> ConfiguredRow<'a> {
        ConfiguredRow { columns: columns.clone(), row }
    }
    fn write(_row: &ConfiguredRow<'_>, _columns: &mut [raw::Column]) {}
}

impl<'a> ConfiguredRow<'a> {
    /// The value of the field at `index` of the shape; `None` when the event does not have it.
    ///
    /// # Panics
    /// When the field is of another kind than `T`.
    #[must_use]
    pub fn get<T: Value<'a> + Default>(&self, index: usize) -> Option<T> {
        <Option<T>>::read(self.columns.column(index), self.row)
    }
}

/// No fields at all.
impl Fields for () {
    type Row<'a> = ();
    const FIELDS: &'static [Field] = &[];
    fn read<'a>(_columns: &Columns<'a>, _row: usize) {}
    fn write(_row: &(), _columns: &mut [raw::Column]) {}
}

/// A number with its digits as they were written, such as `12.50`: parse it with the decimal type of your choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decimal<'a>(pub &'a str);

/// A value as the JSON text that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawJson<'a>(pub &'a str);

/// A type that a field may have: `&str`, `i64`, `f64`, `bool`, [`Decimal`], [`RawJson`], `&[u8]` (base64 in the event), or
/// an `Option` of one of them; `String` for derived ones.
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
#[derive(Clone)]
pub struct Columns<'a> {
    columns: Rc<[Column<'a>]>,
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
    Decimals(&'a str, &'a [u32]),
    Jsons(&'a str, &'a [u32]),
    Blobs(&'a [u8], &'a [u32]),
}

impl<'a> Columns<'a> {
    /// Borrows the columns of a batch. Text is checked to be UTF-8 once here, not per value.
    #[must_use]
    pub fn new(columns: &'a [raw::Column]) -> Columns<'a> {
        let view = |column: &'a raw::Column| Column {
            missing: &column.missing,
            values: match &column.values {
                raw::Values::Strings(texts) => Values::Text(text(&texts.data), &texts.ends),
                raw::Values::Decimals(texts) => Values::Decimals(text(&texts.data), &texts.ends),
                raw::Values::Jsons(texts) => Values::Jsons(text(&texts.data), &texts.ends),
                raw::Values::Blobs(blobs) => Values::Blobs(&blobs.data, &blobs.ends),
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
    const KIND: Kind = Kind::String;
    const REQUIRED: bool = true;

    fn read(column: &Column<'a>, row: usize) -> &'a str {
        let Values::Text(text, ends) = &column.values else { wrong_kind("strings") };
        &text[range(ends, row)]
    }

    fn write(&self, column: &mut raw::Column) {
        let raw::Values::Strings(texts) = &mut column.values else { wrong_kind("strings") };
        push(texts, self.as_bytes());
    }
}

impl<'a> Value<'a> for Decimal<'a> {
    const KIND: Kind = Kind::Decimal;
    const REQUIRED: bool = true;

    fn read(column: &Column<'a>, row: usize) -> Decimal<'a> {
        let Values::Decimals(digits, ends) = &column.values else { wrong_kind("decimals") };
        Decimal(&digits[range(ends, row)])
    }

    fn write(&self, column: &mut raw::Column) {
        let raw::Values::Decimals(texts) = &mut column.values else { wrong_kind("decimals") };
        push(texts, self.0.as_bytes());
    }
}

impl<'a> Value<'a> for RawJson<'a> {
    const KIND: Kind = Kind::Json;
    const REQUIRED: bool = true;

    fn read(column: &Column<'a>, row: usize) -> RawJson<'a> {
        let Values::Jsons(text, ends) = &column.values else { wrong_kind("json") };
        RawJson(&text[range(ends, row)])
    }

    fn write(&self, column: &mut raw::Column) {
        let raw::Values::Jsons(texts) = &mut column.values else { wrong_kind("json") };
        push(texts, self.0.as_bytes());
    }
}

impl<'a> Value<'a> for &'a [u8] {
    const KIND: Kind = Kind::Bytes;
    const REQUIRED: bool = true;

    fn read(column: &Column<'a>, row: usize) -> &'a [u8] {
        let Values::Blobs(bytes, ends) = &column.values else { wrong_kind("bytes") };
        &bytes[range(ends, row)]
    }

    fn write(&self, column: &mut raw::Column) {
        let raw::Values::Blobs(blobs) = &mut column.values else { wrong_kind("bytes") };
        push(blobs, self);
    }
}

impl<'a> Value<'a> for String {
    const KIND: Kind = Kind::String;
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

/// No strings.
pub(crate) fn no_strings() -> raw::Strings {
    raw::Strings { data: Vec::new(), ends: Vec::new() }
}

/// Where row `row` of a column of strings is.
fn range(ends: &[u32], row: usize) -> std::ops::Range<usize> {
    let start = if row == 0 { 0 } else { ends[row - 1] as usize };
    start..ends[row] as usize
}

/// Appends a row to a column of strings.
pub(crate) fn push(strings: &mut raw::Strings, bytes: &[u8]) {
    strings.data.extend_from_slice(bytes);
    strings.ends.push(strings.data.len() as u32);
}

/// Empty columns of these kinds.
pub(crate) fn empty_columns(kinds: impl Iterator<Item = Kind>) -> Vec<raw::Column> {
    let values = |kind| match kind {
        Kind::String => raw::Values::Strings(no_strings()),
        Kind::Decimal => raw::Values::Decimals(no_strings()),
        Kind::Json => raw::Values::Jsons(no_strings()),
        Kind::Bytes => raw::Values::Blobs(no_strings()),
        Kind::Integer => raw::Values::Integers(Vec::new()),
        Kind::Number => raw::Values::Numbers(Vec::new()),
        Kind::Boolean => raw::Values::Booleans(Vec::new()),
    };
    kinds.map(|kind| raw::Column { missing: Vec::new(), values: values(kind) }).collect()
}

/// Number of rows of a column.
pub(crate) fn column_len(column: &raw::Column) -> usize {
    match &column.values {
        raw::Values::Strings(strings)
        | raw::Values::Decimals(strings)
        | raw::Values::Jsons(strings)
        | raw::Values::Blobs(strings) => strings.ends.len(),
        raw::Values::Integers(values) => values.len(),
        raw::Values::Numbers(values) => values.len(),
        raw::Values::Booleans(values) => values.len(),
    }
}

/// Drops all rows from `len` on.
pub(crate) fn truncate_column(column: &mut raw::Column, len: usize) {
    match &mut column.values {
        raw::Values::Strings(strings)
        | raw::Values::Decimals(strings)
        | raw::Values::Jsons(strings)
        | raw::Values::Blobs(strings) => {
            strings.ends.truncate(len);
            strings.data.truncate(strings.ends.last().map_or(0, |end| *end as usize));
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
