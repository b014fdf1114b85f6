//! `pelton tail`: outputs, dead letters and late events as they come.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use pelton_broker::{Tailed, log_stream};
use pelton_engine::text::{printable, printable_json};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::connection::ConnectionArgs;
use super::failure::Failure;
use crate::headers;
use crate::payload::{put_on_one_line, put_original, put_payload};
use crate::pipeline;

const AFTER: &str = "\
Prints the payload of each record; for dead letters and late events, why and where from, then the payload.

Examples:
  pelton tail pipelines/fraud.toml                              # all outputs, from now on
  pelton tail pipelines/fraud.toml --output alerts --from-start -n 10
  pelton tail pipelines/fraud.toml --ledger --no-follow         # what happened, epoch by epoch
  pelton tail pipelines/fraud.toml --dlq --no-follow --json | jq -r '.headers[\"Pelton-Dlq-Code\"]' | sort | uniq -c";

/// Print outputs as they come
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct TailArgs {
    /// Pipeline file
    pipeline: PathBuf,
    /// Only this output
    #[arg(long, value_name = "NAME", conflicts_with_all = ["dlq", "late"])]
    output: Option<String>,
    /// Dead letters instead of outputs
    #[arg(long, conflicts_with = "late")]
    dlq: bool,
    /// Late events instead of outputs
    #[arg(long, conflicts_with = "ledger")]
    late: bool,
    /// The ledger instead of outputs: one record per epoch, with position, watermark, counts, and what came from a clock
    #[arg(long, conflicts_with_all = ["output", "dlq"])]
    ledger: bool,
    /// Begin with the first record that is stored
    #[arg(long)]
    from_start: bool,
    /// Stop after so many records
    #[arg(short = 'n', long = "count", value_name = "N")]
    count: Option<u64>,
    /// Begin with the first record, and stop when nothing more is stored
    #[arg(long)]
    no_follow: bool,
    /// One JSON object per record, with its subject and headers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// A record as `--json` prints it; its payload follows: JSON as `payload`, else `payload_text` or `payload_base64`; of a
/// dead letter or late event always the text, or `payload_base64`.
#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    partition: &'a str,
    /// Such as `out.alerts.u1` or `dlq.source.json-syntax`.
    subject: &'a str,
    /// A name that comes more than once has the list of its values.
    headers: Map<String, Value>,
}

pub(super) async fn run(args: TailArgs) -> Result<(), Failure> {
    let draft = pipeline::read(&args.pipeline)?;
    if let Some(output) = &args.output
        && !draft.outputs().any(|name| name == output)
    {
        let names: Vec<&str> = draft.outputs().collect();
        return Err(Failure::usage(format!("pipeline `{}` has no output `{output}`", draft.name()))
            .hint(format!("its outputs: {}", names.join(", "))));
    }
    let broker = args.connection.connect().await?;
    let name = draft.name();
    let channel = if args.dlq {
        "dlq.>"
    } else if args.late {
        "late.>"
    } else if args.ledger {
        "ledger"
    } else {
        "out.>"
    };
    let filter = format!("pelton.{name}.*.{channel}");
    let from = (args.from_start || args.no_follow).then_some(1);
    let mut tail = pelton_broker::tail(&broker, &log_stream(name), &filter, from)
        .await
        .map_err(|error| Failure::from(error).hint("`pelton up` makes the pipeline stream"))?;
    if args.no_follow && tail.backlog == 0 {
        return Ok(());
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut out = io::BufWriter::new(io::stdout().lock());
    while left > 0 {
        let Some(record) = tail.next().await else { break };
        let record = record?;
        let last = record.pending == 0;
        let subject = Subject::split(&record.subject);
        if args.output.as_deref().is_none_or(|name| subject.output() == name) {
            write(&mut out, &subject, &record, &args)?;
            left -= 1;
        }
        // While there is more, lines are written in blocks; a reader that waits sees each at once.
        if last {
            out.flush()?;
            if args.no_follow {
                break;
            }
        }
    }
    out.flush()?;
    Ok(())
}

/// `pelton.<pipeline>.<partition>.<rest>`.
struct Subject<'a> {
    partition: &'a str,
    rest: &'a str,
}

impl<'a> Subject<'a> {
    fn split(subject: &'a str) -> Subject<'a> {
        let mut tokens = subject.splitn(4, '.').skip(2);
        Subject { partition: tokens.next().unwrap_or(""), rest: tokens.next().unwrap_or("") }
    }

    /// The name of the output, the stage of a dead letter or late event.
    fn output(&self) -> &'a str {
        self.rest.split('.').nth(1).unwrap_or("")
    }
}

fn write(out: &mut impl io::Write, subject: &Subject<'_>, record: &Tailed, args: &TailArgs) -> Result<(), Failure> {
    let pairs = record.headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let headers = headers::object(pairs.map(|(name, value)| (name.as_ref(), value.as_str())));
    if args.json {
        let line = Line { sequence: record.sequence, partition: subject.partition, subject: subject.rest, headers };
        let mut text = serde_json::to_vec(&line)?;
        text.pop();
        text.push(b',');
        if args.dlq || args.late {
            put_original(&record.payload, &mut text);
        } else {
            put_payload(&record.payload, &mut text);
        }
        text.push(b'}');
        out.write_all(printable_json(&String::from_utf8_lossy(&text)).as_bytes())?;
    } else {
        if args.dlq || args.late {
            let header = |name: &str| headers.get(name).and_then(Value::as_str).unwrap_or("");
            let (message, sequence) = if args.dlq {
                (header("Pelton-Dlq-Message"), header("Pelton-Dlq-Sequence"))
            } else {
                (header("Pelton-Event-Time"), header("Pelton-Sequence"))
            };
            let from = format!("{}/{sequence} {}: {message}: ", subject.partition, subject.rest);
            out.write_all(printable(&from).as_bytes())?;
        }
        out.write_all(payload_line(&record.payload).as_bytes())?;
    }
    out.write_all(b"\n")?;
    Ok(())
}

/// A payload on one line with nothing unprintable: JSON stays the JSON that it is.
fn payload_line(payload: &[u8]) -> String {
    if serde_json::from_slice::<IgnoredAny>(payload).is_err() {
        return printable(&String::from_utf8_lossy(payload)).into_owned();
    }
    let mut line = Vec::new();
    put_on_one_line(payload, &mut line);
    printable_json(&String::from_utf8_lossy(&line)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_one_clean_line() {
        for (payload, line) in [
            (&b"{\"a\":1.50}"[..], "{\"a\":1.50}"),
            ("{\r\n\"a\": \"\u{202e}\u{9b}\"}".as_bytes(), "{  \"a\": \"\\u202e\\u009b\"}"),
            ("u1\n0/7 dlq: \u{1b}[2J\u{200f}".as_bytes(), "u1\\u{a}0/7 dlq: \\u{1b}[2J\\u{200f}"),
            (b"\xff{", "\u{fffd}{"),
        ] {
            assert_eq!(payload_line(payload), line);
        }
    }

    #[test]
    fn subjects_are_taken_apart() {
        let subject = Subject::split("pelton.fraud.3.out.alerts.u1");
        assert_eq!((subject.partition, subject.rest, subject.output()), ("3", "out.alerts.u1", "alerts"));
        let subject = Subject::split("pelton.fraud.0.dlq.source.json-syntax");
        assert_eq!((subject.rest, subject.output()), ("dlq.source.json-syntax", "source"));
        assert_eq!(Subject::split("odd").output(), "");
    }
}
