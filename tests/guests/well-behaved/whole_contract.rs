//! Must use what the others do not: fields of the kinds decimal, json and bytes, headers and tombstones of records, counters,
//! and rejects with a place.
//!
//! An event whose `amount` is `0` deletes its key, one whose `amount` is negative is rejected at `/amount`; any other is
//! emitted as `{"amount":…,"note":…,"bytes":n}` with the header `Currency` (`EUR` unless the event has one). It counts the
//! events (`events`), the deletes and the bytes of `blob`.

use pelton_sdk::{Decimal, Error, Event, Fields, Module, Output, RawJson, Transform};

#[derive(Fields)]
pub(crate) struct Payment<'a> {
    amount: Decimal<'a>,
    note: Option<RawJson<'a>>,
    blob: Option<&'a [u8]>,
}

pub(crate) struct WholeContract;

impl Module for WholeContract {
    type Fields = Payment<'static>;
    type Config = ();
    const HEADERS: bool = true;
    const PORTS: &'static [&'static str] = &["payments", "audit"];
    const COUNTERS: &'static [&'static str] = &["events", "deletes", "blob_bytes"];

    fn configure(_config: ()) -> Result<WholeContract, String> {
        Ok(WholeContract)
    }
}

impl Transform for WholeContract {
    fn process(&self, event: &Event<'_, Payment<'static>>, output: &mut Output<'_>) -> Result<(), Error> {
        let Payment { amount: Decimal(amount), note, blob } = event.fields;
        let blob = blob.unwrap_or_default();
        // Before it may be rejected: what is added for such an event must not count.
        output.add("events", 1);
        output.add("blob_bytes", blob.len() as i64);
        let currency = event.headers().find(|(name, _)| *name == "Currency").map_or("EUR", |(_, value)| value);
        if amount.starts_with('-') {
            return Err(Error::reject_at("/amount", "negative", format!("amount is {amount}")));
        }
        if amount == "0" {
            output.add("deletes", 1);
            output.record().delete();
            return Ok(());
        }
        let RawJson(note) = note.unwrap_or(RawJson("null"));
        let payload = format!(r#"{{"amount":{amount},"note":{note},"bytes":{}}}"#, blob.len());
        output.record().header("Currency", currency).send(&payload);
        output.record().port("audit").header("Amount", amount).header("Currency", currency).send(blob);
        Ok(())
    }
}

pelton_sdk::export!(transform: WholeContract);
