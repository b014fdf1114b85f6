//! `pelton run`: from a stream, or from a file without any broker.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args};
use pelton_broker::ConnectOptions;
use pelton_files::Links;
use pelton_serve::{Access, Token};

use super::connection::ConnectionArgs;
use super::failure::Failure;
use crate::pipeline::{self, Pipeline};
use crate::run::{Stop, Target};

const AFTER: &str = "\
Without --input, events come from the stream that the pipeline names and results go to the pipeline stream; run \
`pelton up` once before. With --input, nothing but files is needed: one JSON-lines file per output, dlq.jsonl and \
late.jsonl. Either may be killed at any moment and started again; it goes on where it was, as long as the pipeline is \
the same.

A folder that holds results of an unknown run is refused. --fresh deletes this pipeline's files in it, and the state, \
and starts over; after a kill, go on without it. Links, pipes and devices in the folder are never written to.

--output-dir - writes rows to stdout and keeps nothing, so it begins anew each time, and a reader that goes away ends \
it. With one output and no --envelope only its rows are written; dead letters and late events are counted. With \
--envelope they are written too, as \"output\":\"dlq\" and \"late\". Several outputs need --envelope.

Examples:
  pelton run pipelines/fraud.toml                              # until Ctrl-C
  pelton run fraud.toml listening.toml                         # both; when one halts, the other goes on
  pelton run pipelines/fraud.toml --partitions 0,1 --exit-when-caught-up   # two partitions
  pelton run pipelines/fraud.toml --input plays.jsonl --output-dir out/
  pelton run pipelines/fraud.toml --input archive/ --input 'today-*.jsonl.gz' --output-dir out/
  pelton run pipelines/fraud.toml --input plays.jsonl --output-dir - --envelope | jq .payload.user
  tail -f plays.log | pelton run pipelines/fraud.toml --input - --output-dir out/
  pelton run pipelines/fraud.toml --input plays.jsonl --clock ledger.jsonl --output-dir again/   # as it ran live";

/// Default port of metrics: the one that exporters of OpenTelemetry use.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Bytes of a file with a token.
const TOKEN_FILE_BYTES_MAX: usize = 4 << 10;

/// Bytes of a holder's name: it stands in leases, logs and tables.
const HOLDER_BYTES_MAX: usize = 128;

/// Run a pipeline, or several in one process: one that halts leaves the others at work
#[derive(Debug, Args)]
#[command(override_usage = "pelton run <PIPELINE>... [OPTIONS]", after_help = AFTER)]
pub(crate) struct RunArgs {
    /// Pipeline file; several of them run in one process
    #[arg(required = true, value_name = "PIPELINE")]
    pipelines: Vec<PathBuf>,
    /// Read events from files of JSON lines instead of from the broker: a file, a quoted pattern, a folder (the files
    /// directly in it), a pipe, or `-` for stdin; may be repeated. gzip and zstd are unpacked
    #[arg(long, value_name = "FILE", requires = "output_dir", num_args = 1..,
        conflicts_with_all = ["partitions", "exit_when_caught_up"])]
    input: Vec<PathBuf>,
    /// Folder for the results of --input; `-` is stdout
    #[arg(long, value_name = "DIR", requires = "input")]
    output_dir: Option<PathBuf>,
    /// Delete what an earlier run of this pipeline left in --output-dir, and its state, and start over
    #[arg(long, requires = "input")]
    fresh: bool,
    /// Write each row of an output with its output, key, window, pane, id and time; what the module gave is `payload`
    #[arg(long, requires = "input")]
    envelope: bool,
    /// Let time move on where it did in a live run over the same events, while the source was silent
    /// (`watermark.idle_timeout`): a file with its ledger, as `pelton tail PIPELINE --ledger --no-follow` prints it
    #[arg(long, value_name = "LEDGER", requires = "input")]
    clock: Option<PathBuf>,
    /// Folder of the working state, with a folder per pipeline when there are several [default: `.state` in
    /// --output-dir, else pelton/NAME in the user's state folder]
    #[arg(long, value_name = "DIR", env = "PELTON_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Partitions to work on: `all`, or numbers such as 0,1,3
    #[arg(long, value_name = "LIST", default_value = "all", value_parser = parse_partitions)]
    partitions: Partitions,
    /// Exit when everything that is in the stream now has been committed; windows stay open
    #[arg(long)]
    exit_when_caught_up: bool,
    /// Serve /metrics and /healthz here while a stream is run; `off` does not [default: 127.0.0.1:9464, or a free port]
    #[arg(long, value_name = "ADDRESS", env = "PELTON_LISTEN", value_parser = parse_listen)]
    listen: Option<Listen>,
    /// File with the token that clients of --listen have to send (`Authorization: Bearer`); without it, only loopback
    /// addresses can be listened on
    #[arg(long, value_name = "FILE", env = "PELTON_LISTEN_TOKEN")]
    listen_token: Option<PathBuf>,
    /// Go on although events expired before they were read; the gap is reported as a dead letter
    #[arg(long, conflicts_with = "input")]
    accept_loss: bool,
    /// Name under which partitions are leased [default: host name and process id]
    #[arg(long, value_name = "NAME", env = "PELTON_HOLDER", value_parser = parse_holder)]
    holder: Option<String>,
    /// Folder of compiled modules [default: the user's cache folder]
    #[arg(long, value_name = "DIR", env = "PELTON_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// How long to wait at the start for a broker that is not there yet, such as after a reboot of both; 0s does not
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_wait, conflicts_with = "input")]
    wait: Duration,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which partitions this host works on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Partitions {
    All,
    /// Ascending, each once.
    Some(Vec<u32>),
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Off,
    /// Asked for: failing to bind is an error.
    At(SocketAddr),
    /// Not asked for: when it is taken, a free port will do.
    Prefer(SocketAddr),
}

/// A run from the broker.
pub(crate) struct StreamOptions {
    /// At least one pipeline, each of another name.
    pub(crate) work: Vec<Work>,
    pub(crate) connect: ConnectOptions,
    /// Stop when everything that is there at the start has been committed.
    pub(crate) exit_when_caught_up: bool,
    pub(crate) listen: Listen,
    /// Who may ask there.
    pub(crate) access: Access,
    pub(crate) accept_loss: bool,
    /// Who holds the leases.
    pub(crate) holder: String,
    /// How long to look for the broker.
    pub(crate) wait: Duration,
    pub(crate) stop: Stop,
}

/// One pipeline of a run from the broker.
pub(crate) struct Work {
    pub(crate) pipeline: Pipeline,
    /// Ascending, each below the pipeline's number of partitions.
    pub(crate) partitions: Vec<u32>,
    pub(crate) state: PathBuf,
}

/// A run over a file.
pub(crate) struct FileOptions {
    pub(crate) pipeline: Pipeline,
    /// What `--input` names, at least one: files, patterns, folders, pipes; `-` is stdin.
    pub(crate) input: Vec<PathBuf>,
    pub(crate) output: Target,
    /// Of no use without a folder.
    pub(crate) state: PathBuf,
    /// Delete what is there and start over.
    pub(crate) fresh: bool,
    /// Rows of outputs with what is known of them beside their payload.
    pub(crate) envelope: bool,
    /// The ledger of a live run, whose clock counts.
    pub(crate) clock: Option<PathBuf>,
    pub(crate) stop: Stop,
}

/// Resolves the arguments and hands them to the drivers.
pub(super) fn run(args: RunArgs) -> Result<(), Failure> {
    // Before anything that takes time: from here on a signal is a wish to stop.
    let stop = Stop::watch()?;
    let sandbox = pipeline::sandbox(args.cache_dir.clone(), stop.flag())?;
    let mut pipelines = Vec::new();
    for path in &args.pipelines {
        let pipeline = match Pipeline::load(path, &sandbox) {
            // The compiler was stopped with us.
            Err(_) if stop.is_asked() => {
                tracing::info!("stopped before anything was read; run the same command again to begin");
                return Ok(());
            }
            loaded => loaded?,
        };
        pipelines.push(pipeline);
    }
    match args.output_dir {
        Some(output) => {
            let [pipeline] = <[Pipeline; 1]>::try_from(pipelines)
                .map_err(|_| Failure::usage("a run over files takes one pipeline").hint("run one after the other"))?;
            let (output, state) = target(output, args.state_dir)?;
            let RunArgs { input, fresh, envelope, clock, .. } = args;
            crate::run::file(FileOptions { pipeline, input, output, state, fresh, envelope, clock, stop })
        }
        None => {
            let work = works(pipelines, &args.partitions, args.state_dir.as_deref())?;
            let listen = args.listen.unwrap_or(Listen::Prefer(LISTEN));
            let access = args.listen_token.map_or(Ok(Access::ThisMachine), |file| read_token(&file))?;
            // Before the broker is waited for.
            if let Listen::At(address) = listen {
                access.check(address).map_err(|error| {
                    Failure::usage(error.to_string()).hint(
                        "--listen-token FILE makes clients send a token; or listen on 127.0.0.1, behind a proxy that \
                         authenticates",
                    )
                })?;
            }
            crate::run::stream(StreamOptions {
                work,
                connect: args.connection.options()?,
                exit_when_caught_up: args.exit_when_caught_up,
                listen,
                access,
                accept_loss: args.accept_loss,
                holder: args.holder.unwrap_or_else(default_holder),
                wait: args.wait,
                stop,
            })
        }
    }
}

/// What a run from the broker works on. Two pipelines of one name would fence each other.
fn works(pipelines: Vec<Pipeline>, partitions: &Partitions, state: Option<&Path>) -> Result<Vec<Work>, Failure> {
    let is_one = pipelines.len() == 1;
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    for pipeline in pipelines {
        let name = pipeline.plan.name.clone();
        if !names.insert(name.clone()) {
            return Err(Failure::usage(format!("two pipelines have the name `{name}`")));
        }
        let partitions = partitions.clone().resolve(pipeline.plan.source.partitions)?;
        let state = match state {
            Some(state) if is_one => state.to_owned(),
            Some(state) => state.join(name),
            None => state_home()?.join(name),
        };
        all.push(Work { pipeline, partitions, state });
    }
    Ok(all)
}

/// What only a run from the broker takes and was given to a run over files. Variables are meant for other runs as well.
///
/// # Errors
/// With the first of them.
pub(super) fn refuse_misplaced(given: &ArgMatches) -> Result<(), Failure> {
    if !given.contains_id("input") {
        return Ok(());
    }
    let all = RunArgs::augment_args(clap::Command::new("run"));
    let is_for_streams = |arg: &&Arg| {
        arg.get_help_heading() == Some("Broker")
            || ["listen", "listen_token", "holder"].contains(&arg.get_id().as_str())
    };
    let is_given = |arg: &&Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    match all.get_arguments().filter(is_for_streams).find(is_given).and_then(Arg::get_long) {
        None => Ok(()),
        Some(name) => Err(Failure::usage(format!("--{name} is for runs from the broker, not for --input"))),
    }
}

/// Where a file run writes, and its state folder.
fn target(output: PathBuf, state: Option<PathBuf>) -> Result<(Target, PathBuf), Failure> {
    if output.as_os_str() != "-" {
        let state = state.unwrap_or_else(|| output.join(".state"));
        return Ok((Target::Folder(output), state));
    }
    // The variable may be meant for other runs; the argument is meant for this one.
    let by_variable = std::env::var_os("PELTON_STATE_DIR").map(PathBuf::from);
    if state.is_some() && state != by_variable {
        return Err(
            Failure::usage("`--output-dir -` keeps no state").hint("leave --state-dir out, or write to a folder")
        );
    }
    Ok((Target::Stdout, PathBuf::new()))
}

impl Partitions {
    fn resolve(self, count: u32) -> Result<Vec<u32>, Failure> {
        match self {
            Partitions::All => Ok((0..count).collect()),
            Partitions::Some(list) => match list.iter().find(|partition| **partition >= count) {
                None => Ok(list),
                Some(partition) => Err(Failure::usage(format!(
                    "partition {partition} does not exist: the pipeline has {count}, numbered from 0"
                ))),
            },
        }
    }
}

fn parse_partitions(text: &str) -> Result<Partitions, String> {
    if text == "all" {
        return Ok(Partitions::All);
    }
    let mut list = text
        .split(',')
        // What was given is quoted already, and cleaned.
        .map(|part| part.trim().parse().map_err(|_| "expected all, or numbers such as 0,1,3".to_owned()))
        .collect::<Result<Vec<u32>, String>>()?;
    list.sort_unstable();
    list.dedup();
    Ok(Partitions::Some(list))
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    // The one name that needs nobody to look it up.
    let address = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address = address.as_deref().unwrap_or(text).parse();
    address.map(Listen::At).map_err(|_| "expected an address such as 127.0.0.1:9464, or off".to_owned())
}

fn read_token(file: &Path) -> Result<Access, Failure> {
    let wrong =
        |why: &dyn Display| Failure::usage(format!("the token file {} (--listen-token): {why}", file.display()));
    // Whoever can write it can let himself in.
    let bytes = pelton_files::read_trusted(file, TOKEN_FILE_BYTES_MAX, Links::Follow).map_err(|error| wrong(&error))?;
    let token: Result<Token, _> = String::from_utf8_lossy(&bytes).trim().parse();
    token.map(Access::Token).map_err(|error| wrong(&error))
}

fn parse_holder(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > HOLDER_BYTES_MAX {
        return Err(format!("expected 1 to {HOLDER_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    let millis = super::when::parse_duration(text)?;
    u64::try_from(millis).map(Duration::from_millis).map_err(|_| "a wait is not negative".to_owned())
}

/// Where pipelines without `--state-dir` keep theirs: `pelton` in the user's state folder.
pub(super) fn state_home() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    let missing = || Failure::usage("there is no state folder: neither XDG_STATE_HOME nor HOME is set");
    Ok(home.ok_or_else(|| missing().hint("name one with --state-dir"))?.join("pelton"))
}

fn default_holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    format!("{}:{}", host.as_deref().map_or("host", str::trim), std::process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn partitions_are_sorted_and_bounded() {
        assert_eq!(parse_partitions("all"), Ok(Partitions::All));
        assert_eq!(parse_partitions("3, 0,3"), Ok(Partitions::Some(vec![0, 3])));
        assert!(parse_partitions("0,x").is_err() && parse_partitions("").is_err());
        assert_eq!(Partitions::All.resolve(3).unwrap(), [0, 1, 2]);
        assert!(Partitions::Some(vec![0, 3]).resolve(3).is_err());
    }

    #[test]
    fn a_token_is_read_and_a_wrong_one_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read_token(&file)
        };
        assert!(matches!(read("0123456789abcdef\n"), Ok(Access::Token(_))));
        for wrong in ["", "secret\n", "secret and more secret"] {
            let message = read(wrong).unwrap_err().to_string();
            assert!(message.contains("--listen-token") && !message.contains("secret"), "{message}");
        }
        assert!(read_token(folder.path()).unwrap_err().to_string().contains("a folder"));
        std::fs::write(&file, "0123456789abcdef").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read_token(&file).unwrap_err().to_string().contains("others may write"));
    }

    #[test]
    fn metrics_can_be_off() {
        assert_eq!(parse_listen("off"), Ok(Listen::Off));
        for text in ["127.0.0.1:9464", "localhost:9464"] {
            assert_eq!(parse_listen(text), Ok(Listen::At(LISTEN)), "{text}");
        }
        for text in ["9464", "localhost", "example.org:9464", "127.0.0.1:99999"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }
}
