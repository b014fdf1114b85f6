//! Must use every part of the output: for each event one record on each of three ports, with keys, payloads and times of its own,
//! and a pane's worth of reading: headers, payload, optional fields of each kind.

use pelton_sdk::{Error, Event, Fields, Module, Output, Transform};

#[derive(Fields)]
pub(crate) struct All<'a> {
    text: Option<&'a str>,
    integer: Option<i64>,
    number: Option<f64>,
    boolean: Option<bool>,
}

pub(crate) struct KitchenSink;

impl Module for KitchenSink {
    type Fields = All<'static>;
    type Config = ();
    const PAYLOAD: bool = true;
    const HEADERS: bool = true;
    const PORTS: &'static [&'static str] = &["main", "copy", "seen"];

    fn configure(_config: ()) -> Result<KitchenSink, String> {
        Ok(KitchenSink)
    }
}

impl Transform for KitchenSink {
    fn process(&self, event: &Event<'_, All<'static>>, output: &mut Output<'_>) -> Result<(), Error> {
        let All { text, integer, number, boolean } = event.fields;
        output.forward();
        output.record().port("copy").key("copies").timestamp(event.timestamp + 1).send(event.payload());
        let headers: Vec<_> = event.headers().map(|(name, value)| format!("{name}={value}")).collect();
        let seen = format!("{text:?} {integer:?} {number:?} {boolean:?} [{}]", headers.join(" "));
        output.record().port("seen").key(event.key()).send(seen);
        Ok(())
    }
}

pelton_sdk::export!(transform: KitchenSink);
