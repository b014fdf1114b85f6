//! The well-behaved modules natively: what each promises in its first line. They exercise every world of the SDK.

use pelton_sdk::testing;
use serde_json::Value;

#[path = "../well-behaved/all_aggregates.rs"]
mod all_aggregates;
#[path = "../well-behaved/cart.rs"]
mod cart;
#[path = "../well-behaved/count_long_plays.rs"]
mod count_long_plays;
#[path = "../well-behaved/count_rule.rs"]
mod count_rule;
#[path = "../well-behaved/echo.rs"]
mod echo;
#[path = "../well-behaved/either_or.rs"]
mod either_or;
#[path = "../well-behaved/extract_rule.rs"]
mod extract_rule;
#[path = "../well-behaved/fields_check.rs"]
mod fields_check;
#[path = "../well-behaved/kitchen_sink.rs"]
mod kitchen_sink;
#[path = "../well-behaved/mean_fold.rs"]
mod mean_fold;
#[path = "../well-behaved/running_count.rs"]
mod running_count;
#[path = "../well-behaved/strict_fold.rs"]
mod strict_fold;
#[path = "../well-behaved/visits.rs"]
mod visits;
#[path = "../well-behaved/whole_contract.rs"]
mod whole_contract;

type Run = fn(&str, &str) -> Result<String, String>;

#[track_caller]
fn check(run: Run, config: &str, input: &str, expected: &str) {
    let lines = |text: &str| -> Vec<Value> {
        let text = text.lines().map(str::trim).filter(|line| !line.is_empty());
        text.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!(lines(&run(config, input).unwrap()), lines(expected));
}

#[test]
fn echo_forwards() {
    check(
        testing::run_transform::<echo::Echo>,
        "",
        r#"{"key":"a","event":{"n":1}}
           {"key":"b","raw":"no json"}"#,
        r#"{"row":0,"port":"out","key":"a","payload":{"n":1}}
           {"row":1,"port":"out","key":"b","payload":"no json"}"#,
    );
}

#[test]
fn fields_check_rejects_negative_lengths() {
    check(
        testing::run_transform::<fields_check::FieldsCheck>,
        "",
        r#"{"key":"u","event":{"user_id":"u","track_id":"t","country":"SE","device":"tv","ts":1,"ms_played":5}}
           {"key":"u","event":{"user_id":"u","track_id":"t","country":"SE","device":"tv","ts":1,"ms_played":-5}}"#,
        r#"{"row":0,"port":"out","key":"u","payload":{"user_id":"u","track_id":"t","country":"SE","device":"tv","ts":1,"ms_played":5}}
           {"row":1,"reject":"negative","detail":"ms_played is -5, wanted 0 or more"}"#,
    );
}

/// An integer is what the host takes for one.
#[test]
fn whole_numbers_are_integers() {
    let run = |played: &str| {
        let event = format!(
            r#"{{"key":"u","event":{{"user_id":"u","track_id":"t","country":"SE","device":"tv","ts":1,"ms_played":{played}}}}}"#
        );
        testing::run_transform::<fields_check::FieldsCheck>("", &event)
    };
    for played in ["5", "5.0", "5e0", "9007199254740991.0", "9223372036854775807"] {
        assert!(run(played).is_ok_and(|said| !said.contains("reject")), "{played}");
    }
    for played in ["5.5", "9007199254740992.0", "9223372036854775808", "true", "\"5\""] {
        assert!(run(played).is_err_and(|error| error.contains("wanted an integer")), "{played}");
    }
}

#[test]
fn a_required_field_that_is_missing_never_reaches_the_rule() {
    let error = testing::run_transform::<fields_check::FieldsCheck>("", r#"{"event":{"user_id":"u"}}"#).unwrap_err();
    assert_eq!(error, "event 0: field `track_id` is missing, the host would not show it to the rule");
}

#[test]
fn kitchen_sink_uses_every_part_of_the_output() {
    check(
        testing::run_transform::<kitchen_sink::KitchenSink>,
        "",
        r#"{"key":"k","time":7,"event":{"text":"x","number":1.5},"headers":{"a":"1","b":"2"}}"#,
        r#"{"row":0,"port":"main","key":"k","time":7,"payload":{"text":"x","number":1.5}}
           {"row":0,"port":"copy","key":"copies","time":8,"payload":{"text":"x","number":1.5}}
           {"row":0,"port":"seen","key":"k","time":7,"payload":"Some(\"x\") None Some(1.5) None [a=1 b=2]"}"#,
    );
}

#[test]
fn running_count_counts_per_key_and_sums_up_after_a_quiet_minute() {
    check(
        testing::run_reducer::<running_count::RunningCount>,
        "",
        r#"{"key":"a","time":0,"event":{}}
           {"key":"b","time":1000,"event":{}}
           {"key":"a","time":2000,"event":{}}
           {"end":true}"#,
        r#"{"row":0,"port":"out","key":"a","payload":{"count":1}}
           {"row":1,"port":"out","key":"b","payload":{"count":1}}
           {"row":2,"port":"out","key":"a","payload":{"count":2}}
           {"timers":[61000],"port":"out","key":"b","payload":{"total":1}}
           {"timers":[62000],"port":"out","key":"a","payload":{"total":2}}"#,
    );
}

/// The report of a newcomer: the order after 60 minutes must not cancel the timer that was due after 30.
#[test]
fn a_timer_that_another_key_makes_due_fires_before_the_next_event() {
    let input = r#"{"key":"c4","time":0,"event":{"act":"add"}}
        {"key":"c5","time":3000000,"event":{"act":"order"}}
        {"key":"c4","time":3600000,"event":{"act":"order"}}"#;
    let ordered = |source: usize, key: &str| {
        format!(r#"{{"row":{source},"port":"out","key":"{key}","payload":{{"ordered":true}}}}"#)
    };
    let abandoned = r#"{"timers":[1800000],"port":"out","key":"c4","payload":{"abandoned_at":1800000}}"#;
    let run: Run = testing::run_reducer::<cart::Cart>;
    check(run, "", input, &[&ordered(1, "c5"), abandoned, &ordered(2, "c4")].join("\n"));
    // With a delay of 50 minutes the watermark has not come so far, so the order is in time.
    let late = format!(r#"{{"watermark":{{"delay_ms":3000000}}}}{}{input}"#, "\n");
    check(run, "", &late, &[ordered(1, "c5"), ordered(2, "c4")].join("\n"));
}

#[test]
fn timers_fire_at_the_instant_that_the_watermark_reaches_them_and_the_rest_at_the_end() {
    let run: Run = testing::run_reducer::<cart::Cart>;
    let events = |last: i64| {
        format!(
            r#"{{"key":"b","time":0,"event":{{"act":"add"}}}}
               {{"key":"a","time":1,"event":{{"act":"add"}}}}
               {{"key":"c","time":{last},"event":{{"act":"add"}}}}"#
        )
    };
    let fired = |at: i64, key: &str| {
        format!(r#"{{"timers":[{at}],"port":"out","key":"{key}","payload":{{"abandoned_at":{at}}}}}"#)
    };
    // 30 minutes and the delay of 10 seconds.
    check(run, "", &events(1_809_999), "");
    check(run, "", &events(1_810_000), &fired(1_800_000, "b"));
    check(run, "", &events(1_810_001), &[fired(1_800_000, "b"), fired(1_800_001, "a")].join("\n"));
    let all = [fired(1_800_000, "b"), fired(1_800_001, "a"), fired(1_800_002, "c")].join("\n");
    check(run, "", &(events(2) + "\n{\"end\":true}"), &all);
    let error = run("", &format!("{{\"end\":true}}\n{}", events(2))).unwrap_err();
    assert_eq!(error, "input line 2: nothing comes after the end of the input");
    let error = run("", r#"{"time":9007199254740993,"event":{"act":"add"}}"#).unwrap_err();
    assert!(error.contains("the time 9007199254740993 is out of range"), "{error}");
}

/// Looks again every minute, or in the same instant when the event says so.
struct Forever;

impl pelton_sdk::Module for Forever {
    type Fields = ();
    type Config = ();

    fn configure(_config: ()) -> Result<Forever, String> {
        Ok(Forever)
    }
}

impl pelton_sdk::Reducer for Forever {
    type State = i64;

    fn event(
        &self,
        event: &pelton_sdk::Event<'_, ()>,
        kept: &mut pelton_sdk::KeyState<'_, i64>,
        _output: &mut pelton_sdk::Output<'_>,
    ) -> Result<(), pelton_sdk::Error> {
        kept.state = if event.key() == "minute" { 60_000 } else { 0 };
        kept.set_timer(event.timestamp);
        Ok(())
    }

    fn timer(
        &self,
        at: i64,
        kept: &mut pelton_sdk::KeyState<'_, i64>,
        _output: &mut pelton_sdk::Output<'_>,
    ) -> Result<(), pelton_sdk::Error> {
        kept.set_timer(at + kept.state);
        Ok(())
    }
}

#[test]
fn timers_that_never_end_are_named() {
    let run: Run = testing::run_reducer::<Forever>;
    let event = |key: &str, time: i64| format!("{{\"key\":\"{key}\",\"time\":{time},\"event\":{{}}}}\n");
    let end = "{\"end\":true}";
    // At the end of the input only what is set fires.
    assert_eq!(run("", &(event("minute", 0) + end)).unwrap(), "");
    let error = run("", &(event("minute", 0) + &event("minute", 100_000_000))).unwrap_err();
    assert!(error.starts_with("timers of key `minute` fired 1000 times without an event"), "{error}");
    let error = run("", &(event("instant", 0) + end)).unwrap_err();
    assert_eq!(error, "a timer at 0 sets one at 0, which is not later: the host makes a dead letter of it");
}

/// Nothing seen, a clipped sum and estimates, given as they are; what is left out is named.
#[test]
fn a_pane_can_be_given_with_all_that_a_host_can_say() {
    let run: Run = testing::run_window_rule::<all_aggregates::AllAggregates>;
    let values = |sum: &str, number: &str, top: &str| {
        format!(
            r#"{{"pane":{{"key":"u","start":0,"end":9,"last":false}},"values":{{"count":1,"sum_n":{sum},"min_n":{sum},
               "max_n":null,"sum_x":{number},"min_x":null,"max_x":2,"distinct_n":1,"distinct_x":0,"distinct_s":0,
               "distinct_b":0,"top_n":null,"top_s":{top},"top_b":[]}}}}"#
        )
        .replace('\n', "")
    };
    let row = |input: &str| -> Value {
        let line: Value = serde_json::from_str(&run("", input).unwrap()).unwrap();
        line["payload"].clone()
    };
    let nothing = row(&values("null", "null", "null"));
    assert_eq!((&nothing["sum_n"], &nothing["min_n"], &nothing["sum_x"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(
        (&nothing["max_x"], &nothing["last"], &nothing["top_s"]),
        (&2.0.into(), &false.into(), &Value::Array(vec![]))
    );
    let some = row(&values("-5", "0.5", r#"[["a",3],["b",2,1]]"#));
    assert_eq!((&some["sum_n"], &some["clipped"], &some["sum_x"]), (&(-5).into(), &false.into(), &0.5.into()));
    assert_eq!(some["top_s"].to_string(), r#"[["a",3,0],["b",2,1]]"#);
    let beyond = values("7", "1", "[]").replace(r#""sum_n":7"#, r#""sum_n":-9223372036854775809"#);
    assert_eq!((&row(&beyond)["sum_n"], &row(&beyond)["clipped"]), (&i64::MIN.into(), &true.into()));
    for (wrong, said) in [
        (values("0.5", "1", "[]"), "value `sum_n` of pane `u` is 0.5"),
        (values("1", "1", "[]").replace(r#""count":1"#, r#""count":null"#), "value `count` of pane `u` is null"),
        (values("1", "1", "[]").replace(r#""max_n":null,"#, ""), "pane of `u` has no value `max_n`"),
    ] {
        let error = run("", &wrong).unwrap_err();
        assert!(error.starts_with(said), "{error}");
    }
}

#[derive(pelton_sdk::Fields)]
struct Amount {
    n: Option<i64>,
}

/// Names the keys whose sum is at least the smallest integer.
struct AnySum;

impl pelton_sdk::Module for AnySum {
    type Fields = Amount;
    type Config = ();

    fn configure(_config: ()) -> Result<AnySum, String> {
        Ok(AnySum)
    }
}

impl pelton_sdk::WindowRule for AnySum {
    fn aggregates(&self) -> pelton_sdk::Aggregation {
        pelton_sdk::Aggregation::new().sum("sum", Amount::N).at_least("sum", i64::MIN)
    }

    fn evaluate(
        &self,
        pane: &pelton_sdk::Pane<'_>,
        output: &mut pelton_sdk::Output<'_>,
    ) -> Result<(), pelton_sdk::Error> {
        output.emit(pane.key);
        Ok(())
    }
}

#[test]
fn a_missing_value_reaches_no_threshold_in_the_kit_either() {
    let input = r#"{"window":{"size_ms":100}}
        {"key":"none","time":0,"event":{}}
        {"key":"low","time":1,"event":{"n":-9223372036854775808}}
        {"key":"under","time":1,"event":{"n":-9223372036854775808}}
        {"key":"under","time":2,"event":{"n":-9223372036854775808}}"#;
    let run: Run = testing::run_window_rule::<AnySum>;
    check(
        run,
        "",
        input,
        r#"{"row":0,"port":"out","key":"low","payload":"low"}
           {"row":1,"port":"out","key":"under","payload":"under"}"#,
    );
}

#[test]
fn windows_that_the_host_refuses_are_refused() {
    let run: Run = testing::run_window_rule::<count_rule::Count>;
    let window = r#"{"window":{"size_ms":100,"slide_ms":30}}
                    {"key":"a","time":0,"event":{}}"#;
    assert_eq!(
        run("", window).unwrap_err(),
        "`slide_ms` is 30 and `size_ms` is 100, wanted one that divides the other"
    );
    let global = r#"{"window":{"global":true}}
                    {"key":"a","time":0,"event":{}}"#;
    let said: Value = serde_json::from_str(&run("", global).unwrap()).unwrap();
    assert_eq!(said["payload"]["window_end"], i64::MAX);
}

#[test]
fn mean_fold_merges_what_it_folded() {
    check(
        testing::run_window_fold::<mean_fold::Mean>,
        "",
        r#"{"window":{"size_ms":100}}
           {"key":"a","time":1,"event":{"ms_played":10}}
           {"key":"a","time":2,"event":{"ms_played":15}}
           {"key":"b","time":3,"event":{"ms_played":7}}
           {"key":"a","time":99,"event":{"ms_played":21}}
           {"key":"a","time":100,"event":{"ms_played":1}}"#,
        r#"{"row":0,"port":"out","key":"a","payload":{"key":"a","window_end":100,"mean":15,"count":3}}
           {"row":1,"port":"out","key":"b","payload":{"key":"b","window_end":100,"mean":7,"count":1}}
           {"row":2,"port":"out","key":"a","payload":{"key":"a","window_end":200,"mean":1,"count":1}}"#,
    );
}

#[test]
fn extract_rule_filters_and_derives() {
    check(
        testing::run_extract_rule::<extract_rule::LongPlays>,
        "",
        r#"{"window":{"size_ms":100}}
           {"key":"a","time":1,"event":{"ms_played":31500}}
           {"key":"a","time":2,"event":{"ms_played":29999}}
           {"key":"a","time":3,"event":{"ms_played":-1}}
           {"key":"a","time":4,"event":{"ms_played":60000}}"#,
        r#"{"row":0,"port":"out","key":"a","payload":{"key":"a","window_end":100,"plays":2,"seconds":91}}
           {"row":2,"reject":"negative","detail":"ms_played is -1"}"#,
    );
}

#[test]
fn count_long_plays_filters() {
    check(
        testing::run_extract_rule::<count_long_plays::LongPlays>,
        "",
        r#"{"window":{"size_ms":100}}
           {"key":"a","time":1,"event":{"ms_played":30000}}
           {"key":"a","time":2,"event":{"ms_played":29999}}
           {"key":"b","time":2,"event":{"ms_played":1}}"#,
        r#"{"row":0,"port":"out","key":"a","payload":{"key":"a","window_end":100,"count":1}}"#,
    );
}

#[test]
fn count_rule_slides_and_has_a_threshold() {
    let input = r#"{"window":{"size_ms":100,"slide_ms":50}}
        {"key":"a","time":10,"event":{}}
        {"key":"a","time":60,"event":{}}
        {"key":"b","time":70,"event":{}}"#;
    let run: Run = testing::run_window_rule::<count_rule::Count>;
    check(
        run,
        r#"{"over":1}"#,
        input,
        r#"{"row":0,"port":"out","key":"a","payload":{"key":"a","window_end":100,"count":2}}"#,
    );
    let all = run("", input).unwrap();
    assert_eq!(all.lines().count(), 5, "{all}");
}

#[test]
fn whole_contract_gives_headers_tombstones_counters_and_places() {
    check(
        testing::run_transform::<whole_contract::WholeContract>,
        "",
        r#"{"key":"a","event":{"amount":"12.50","note":{"b":1},"blob":"aGk="},"headers":{"Currency":"USD"}}
           {"key":"b","event":{"amount":0}}
           {"key":"c","event":{"amount":-1.0}}"#,
        r#"{"row":0,"port":"payments","key":"a","headers":"Currency: USD\r\n","payload":{"amount":12.50,"note":{"b":1},"bytes":2}}
           {"row":0,"port":"audit","key":"a","headers":"Amount: 12.50\r\nCurrency: USD\r\n","payload":"hi"}
           {"row":0,"counter":"events","add":1}
           {"row":0,"counter":"blob_bytes","add":2}
           {"row":1,"port":"payments","key":"b","delete":true}
           {"row":1,"counter":"events","add":1}
           {"row":1,"counter":"blob_bytes","add":0}
           {"row":1,"counter":"deletes","add":1}
           {"row":2,"reject":"negative","detail":"amount is -1.0","place":"/amount"}"#,
    );
}

#[test]
fn visits_are_undone_where_they_are_rejected() {
    check(
        testing::run_reducer::<visits::Visits>,
        "",
        r#"{"key":"p","time":0,"event":{"user":"ann"}}
           {"key":"p","time":1,"event":{"user":"nobody"}}
           {"key":"p","time":2,"event":{"user":"bob"}}
           {"key":"p","time":3,"event":{"user":"-"}}
           {"end":true}"#,
        r#"{"row":0,"port":"out","key":"p","payload":1}
           {"row":0,"counter":"visits","add":1}
           {"row":1,"reject":"nobody","detail":"a visit of nobody","place":"/user"}
           {"row":2,"port":"out","key":"p","payload":2}
           {"row":2,"counter":"visits","add":1}
           {"row":3,"port":"out","key":"p","delete":true}
           {"row":3,"counter":"visits","add":1}
           {"timers":[60000,60002],"counter":"closed","add":1}
           {"timers":[60000,60002],"counter":"closed","add":1}"#,
    );
}

#[test]
fn a_fold_of_the_kit_rejects_as_the_host_does() {
    check(
        testing::run_window_fold::<strict_fold::StrictFold>,
        "",
        r#"{"window":{"size_ms":10}}
           {"key":"a","time":1,"event":{"n":5}}
           {"key":"a","time":2,"event":{"n":-7}}
           {"key":"b","time":3,"event":{"n":-1}}
           {"key":"a","time":4,"event":{"n":2}}"#,
        r#"{"row":0,"counter":"added","add":5}
           {"row":0,"port":"out","key":"a","payload":{"key":"a","sum":7}}
           {"row":1,"reject":"negative","detail":"n is -7","place":"/n"}
           {"row":2,"reject":"negative","detail":"n is -1","place":"/n"}
           {"row":3,"counter":"added","add":2}"#,
    );
}

#[test]
fn thresholds_are_alternatives() {
    check(
        testing::run_extract_rule::<either_or::EitherOr>,
        "",
        r#"{"window":{"size_ms":10}}
           {"key":"many","time":1,"event":{"x":9.0}}
           {"key":"many","time":1,"event":{"x":9.0}}
           {"key":"many","time":1,"event":{"x":9.0}}
           {"key":"within","time":1,"event":{"x":2.5}}
           {"key":"above","time":1,"event":{"x":2.6}}
           {"key":"none","time":1,"event":{}}"#,
        r#"{"row":0,"port":"out","key":"many","payload":{"key":"many","events":3,"least":9.0}}
           {"row":0,"counter":"panes","add":1}
           {"row":1,"port":"out","key":"within","payload":{"key":"within","events":1,"least":2.5}}
           {"row":1,"counter":"panes","add":1}
           {"row":5,"counter":"dropped","add":1}"#,
    );
}
