//! `window` of a stage: which windows an event falls into.

use toml_edit::TableLike;

use crate::plan::raw::{Reader, Section, Spanned, span_text};
use crate::plan::{Window, WindowKind};
use crate::problem::code;
use crate::time::Span;

const KEYS: [&str; 4] = ["kind", "size", "slide", "allowed_lateness"];
const YEAR: Span = Span::from_secs(366 * 86_400);
/// A pane of a sliding window merges this many slices at most.
const SLICES_MAX: i64 = 1024;

#[derive(Clone, Copy, PartialEq)]
enum Word {
    Tumbling,
    Sliding,
    Global,
}

const KINDS: [(&str, Word); 3] = [("tumbling", Word::Tumbling), ("sliding", Word::Sliding), ("global", Word::Global)];

/// The window, or `None` when it is not usable and has been reported.
pub(super) fn read(reader: &mut Reader<'_>, table: Spanned<&dyn TableLike>) -> Option<Window> {
    let section = reader.section(table, "`window`", &KEYS);
    reader.require(&section, &[("kind", "kind = \"tumbling\"")]);
    let word = reader.choice(&section, "kind", "kind of window", &KINDS);
    let size = reader.duration(&section, "size", Span(1)..=YEAR);
    let slide = reader.duration(&section, "slide", Span(1)..=YEAR);
    let allowed_lateness = match reader.item(&section, "allowed_lateness") {
        Some(_) => reader.duration(&section, "allowed_lateness", Span(0)..=YEAR).map(|span| span.value),
        None => Some(Span(0)),
    };
    let kind = match word? {
        Word::Tumbling => {
            reader.require(&section, &[("size", "size = \"5m\"")]);
            refuse(reader, &section, "slide", "a tumbling window", "remove it, or write `kind = \"sliding\"`");
            size.map(|size| WindowKind::Tumbling { size: size.value })
        }
        Word::Sliding => {
            reader.require(&section, &[("size", "size = \"1h\""), ("slide", "slide = \"5m\"")]);
            let (size, slide) = (size?, slide?);
            slices_fit(reader, size.value, slide)
                .then_some(WindowKind::Sliding { size: size.value, slide: slide.value })
        }
        Word::Global => {
            for key in ["size", "slide", "allowed_lateness"] {
                refuse(reader, &section, key, "a global window", "remove it: the window ends with the input");
            }
            Some(WindowKind::Global)
        }
    };
    Some(Window { kind: kind?, allowed_lateness: allowed_lateness? })
}

fn refuse(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, kind: &str, hint: &str) {
    if section.table.contains_key(key) {
        let place = reader.key_place(section, key);
        reader.report(code::WINDOW_SHAPE, place, format!("`{key}` does not belong to {kind}"), hint);
    }
}

/// Whether whole slides make up the window, and not too many.
fn slices_fit(reader: &mut Reader<'_>, size: Span, slide: Spanned<Span>) -> bool {
    let Spanned { value: slide, place } = slide;
    if size.0 % slide.0 != 0 {
        let message = format!("slide `{}` does not divide size `{}`", span_text(slide), span_text(size));
        let (below, above) = nearest_divisors(size, slide);
        let near: Vec<String> =
            [below, above].into_iter().flatten().map(|span| format!("`{}`", span_text(span))).collect();
        reader.report(code::WINDOW_SHAPE, place, message, format!("slides that divide it: {}", near.join(" and ")));
        return false;
    }
    let slices = size.0 / slide.0;
    if slices > SLICES_MAX {
        let (shown, window) = (span_text(slide), span_text(size));
        let message =
            format!("slide `{shown}` cuts size `{window}` into {slices} slices, at most {SLICES_MAX} are allowed");
        let hint = format!("choose a slide of `{}` or more", span_text(least_slide(size, slide)));
        reader.report(code::WINDOW_SHAPE, place, message, hint);
        return false;
    }
    true
}

/// The divisors of `size` around `slide`, in the coarsest unit that both are whole in: `6s` and `8s` around `7s`.
fn nearest_divisors(size: Span, slide: Span) -> (Option<Span>, Option<Span>) {
    let unit = common_unit(size, slide);
    let divisors = divisors(size.0 / unit);
    let count = slide.0 / unit;
    let above = divisors.partition_point(|divisor| *divisor < count);
    let span = |count: &i64| Span(count * unit);
    (above.checked_sub(1).map(|below| span(&divisors[below])), divisors.get(above).map(span))
}

/// The smallest slide that gives at most [`SLICES_MAX`] slices, in the unit of `slide`.
fn least_slide(size: Span, slide: Span) -> Span {
    let unit = common_unit(size, slide);
    let fits = |slide: &i64| size.0 / (slide * unit) <= SLICES_MAX;
    divisors(size.0 / unit).into_iter().find(fits).map_or(size, |slide| Span(slide * unit))
}

/// The coarsest unit that both spans are whole in.
fn common_unit(size: Span, slide: Span) -> i64 {
    const UNITS: [i64; 4] = [86_400_000, 3_600_000, 60_000, 1000];
    UNITS.into_iter().find(|unit| size.0 % unit == 0 && slide.0 % unit == 0).unwrap_or(1)
}

/// All divisors of a positive number, ascending. At most 177,827 steps, since a size is at most a year.
fn divisors(number: i64) -> Vec<i64> {
    assert!(0 < number && number <= YEAR.0, "sizes are bounded when they are read");
    let small: Vec<i64> = (1..).take_while(|step| step * step <= number).filter(|step| number % step == 0).collect();
    let large = small.iter().rev().map(|step| number / step).filter(|large| large * large != number);
    small.iter().copied().chain(large).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_are_ascending_and_complete() {
        assert_eq!(divisors(1), [1]);
        assert_eq!(divisors(36), [1, 2, 3, 4, 6, 9, 12, 18, 36]);
        assert_eq!(divisors(97), [1, 97]);
    }

    #[test]
    fn near_divisors_keep_the_unit() {
        let hour = Span::from_secs(3600);
        assert_eq!(nearest_divisors(hour, Span::from_secs(7)), (Some(Span::from_secs(6)), Some(Span::from_secs(8))));
        assert_eq!(nearest_divisors(hour, Span::from_secs(7200)), (Some(hour), None));
        assert_eq!(least_slide(hour, Span::from_secs(1)), Span::from_secs(4));
        assert_eq!(least_slide(hour, Span(1)), Span(3600));
    }
}
