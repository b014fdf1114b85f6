//! The fields that a rule reads: their declaration, and reading and writing them as columns.
//!
//! The host parses every event once and hands over one column per declared field,
//! so a rule knows neither the wire format nor what a missing field looks like.

use std::rc::Rc;

use crate::raw;

pub use crate::raw::{Kind, Need};

/// The declaration of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Name in the event, unless the pipeline file maps it to another place; one that begins with `/` is a JSON pointer.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What the host makes of an event without a value of this type.
    pub need: Need,
}

impl Field {
    /// The same declaration in the shape of the contract.
    #[must_use]
    pub fn to_raw(self) -> raw::Field {
        raw::Field { name: self.name.to_owned(), kind: self.kind, need: self.need }
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

    /// The value of the lenient field at `index` of the shape.
    ///
    /// # Panics
    /// When the field is of another kind than `T`.
    #[must_use]
    pub fn lenient<T: Value<'a> + Default>(&self, index: usize) -> Lenient<T> {
        <Lenient<T>>::read(self.columns.column(index), self.row)
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

/// A type that a field may have: `&str`, `i64`, `f64`, `bool`, [`Decimal`], [`RawJson`], `&[u8]` (base64 in the event), an
/// `Option` of one of them, or [`Lenient`] of one of the first four; `String` for derived ones.
pub trait Value<'a>: Sized {
    /// What the field is in the contract.
    const KIND: Kind;
    /// Required, but for `Option` and [`Lenient`].
    const NEED: Need;
    /// The value in row `row`.
    fn read(column: &Column<'a>, row: usize) -> Self;
    /// Appends this value.
    fn write(&self, column: &mut raw::Column);
}

/// A field of which any event is taken, for rules that judge events themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lenient<T> {
    /// It is not there.
    #[default]
    Missing,
    /// It is null, or of another type.
    Unlike,
    /// It has this value.
    Value(T),
}

/// The columns of one batch.
#[derive(Clone)]
pub struct Columns<'a> {
    columns: Rc<[Column<'a>]>,
}

/// One column of a batch.
pub struct Column<'a> {
    missing: &'a [u32],
    unlike: &'a [u32],
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
            unlike: &column.unlike,
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
        has(self.missing, row)
    }
}

/// Whether a list of rows, mostly empty, has this one.
fn has(rows: &[u32], row: usize) -> bool {
    !rows.is_empty() && rows.binary_search(&(row as u32)).is_ok()
}

impl<'a> Value<'a> for &'a str {
    const KIND: Kind = Kind::String;
    const NEED: Need = Need::Required;

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
    const NEED: Need = Need::Required;

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
    const NEED: Need = Need::Required;

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
    const NEED: Need = Need::Required;

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
    const NEED: Need = Need::Required;

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
            const NEED: Need = Need::Required;

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
    const NEED: Need = Need::Optional;

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

impl<'a, T: Value<'a> + Default> Value<'a> for Lenient<T> {
    const KIND: Kind = T::KIND;
    const NEED: Need = Need::Lenient;

    fn read(column: &Column<'a>, row: usize) -> Lenient<T> {
        match (column.is_missing(row), has(column.unlike, row)) {
            (false, _) => Lenient::Value(T::read(column, row)),
            (true, false) => Lenient::Missing,
            (true, true) => Lenient::Unlike,
        }
    }

    fn write(&self, column: &mut raw::Column) {
        let row = column_len(column) as u32;
        if let Lenient::Value(value) = self {
            return value.write(column);
        }
        if matches!(self, Lenient::Unlike) {
            column.unlike.push(row);
        }
        column.missing.push(row);
        T::default().write(column);
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
    kinds.map(|kind| raw::Column { missing: Vec::new(), unlike: Vec::new(), values: values(kind) }).collect()
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
    for listed in [&mut column.missing, &mut column.unlike] {
        while listed.last().is_some_and(|row| len <= *row as usize) {
            listed.pop();
        }
    }
}

/// The host's promise that texts are UTF-8, checked.
pub(crate) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("the host hands over UTF-8")
}

fn wrong_kind(wanted: &str) -> ! {
    panic!("the host sent a column of another type, wanted {wanted}")
}
