//! The well-behaved modules natively: what each promises in its first line. They exercise every world of the SDK.

use pelton_sdk::testing;
use serde_json::Value;

#[path = "../well-behaved/count_long_plays.rs"]
mod count_long_plays;
#[path = "../well-behaved/count_rule.rs"]
mod count_rule;
#[path = "../well-behaved/echo.rs"]
mod echo;
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
        r#"{"source":0,"port":"out","key":"a","payload":{"n":1}}
           {"source":1,"port":"out","key":"b","payload":"no json"}"#,
    );
}

#[test]
fn fields_check_rejects_negative_lengths() {
    check(
        testing::run_transform::<fields_check::FieldsCheck>,
        "",
        r#"{"key":"u","event":{"user_id":"u","track_id":"t","country":"SE","device":"tv","ts":1,"ms_played":5}}
           {"key":"u","event":{"user_id":"u","track_id":"t","country":"SE","device":"tv","ts":1,"ms_played":-5}}"#,
        r#"{"source":0,"port":"out","key":"u","payload":{"user_id":"u","track_id":"t","country":"SE","device":"tv","ts":1,"ms_played":5}}
           {"source":1,"reject":"negative","detail":"ms_played is -5, wanted 0 or more"}"#,
    );
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
        r#"{"source":0,"port":"main","key":"k","time":7,"payload":{"text":"x","number":1.5}}
           {"source":0,"port":"copy","key":"copies","time":8,"payload":{"text":"x","number":1.5}}
           {"source":0,"port":"seen","key":"k","time":7,"payload":"Some(\"x\") None Some(1.5) None [a=1 b=2]"}"#,
    );
}

#[test]
fn running_count_counts_per_key_and_sums_up_after_a_quiet_minute() {
    check(
        testing::run_reducer::<running_count::RunningCount>,
        "",
        r#"{"key":"a","time":0,"event":{}}
           {"key":"b","time":1000,"event":{}}
           {"key":"a","time":2000,"event":{}}"#,
        r#"{"source":0,"port":"out","key":"a","payload":{"count":1}}
           {"source":1,"port":"out","key":"b","payload":{"count":1}}
           {"source":2,"port":"out","key":"a","payload":{"count":2}}
           {"source":3,"port":"out","key":"b","payload":{"total":1}}
           {"source":3,"port":"out","key":"a","payload":{"total":2}}"#,
    );
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
        r#"{"source":0,"port":"out","key":"a","payload":{"key":"a","window_end":100,"mean":15,"count":3}}
           {"source":1,"port":"out","key":"b","payload":{"key":"b","window_end":100,"mean":7,"count":1}}
           {"source":2,"port":"out","key":"a","payload":{"key":"a","window_end":200,"mean":1,"count":1}}"#,
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
        r#"{"source":0,"port":"out","key":"a","payload":{"key":"a","window_end":100,"plays":2,"seconds":91}}
           {"source":2,"reject":"negative","detail":"ms_played is -1"}"#,
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
        r#"{"source":0,"port":"out","key":"a","payload":{"key":"a","window_end":100,"count":1}}"#,
    );
}

#[test]
fn count_rule_slides_and_has_a_threshold() {
    let input = r#"{"window":{"size_ms":100,"every_ms":50}}
        {"key":"a","time":10,"event":{}}
        {"key":"a","time":60,"event":{}}
        {"key":"b","time":70,"event":{}}"#;
    let run: Run = testing::run_window_rule::<count_rule::Count>;
    check(
        run,
        r#"{"over":1}"#,
        input,
        r#"{"source":0,"port":"out","key":"a","payload":{"key":"a","window_end":100,"count":2}}"#,
    );
    let all = run("", input).unwrap();
    assert_eq!(all.lines().count(), 5, "{all}");
}
