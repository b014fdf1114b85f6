//! Must emit `{"ordered":true}` for an order, and `{"abandoned_at":…}` 30 minutes of event time after the first `add` of a cart without one.
//! Rejects any other `act` with code `act`, after it has emptied the cart: none of that may count.

use pelton_sdk::{Error, Event, Fields, KeyState, Module, Output, Reducer};

const PATIENCE_MS: i64 = 1_800_000;

#[derive(Fields)]
pub(crate) struct Act<'a> {
    act: &'a str,
}

pub(crate) struct Cart;

impl Module for Cart {
    type Fields = Act<'static>;
    type Config = ();

    fn configure(_config: ()) -> Result<Cart, String> {
        Ok(Cart)
    }
}

impl Reducer for Cart {
    /// When the cart counts as abandoned; 0 without a cart.
    type State = i64;

    fn event(
        &self,
        event: &Event<'_, Act<'static>>,
        kept: &mut KeyState<'_, i64>,
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        match event.fields.act {
            "add" if kept.state == 0 => {
                kept.state = event.timestamp.saturating_add(PATIENCE_MS);
                kept.set_timer(kept.state);
            }
            "add" => {}
            "order" => {
                kept.cancel_timer(kept.state);
                kept.delete();
                output.emit(r#"{"ordered":true}"#);
            }
            other => {
                kept.cancel_timer(kept.state);
                kept.delete();
                return Err(Error::reject("act", format!("act is `{other}`, wanted add or order")));
            }
        }
        Ok(())
    }

    fn timer(&self, at: i64, kept: &mut KeyState<'_, i64>, output: &mut Output<'_>) -> Result<(), Error> {
        output.emit(format!(r#"{{"abandoned_at":{at}}}"#));
        kept.delete();
        Ok(())
    }
}

pelton_sdk::export!(reducer: Cart);
