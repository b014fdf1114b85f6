//! What inputs cost by their form: packed, and one line without end.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pelton_bench::measure::{Usage, medians};
use pelton_bench::table::{Table, mebibytes};
use pelton_bench::{measure, place, rows};
use serde_json::Value;

use crate::{Setting, pipeline};

/// Bytes of the file with one line.
const LINE_BYTES: u64 = 2 << 30;

/// Runs both and adds their rows.
pub(crate) fn run(setting: &Setting, events: &Path, figures: &mut Table) -> Result<()> {
    let folder = setting.scratch.join("inputs");
    place::fresh(&folder)?;
    packed(setting, events, &folder, figures).context("gzip input")?;
    endless(setting, &folder, figures).context("a line without end")?;
    place::fresh(&folder)
}

/// Job A over the same events, packed.
fn packed(setting: &Setting, events: &Path, folder: &Path, figures: &mut Table) -> Result<()> {
    let packed = folder.join("events.gz");
    eprintln!("job A over gzip …");
    let mut gzip = Command::new("gzip");
    gzip.arg("-1c").arg(events).stdout(Stdio::from(File::create(&packed)?));
    ensure!(gzip.status().context("starting gzip")?.success(), "gzip failed");
    let (plain, plain_rows) = take(setting, folder, events)?;
    let (usage, packed_rows) = take(setting, folder, &packed)?;
    rows::same_rows(&plain_rows, &packed_rows)?;
    let rate = |usage: &Usage| setting.file_events as f64 / usage.wall_s / 1e3;
    figures.row([
        "job A from gzip".to_owned(),
        format!(
            "{:.0} k/s, {:.2} of the plain file's; peak {}",
            rate(&usage),
            rate(&usage) / rate(&plain),
            mebibytes(usage.peak_bytes)
        ),
    ]);
    Ok(())
}

fn take(setting: &Setting, folder: &Path, input: &Path) -> Result<(Usage, Vec<rows::Row>)> {
    let (output, state) = (folder.join("out"), folder.join("state"));
    let command = setting.pelton.run_file(&pipeline("job-a.toml")?, input, &output, &state);
    let mut usages = Vec::new();
    for _ in 0..setting.runs {
        place::fresh(&output)?;
        place::fresh(&state)?;
        usages.push(measure::run(&command)?);
    }
    Ok((medians(&usages), rows::from_output(&output.join("rows.jsonl"))?))
}

/// One event in a line, so that not everything is refused.
const EVENT: &[u8] = b"\n{\"user_id\":\"u\",\"track_id\":\"t\",\"country\":\"SE\",\"device\":\"ios\",\"ts\":1767225600000,\"ms_played\":1}\n";

/// One line of 2 GiB before an event, as a file with holes: the disk does not count.
fn endless(setting: &Setting, folder: &Path, figures: &mut Table) -> Result<()> {
    eprintln!("a file with one line …");
    let input = folder.join("endless");
    let bytes = if setting.is_quick { LINE_BYTES / 32 } else { LINE_BYTES };
    let mut file = File::create(&input)?;
    file.set_len(bytes)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(EVENT)?;
    let (output, state) = (folder.join("out"), folder.join("state"));
    place::fresh(&output)?;
    place::fresh(&state)?;
    let usage = measure::run(&setting.pelton.run_file(&pipeline("job-a.toml")?, &input, &output, &state))?;
    let letter: Value = serde_json::from_slice(&std::fs::read(output.join("dlq.jsonl"))?).context("one dead letter")?;
    ensure!(letter["code"] == "payload-size" && letter["payload_bytes"] == bytes, "{}", letter["message"]);
    figures.row([
        format!("a file of {} with one line", mebibytes(bytes)),
        format!("{:.1} s, {:.1} s of CPU; peak {}", usage.wall_s, usage.cpu_s, mebibytes(usage.peak_bytes)),
    ]);
    Ok(())
}
