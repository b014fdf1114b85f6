//! `watermark` of a source: how the time of a partition moves on.

use crate::plan::Watermark;
use crate::plan::raw::{Reader, Section};
use crate::time::Span;

const DAY: i64 = 86_400;
/// Enough for producers whose clocks and networks are in order; every pane waits this long.
const DELAY: Span = Span::from_secs(10);
const MAX_FUTURE: Span = Span::from_secs(5 * 60);
const MAX_PAST: Span = Span::from_secs(3650 * DAY);

/// The settings, with defaults where nothing is said.
pub(super) fn read(reader: &mut Reader<'_>, source: &Section<'_>) -> Watermark {
    let mut watermark = Watermark { delay: DELAY, idle_timeout: None, max_future: MAX_FUTURE, max_past: MAX_PAST };
    let Some(table) = reader.table(source, "watermark") else {
        return watermark;
    };
    let keys = ["delay", "idle_timeout", "max_future", "max_past"];
    let section = reader.section(table, "`watermark`", &keys);
    let (zero, year, century) = (Span(0), Span::from_secs(366 * DAY), Span::from_secs(36_500 * DAY));
    if let Some(delay) = reader.duration(&section, "delay", zero..=year) {
        watermark.delay = delay.value;
    }
    watermark.idle_timeout = reader.duration(&section, "idle_timeout", Span(100)..=year).map(|span| span.value);
    if let Some(max_future) = reader.duration(&section, "max_future", zero..=year) {
        watermark.max_future = max_future.value;
    }
    if let Some(max_past) = reader.duration(&section, "max_past", Span::from_secs(1)..=century) {
        watermark.max_past = max_past.value;
    }
    watermark
}
